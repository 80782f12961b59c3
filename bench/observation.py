"""What it costs to be seen: CPU a job without metrics and logs, with them, and with traces as well.

    python -m bench.observation --rounds 20

Three clusters of one gateway and one consumer run on the same servers. They take turns, a batch of jobs each,
in an order that goes round, so that what the machine does besides meets all alike. Counted is the CPU time
of gateway and consumer, without the children that clean photos, which nobody observes. Each batch of the
observed ones has one scrape, as 15 s at two to three jobs a second have.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median, quantiles
from types import MethodType

import aiohttp
import psutil

from tests.faults.cluster import Cluster, Servers
from tests.faults.collector import Collector

UNOBSERVED, OBSERVED, TRACED = "no metrics, no logs", "metrics and logs", "and traces"
UNOBSERVED_PROGRAM = Path(__file__).with_name("unobserved.py")
WARM_UP_JOBS = 60
AT_ONCE = 10


def unobserved_command(program: object) -> Sequence[str]:
    return [sys.executable, str(UNOBSERVED_PROGRAM), program.name]  # type: ignore[attr-defined]  # a Part


async def begin(cluster: Cluster) -> None:
    """Start its processes anew, without their instruments."""
    for process in cluster.processes:
        await process.stop()
        process.part.command = MethodType(unobserved_command, process.part)  # type: ignore[method-assign]  # here alone
        await process.start()


async def do_jobs(cluster: Cluster, tag: str, number: int) -> None:
    for first in range(0, number, AT_ONCE):
        markers = [f"{tag}-{each}" for each in range(first, min(first + AT_ONCE, number))]
        jobs = await asyncio.gather(*(cluster.client.submit(marker) for marker in markers))
        for job in jobs:
            cluster.client.watch(job)
        await asyncio.gather(*(cluster.client.seen(job) for job in jobs))


async def scrape(cluster: Cluster) -> None:
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        for process in cluster.processes:
            await (await session.get(f"{process.probe_url}/metrics")).read()


def cpu_seconds(cluster: Cluster) -> list[float]:
    times = [psutil.Process(process.part.pid).cpu_times() for process in cluster.processes]
    return [time.user + time.system for time in times]


async def measure(cluster: Cluster, tag: str, jobs: int, *, is_scraped: bool) -> list[float]:
    """CPU milliseconds a job, of gateway and consumer."""
    before = cpu_seconds(cluster)
    await do_jobs(cluster, tag, jobs)
    if is_scraped:
        await scrape(cluster)
    return [(after - began) / jobs * 1000 for began, after in zip(before, cpu_seconds(cluster), strict=True)]


def report(spent: dict[str, list[list[float]]]) -> None:
    print("\n| | gateway ms | consumer ms | together ms |\n|---|---|---|---|")
    for name, rounds in spent.items():
        columns = [*zip(*rounds, strict=True), [sum(both) for both in rounds]]
        print(f"| {name} | " + " | ".join(spread(column, 1) for column in columns) + " |")
    print("\n| | ratio of the CPU a job, paired by round |\n|---|---|")
    for name, beside in ((OBSERVED, UNOBSERVED), (TRACED, OBSERVED)):
        ratios = [sum(one) / sum(other) for one, other in zip(spent[name], spent[beside], strict=True)]
        print(f"| {name}, beside {beside} | {spread(ratios, 3)} |")


def spread(values: Sequence[float], digits: int) -> str:
    """The median, with the quartiles."""
    low, _, high = quantiles(values, n=4)
    return f"{median(values):.{digits}f} [{low:.{digits}f}..{high:.{digits}f}]"


async def run(rounds: int, jobs: int) -> None:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        servers = await stack.enter_async_context(Servers.running(Path(folder)))
        collector = await stack.enter_async_context(Collector.running())
        clusters = {
            UNOBSERVED: await stack.enter_async_context(Cluster.running(servers)),
            OBSERVED: await stack.enter_async_context(Cluster.running(servers)),
            TRACED: await stack.enter_async_context(
                Cluster.running(servers, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
            ),
        }
        await begin(clusters[UNOBSERVED])
        for cluster in clusters.values():
            await do_jobs(cluster, "warm", WARM_UP_JOBS)
        spent: dict[str, list[list[float]]] = {name: [] for name in clusters}
        order = list(clusters)
        for number in range(rounds):
            for name in order:
                is_scraped = name is not UNOBSERVED
                spent[name].append(
                    await measure(clusters[name], f"round-{number}", jobs, is_scraped=is_scraped)
                )
            order = [*order[1:], order[0]]
            told = (f"{name} {spent[name][-1][0]:.1f} + {spent[name][-1][1]:.1f}" for name in clusters)
            print(f"round {number + 1}: " + ", ".join(told), flush=True)
        report(spent)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=40, help="in each batch")
    chosen = parser.parse_args()
    asyncio.run(run(chosen.rounds, chosen.jobs))
