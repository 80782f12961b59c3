"""Why a job did not end `done`: who held it at each attempt, and what befell the holder and the calls.

The consumers' logs say who began which job when, and what they gave as a reason; the journal says what was
done to them; Redis says how many starts and paid calls it has counted. A job that failed without all of its
starts or calls hit is a defect of ours, not of the harm.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from tests.faults.instruments.allowance import excuses
from tests.faults.instruments.journal import Journal, Trouble
from tests.faults.instruments.oracle import TrackedJob, outcome
from tests.faults.model import Call
from tests.faults.surgery import PROGRESS, attempts_of, database

if TYPE_CHECKING:
    from tests.faults.cluster import Cluster

LINKS = ("redis", "model", "s3", "amqp")
# A trouble that was over just before may still be felt: a server that came back is caught up with.
AFTERMATH_SECONDS = 2.0
# For so long a consumer knows an end that Redis may have forgotten, and writes it again.
KNOWN_SECONDS = 10.0
# Before its deadline: what is begun then can hardly be done where a call takes up to 1.5 s, and a busy
# machine takes its time besides.
TOO_LATE_SECONDS = 5.0


@dataclass
class Holding:
    """One attempt, as its consumer's log tells it. Times are `time.monotonic()`."""

    consumer: str
    attempt: int
    began: float
    reasons: list[str] = field(default_factory=list)  # what the consumer said about the job meanwhile
    done_at: float | None = None
    befell: Trouble | None = None

    def __str__(self) -> str:
        if self.befell is not None:
            after = max(0.0, self.befell.began - self.began)
            why = f"{self.befell.kind} of {self.befell.target} after {after:.1f} s"
        else:
            why = " | ".join(list(dict.fromkeys(self.reasons))[-2:]) or "nothing is known"
        return f"attempt {self.attempt} on {self.consumer}: {why}"


@dataclass(frozen=True)
class Inquest:
    job: TrackedJob
    holdings: list[Holding]
    starts: int = 0  # as Redis counts them
    counted: int = 0  # paid calls, as Redis counts them
    calls: list[str] = field(default_factory=list)  # that the model saw: what hit each; "" for none
    max_starts: int = 4
    max_paid_calls: int = 3

    @property
    def cause(self) -> str | None:
        """Of the kinds for which a job need not be done; None when it is none of them."""
        code = outcome(self.job)
        if self.job.accepted_at is None:
            return "never promised" if self.job.refusal else None
        if code == "failed: model_answer_invalid":
            return "nonsense of the model"
        if code in ("failed: crashed", "failed: temporarily_unavailable") and self._is_each_hurt:
            if self.starts >= self.max_starts:
                return "all its holders lost"
            if self._is_each_call_hit:
                return "all its calls hit"
        if code == "expired" and any(item.done_at for item in self.holdings):
            # What was done once is done again, unless whoever did it was killed meanwhile.
            was_killed = all(item.befell for item in self.holdings if item.done_at)
            return "done, its holder killed and its end forgotten by Redis" if was_killed else None
        if self.job.was_destroyed:
            return "forgotten by Redis"
        return "its time used up by holders lost" if code == "expired" and self._is_each_hurt else None

    @property
    def _is_each_hurt(self) -> bool:
        return bool(self.holdings) and all(item.befell or item.reasons for item in self.holdings)

    @property
    def _is_each_call_hit(self) -> bool:
        """A call that was counted and never came to the model was its holder's last act, or its link's."""
        unseen = self.counted - len(self.calls)
        is_full = self.counted >= self.max_paid_calls
        return (
            is_full and all(self.calls) and unseen <= sum(item.befell is not None for item in self.holdings)
        )

    def __str__(self) -> str:
        told = "; ".join(map(str, self.holdings)) or "no consumer began it"
        calls = ", ".join(hit or "unhurt" for hit in self.calls) or "none"
        counted = f"{self.starts} starts, {self.counted} calls counted, seen: {calls}"
        return f"{self.job.marker} {self.job.job_id} {outcome(self.job)}: {told} ({counted})"


async def inquests(cluster: Cluster) -> list[Inquest]:
    """One for each job that is not done and whose owner wished nothing else."""
    undone = [job for job in cluster.ledger.jobs.values() if outcome(job) != "done"]
    jobs = {job.job_id: job for job in undone if job.cancel_asked_at is None}
    logs = {process.name: process.log.splitlines() for process in cluster.consumers}
    found = []
    for job, held in holdings_of(jobs, logs, cluster.journal):
        counts = await attempts_of(cluster, job)
        found.append(
            Inquest(
                job,
                held,
                counts.get("starts", 0),
                counts.get("paid", 0),
                hits_of(_calls_of_latest_run(cluster, job), cluster.journal),
                int(cluster.settings.get("MAX_STARTS", "4")),
                int(cluster.settings.get("MAX_PAID_CALLS", "3")),
            )
        )
    return found


