"""Whether the counter of ends and the log tell what people saw, by outcome.

    async with CountedEnds.watching(cluster) as counted:
        ...
    await counted.look()                  # everything runs again
    counted.violations()

A counter dies with its process. So every process is scraped again and again, as Prometheus does, and the
last scrape of each life is held against the ends in that life's log until then; what the log tells beyond it
is what a kill took from the counter. All the logs together must name each end of each job, one for each run,
once and by its outcome. Only one whose writer was killed, frozen or cut off from Redis in that moment may be
missing: it had written the end and never heard of it. Only a deleted job, or one that Redis forgot, may have
an end that nobody was told of.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Container, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

import aiohttp
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.faults.instruments.journal import Journal
from tests.faults.instruments.oracle import TERMINAL, TrackedJob

if TYPE_CHECKING:
    from tests.faults.cluster import Cluster, Process

SCRAPE_PAUSE_SECONDS = 2.0
MOMENT_SECONDS = 1.0


@dataclass(frozen=True)
class End:
    """Of one job; `at` is time.time()."""

    job_id: str
    outcome: str
    at: float


@dataclass(frozen=True)
class Life:
    """The last scrape of one life of a process. Times are time.time()."""

    began: float
    asked: float
    answered: float
    counted: Counter[str]

    def known(self, ends: Iterable[End], until: float) -> Counter[str]:
        """The ends in its process' log that are of this life."""
        return Counter(end.outcome for end in ends if self.began <= end.at <= until)


