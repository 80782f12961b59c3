"""What it costs to be seen: a job's CPU without metrics and logs, with them, and with traces as well.

All three are growbin, on the same servers and at the same time, each in a closed loop of its own: their jobs
alternate one by one, so that what the machine does besides, it does to all alike. CPU is user and system of
gateway and consumer, without the children that clean photos, which nobody observes; `threads` of it send
traces. The seen ones are scraped once for each 40 jobs, as 15 s at two to three jobs a second have. The
collector counts what it is sent.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bench.instruments import OURS, Cpu, Dose, Program, Round, Wanted, dose_of, growbin, parser_of, report
from bench.system import HOST, SMALL, Client, System
from growbin.local.child import draw_port
from tests.loopback import served

UNSEEN, SEEN, TRACED = "no metrics, no logs", "metrics and logs", "traces as well"
ROUNDS = 12
JOBS, QUICK_JOBS, WARM_UP_JOBS = 120, 40, 40  # of each
IN_FLIGHT = 4  # of each
JOBS_A_SCRAPE = 40
MODEL_SECONDS = 0.2
SETTLE_SECONDS = 6.0  # what is sent of traces is sent within five

TOTAL, WITHOUT = "CPU ms a job", "without"
WANTED = (Wanted(TOTAL, 1.05, WITHOUT, SEEN), Wanted(TOTAL, 1.15, WITHOUT, TRACED))


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    name: str
    client: Client
    gateway: Program
    consumer: Program

    @property
    def programs(self) -> tuple[Program, Program]:
        return self.gateway, self.consumer


@dataclass
class Collector:
    spans: int = 0

    async def take(self, request: web.Request) -> web.Response:
        told = ExportTraceServiceRequest.FromString(await request.read())
        self.spans += sum(len(scope.spans) for one in told.resource_spans for scope in one.scope_spans)
        return web.Response(content_type="application/x-protobuf")


async def run(dose: Dose) -> bool:
    collector = Collector()
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_post("/v1/traces", collector.take)
    rounds, photo = list[Round](), SMALL.drawn()
    async with (
        served(app) as url,
        System.running(model_seconds=MODEL_SECONDS) as system,
        design(UNSEEN, system) as unseen,
        design(SEEN, system) as seen,
        design(TRACED, system, OTEL_EXPORTER_OTLP_ENDPOINT=url) as traced,
    ):
        designs = (unseen, seen, traced)
        await measure(designs, system, photo, WARM_UP_JOBS)
        collector.spans, jobs = 0, QUICK_JOBS if dose.is_quick else JOBS
        for number in range(dose.rounds):
            # Whose jobs begin first pays up to 4 % more: another each round.
            first = number % len(designs)
            order = (*designs[first:], *designs[:first])
            told = dict(zip(order, await measure(order, system, photo, jobs), strict=True))
            spent = [told[one] for one in designs]
            print(spent, file=sys.stderr, flush=True)
            rounds += beside_each_other(*spent)
        print(f"{collector.spans / jobs / dose.rounds:.1f} spans a job")
    return report("observation", rounds, WANTED, dose.folder)


def beside_each_other(
    unseen: dict[str, float], seen: dict[str, float], traced: dict[str, float]
) -> list[Round]:
    """What is seen is compared with what is not, and what is traced with what is seen."""
    return [
        Round(SEEN, WITHOUT, unseen),
        Round(SEEN, OURS, seen),
        Round(TRACED, WITHOUT, seen),
        Round(TRACED, OURS, traced),
    ]


@asynccontextmanager
async def design(name: str, system: System, **chosen: str) -> AsyncIterator[Design]:
    """A gateway and a consumer on a queue of their own."""
    port = str(draw_port())
    settings = {**system.settings, **chosen, "PORT": port, "QUEUE_NAME": f"bench.{port}"}
    words = {
        role: [sys.executable, "-m", "bench.unobserved", role] if name == UNSEEN else ()
        for role in ("gateway", "consumer")
    }
    async with (
        growbin("gateway", settings, words["gateway"]) as gateway,
        growbin("consumer", settings, words["consumer"]) as consumer,
    ):
        yield Design(name, Client(system.http, f"http://{HOST}:{port}"), gateway, consumer)


async def measure(
    designs: Sequence[Design], system: System, photo: bytes, jobs: int
) -> list[dict[str, float]]:
    """What each of the designs has spent on so many jobs."""
    tokens = {one.name: [await one.client.session() for _ in range(jobs)] for one in designs}
    await asyncio.sleep(SETTLE_SECONDS)
    before = [[program.cpu() for program in one.programs] for one in designs]
    async with asyncio.TaskGroup() as group:
        for one in designs:
            group.create_task(one.client.do_many(tokens[one.name], photo, IN_FLIGHT))
    for one in designs:
        if one.name != UNSEEN:
            await scrape(one, system, jobs // JOBS_A_SCRAPE)
    await asyncio.sleep(SETTLE_SECONDS)
    after = [[program.cpu() for program in one.programs] for one in designs]
    return [
        figures(*(now - then for now, then in zip(last, first, strict=True)), jobs=jobs)
        for last, first in zip(after, before, strict=True)
    ]


async def scrape(design: Design, system: System, times: int) -> None:
    for program in design.programs * times:
        port = program.process.environ()["PROBE_PORT"]
        async with system.http.get(f"http://{HOST}:{port}/metrics") as answer:
            await answer.read()


def figures(gateway: Cpu, consumer: Cpu, *, jobs: int) -> dict[str, float]:
    spent = {
        TOTAL: gateway.own + consumer.own,
        "gateway": gateway.own,
        "consumer": consumer.own,
        "threads": gateway.other_threads + consumer.other_threads,
    }
    return {name: seconds / jobs * 1000 for name, seconds in spent.items()}


if __name__ == "__main__":
    chosen = dose_of(parser_of(__doc__, ROUNDS).parse_args(), ROUNDS)
    sys.exit(0 if asyncio.run(run(chosen)) else 1)