async def calls_overcounted(cluster: Cluster) -> AsyncIterator[str]:
    """Of every job whose record is whole: each paid call that Redis counts was made."""
    consumers = [process.name for process in cluster.consumers]
    async with database(cluster, PROGRESS) as progress:
        for job in cluster.ledger.jobs.values():
            if job.is_promised and not job.was_destroyed:
                counted = int(await progress.hget(f"job:{{{job.job_id}}}:attempts", "paid") or 0)
                seen = len(_calls_of_latest_run(cluster, job))
                for wrong in overcounted(job, counted, seen, cluster.journal, consumers):
                    yield wrong


def overcounted(
    job: TrackedJob, counted: int, seen: int, journal: Journal, consumers: Iterable[str]
) -> Iterator[str]:
    """A call is counted once, whatever becomes of Redis' answers: only a blow to its consumer, or the link,
    keeps one that was counted from the model."""
    ways = [way for consumer in consumers for way in (consumer, f"model of {consumer}")]
    until = job.end.at if job.end else time.monotonic()
    if counted > seen and not journal.during(ways, job.ticketed_at or 0, until):
        yield f"I3 {job.marker} {job.job_id}: {counted} calls are counted, and {seen} came to the model"


def _calls_of_latest_run(cluster: Cluster, job: TrackedJob) -> list[Call]:
    """A redrive begins with starts and calls anew."""
    began = job.redriven_at[-1] if job.redriven_at else float("-inf")
    return [call for call in cluster.model.calls_of(job.marker) if call.began > began]


def hits_of(calls: Iterable[Call], journal: Journal) -> list[str]:
    """What hit each call: a blow, or the model's own error; "" for one that was answered in peace."""
    hits = []
    for call in calls:
        blows = [f"{excuse.blow.kind} of {excuse.blow.target}" for excuse in excuses([call], journal)]
        error = [] if call.status in (None, 200) else [f"status {call.status}"]
        hits.append(" and ".join(blows + error))
    return hits


def holdings_of(
    jobs: Mapping[str, TrackedJob], logs: Mapping[str, Iterable[str]], journal: Journal
) -> list[tuple[TrackedJob, list[Holding]]]:
    """Who held each job, in the order of time; `jobs` by their ids, `logs` by the consumers' names."""
    booted = time.time() - time.monotonic()
    found: dict[str, list[Holding]] = {job_id: [] for job_id in jobs}
    for consumer, lines in logs.items():
        present: dict[str, Holding] = {}
        for line in lines:
            said = json.loads(line) if '"job_id"' in line else {}
            job_id = str(said.get("job_id"))
            if job_id not in jobs:
                continue
            if said["event"] == "job_begun":
                began = datetime.fromisoformat(said["timestamp"]).timestamp() - booted
                present[job_id] = Holding(consumer, said["attempt"], began)
                found[job_id].append(present[job_id])
            elif said["event"] == "job_ended" and said["outcome"] == "done" and job_id in present:
                present[job_id].done_at = datetime.fromisoformat(said["timestamp"]).timestamp() - booted
            elif "reason" in said and job_id in present:
                present[job_id].reasons.append(f"{said['event']}: {said['reason']}")
    told = []
    for job_id, job in jobs.items():
        held = sorted(found[job_id], key=lambda holding: holding.began)
        last = job.end.at if job.end else time.monotonic()
        for holding, ended in zip(held, [*(item.began for item in held[1:]), last], strict=False):
            if holding.done_at is None:
                holding.befell = _first_trouble(journal, holding, ended)
            else:
                holding.befell = _last_kill(journal, holding)
        if (
            job.end
            and job.end.name == "expired"
            and len(held) > 1
            and held[-1].began > last - TOO_LATE_SECONDS
        ):
            # What befell the holders before has taken its time, and so has its turn to run alone.
            held[-1].reasons.append(f"begun {last - held[-1].began:.1f} s before its deadline")
        told.append((job, held))
    return told


def _first_trouble(journal: Journal, holding: Holding, ended: float) -> Trouble | None:
    """The holder's own trouble, else one of its links or of Redis."""
    own = journal.during([holding.consumer], holding.began, ended)
    links = (f"{link} of {holding.consumer}" for link in LINKS)
    others = journal.during([*links, "valkey"], holding.began - AFTERMATH_SECONDS, ended)
    # What began before was its start after an earlier kill: it holds nothing from before that.
    return next((trouble for trouble in own if trouble.began >= holding.began), next(iter(others), None))


def _last_kill(journal: Journal, holding: Holding) -> Trouble | None:
    """Of its consumer, before that may have written again what it had done."""
    assert holding.done_at is not None
    since, until = holding.done_at, holding.done_at + KNOWN_SECONDS
    own = journal.during([holding.consumer], since, until)
    return next((trouble for trouble in own if trouble.kind in ("kill", "stop")), None)
