"""Whether the counter of ends and the log tell what people saw, by outcome.

    async with CountedEnds.watching(cluster) as counted:
        ...
    await counted.look()                  # everything runs again
    counted.violations()

A counter dies with its process. So every process is scraped again and again, as Prometheus does, and the
last scrape of each life is held against the ends in that life's log until then; what the log tells beyond it
is what a kill took from the counter. All the logs together must name each job's end, once and by its outcome.
Only one whose writer was killed, frozen or cut off from Redis in that moment may be missing: it had written
the end and never heard of it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
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
            began, asked = psutil.Process(pid).create_time(), time.time()
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
        return wrong + mislogged(self._seen(), logged, self._cluster.journal)

    @property
    def lines(self) -> list[str]:
        """For people: each outcome, and who knows how many of it."""
        seen = Counter(end.outcome for end in self._seen())
        logged = Counter(end.outcome for ends in self._logged().values() for end in ends)
        counted = sum((life.counted for life in self._lives.values()), Counter[str]())
        return [
            f"{outcome} {seen[outcome]}: {counted[outcome]} counted, {logged[outcome] - counted[outcome]} "
            f"between a scrape and a kill, {seen[outcome] - logged[outcome]} never heard of by their writer"
            for outcome in sorted(seen | logged)
        ]

    def _seen(self) -> list[End]:
        return ends_seen(self._cluster.ledger.jobs.values())

    def _logged(self) -> dict[str, list[End]]:
        return {process.name: ends_logged(process.log) for process in self._cluster.processes}


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


def ends_seen(jobs: Iterable[TrackedJob]) -> list[End]:
    """By their clients, and of jobs whose 202 got lost by who read them at last."""
    found = []
    for job in jobs:
        said = job.end.data if job.end else job.final or {}
        if said.get("stage") in TERMINAL:
            code = (said.get("failure") or {}).get("code")
            ended = datetime.fromisoformat(said["updated_at"]).timestamp()
            found.append(End(job.job_id, code or said["stage"], ended))
    return found


def mislogged(seen: Iterable[End], logged: Mapping[str, Iterable[End]], journal: Journal) -> list[str]:
    """Ends that were logged twice, by another outcome, or not at all though nothing befell their writer."""
    told: dict[str, list[str]] = {}
    for name, ends in logged.items():
        for end in ends:
            told.setdefault(end.job_id, []).append(f"{end.outcome} by {name}")
    writers = [name for process in logged for name in (process, f"redis of {process}")]
    booted = time.time() - time.monotonic()
    wrong = []
    for end in seen:
        lines, at = told.pop(end.job_id, []), end.at - booted
        befell = journal.during([*writers, "valkey"], at - MOMENT_SECONDS, at + MOMENT_SECONDS)
        is_right = len(lines) == 1 and lines[0].startswith(f"{end.outcome} by ")
        if not is_right and (lines or not befell):
            wrong.append(f"{end.job_id} ended {end.outcome}, and the logs say {lines}")
    return wrong + [f"{job_id} has no end, and the logs say {lines}" for job_id, lines in told.items()]