class CountedEnds:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lives: dict[tuple[str, int], Life] = {}

    @classmethod
    @asynccontextmanager
    async def watching(cls, cluster: Cluster) -> AsyncIterator[Self]:
        counted = cls(cluster)

        async def watch() -> None:
            while True:
                await counted.look()
                await asyncio.sleep(SCRAPE_PAUSE_SECONDS)

        watching = asyncio.create_task(watch())
        try:
            yield counted
        finally:
            watching.cancel()
            await asyncio.wait([watching])

    async def look(self) -> None:
        """Scrape every process that answers."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SCRAPE_PAUSE_SECONDS)) as http:
            await asyncio.gather(*(self._scrape(http, process) for process in self._cluster.processes))

    async def _scrape(self, http: aiohttp.ClientSession, process: Process) -> None:
        with suppress(aiohttp.ClientError, TimeoutError, psutil.NoSuchProcess):
            pid = process.part.pid
            if pid is None:
                return
            began, asked = began_at(pid), time.time()
            async with http.get(f"{process.probe_url}/metrics") as answer:
                text = await answer.text()
            if process.part.pid == pid:
                self._lives[process.name, pid] = Life(began, asked, time.time(), ends_counted(text))

    def violations(self) -> list[str]:
        logged = self._logged()
        wrong = [
            f"{name} counted {dict(life.counted)} and logged {dict(before)} to {dict(after)}"
            for (name, _pid), life in self._lives.items()
            for before, after in [
                (life.known(logged[name], life.asked), life.known(logged[name], life.answered))
            ]
            if not before <= life.counted <= after
        ]
        unanswered = {
            job_id for process in self._cluster.processes for job_id in calls_unanswered(process.log)
        }
        jobs, journal = self._cluster.ledger.jobs.values(), self._cluster.journal
        again = sum((ends_written_again(process.log) for process in self._cluster.processes), Counter[str]())
        return wrong + mislogged(jobs, logged, journal, unanswered, again)

    @property
    def lines(self) -> list[str]:
        """For people: each outcome, and who knows how many of it."""
        jobs = self._cluster.ledger.jobs.values()
        told = by_job(self._logged())
        seen = Counter(end.outcome for job in jobs for end in ends_seen(job))
        logged = Counter(line.outcome for lines in told.values() for line in lines)
        counted = sum((life.counted for life in self._lives.values()), Counter[str]())
        unheard, untold = Counter[str](), Counter[str]()
        for job in jobs:
            missing, left = differences(job, told.get(job.job_id, []))
            unheard.update(end.outcome for end in missing)
            untold.update(line.outcome for line in left)
        return [
            f"{outcome} {seen[outcome]}: {counted[outcome]} counted, {logged[outcome] - counted[outcome]} "
            f"between a scrape and a kill, {unheard[outcome]} never heard of by their writer"
            + (f"; {untold[outcome]} of them told to nobody" if untold[outcome] else "")
            for outcome in sorted(seen | logged)
        ]

    def _logged(self) -> dict[str, list[End]]:
        return {process.name: ends_logged(process.log) for process in self._cluster.processes}


def began_at(pid: int) -> float:
    """As time.time(). Linux counts from its own beginning, of which psutil knows the second alone."""
    began: float = psutil.Process(pid).create_time()
    if sys.platform != "linux":
        return began
    booted: float = psutil.boot_time()
    return began - booted + time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def ends_counted(text: str) -> Counter[str]:
    """What /metrics tells."""
    return Counter(
        {
            sample.labels["outcome"]: int(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "growbin_jobs_ended_total" and sample.value
        }
    )


def ends_logged(log: str) -> list[End]:
    told = (json.loads(line) for line in log.splitlines() if '"job_ended"' in line)
    return [
        End(said["job_id"], said["outcome"], datetime.fromisoformat(said["timestamp"]).timestamp())
        for said in told
    ]


def ends_seen(job: TrackedJob) -> list[End]:
    """One for each of its runs: by its streams, and of a job whose 202 got lost by who read it at last."""
    said = [event.data for stream in job.streams for event in stream.events if event.ends]
    found = set()
    for data in [*said, job.final or {}]:
        if data.get("stage") in TERMINAL:
            code = (data.get("failure") or {}).get("code")
            ended = datetime.fromisoformat(data["updated_at"]).timestamp()
            found.add(End(job.job_id, code or data["stage"], ended))
    return sorted(found, key=lambda end: end.at)


def by_job(logged: Mapping[str, Iterable[End]]) -> dict[str, list[End]]:
    told: dict[str, list[End]] = {}
    for ends in logged.values():
        for end in ends:
            told.setdefault(end.job_id, []).append(end)
    return told


def differences(job: TrackedJob, lines: Iterable[End]) -> tuple[list[End], list[End]]:
    """The ends that were seen and no line tells, and the lines of ends that nobody saw. When they were
    written is not held against them: who did not hear of it at once asks again, and logs it then."""
    unlogged, unseen = [], list(lines)
    for end in ends_seen(job):
        outcomes = {end.outcome}
        if (job.accepted_at is None or job.is_acceptance_forgotten) and end.outcome == "expired":
            outcomes.add("not_uploaded")  # its owner is told the same
        line = next((line for line in unseen if line.outcome in outcomes), None)
        if line is None:
            unlogged.append(end)
        else:
            unseen.remove(line)
    return unlogged, unseen


def calls_unanswered(log: str) -> set[str]:
    """The jobs for which a gateway gave up waiting for Redis: what it asked for may have been done."""
    told = (json.loads(line) for line in log.splitlines() if '"part_unavailable"' in line)
    return {said["job_id"] for said in told if said["part"] == "redis" and "job_id" in said}


def ends_written_again(log: str) -> Counter[str]:
    """Of how many ends of each job it says so: they were counted the first time."""
    told = (json.loads(line) for line in log.splitlines() if '"end_written_again"' in line)
    return Counter(said["job_id"] for said in told)


def mislogged(
    jobs: Iterable[TrackedJob],
    logged: Mapping[str, Iterable[End]],
    journal: Journal,
    unanswered: Container[str] = (),
    again: Mapping[str, int] = MappingProxyType({}),
) -> list[str]:
    """Ends that were logged twice, by another outcome, or not at all though nothing befell their writer,
    no call about the job stayed `unanswered`, and none was written `again`."""
    told = by_job(logged)
    writers = [name for process in logged for name in (process, f"redis of {process}")]
    booted = time.time() - time.monotonic()

    def is_hurt(began: float, ended: float) -> bool:
        """A writer, between two moments of time.monotonic()."""
        return bool(journal.during([*writers, "valkey"], began - MOMENT_SECONDS, ended + MOMENT_SECONDS))

    wrong = []
    for job in jobs:
        lines, seen = told.pop(job.job_id, []), ends_seen(job)
        unlogged, unseen = differences(job, lines)
        unlogged = unlogged[again.get(job.job_id, 0) :]
        may_be_unseen = job.delete_asked_at is not None or job.was_destroyed
        most_unseen = max(0, job.run + len(job.destroyed) - len(seen)) if may_be_unseen else 0
        is_missing = any(not is_hurt(end.at - booted, end.at - booted) for end in unlogged)
        if job.accepted_at and job.deleted_at and not (lines or seen or job.was_destroyed):
            is_missing = not is_hurt(job.accepted_at, job.deleted_at)
        if (is_missing and job.job_id not in unanswered) or len(unseen) > most_unseen:
            ended, said = ([end.outcome for end in ends] for ends in (seen, lines))
            what = "was deleted after" if job.deleted_at else "ended"
            wrong.append(f"{job.job_id} {what} {ended}, and the logs say {said}")
    return wrong + [f"{job_id} is nobody's, and the logs tell its end" for job_id in told]
