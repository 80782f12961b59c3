"""Ports on Redis: records, sessions, progress, and what is told live."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol
from uuid import UUID

from growbin.budgets import Scope
from growbin.job import (
    Failure,
    Job,
    JobState,
    LogEntry,
    ModelAnswer,
    Result,
    Stage,
    Upload,
)
from growbin.ports.queue import Backlog
from growbin.rates import Admission, Holder, Rate


class JobRecords(Protocol):
    """Redis DB 0: what was promised to whom."""

    async def create(self, upload: Upload, idempotency_key: str | None) -> Upload:
        """Store a new upload, stamping times from Redis' clock; with a known idempotency key
        of this owner, return the earlier one instead. Raises Rejected(idempotency_key_reused)."""

    async def list_job(self, upload: Upload) -> None:
        """Put it at the head of its owner's list, unless it is there. Who reads the list reads the log."""

    async def get(self, job_id: UUID) -> Upload | None: ...

    async def mark_published(self, job: Job) -> None:
        """Its publish is confirmed: from now on the stamps of `job` stand, and the record is kept for its
        day."""

    async def erase(self, job_id: UUID) -> None: ...

    async def recent(self, owner: str, limit: int) -> Sequence[UUID]: ...

    async def newest(self, owners: Sequence[str]) -> Sequence[UUID | None]:
        """The first of each one's `recent`, in one round trip for all."""


class Sessions(Protocol):
    """Redis DB 3."""

    # A call costs one round trip: it is counted, and its session's life slides, as the session is looked up.
    # `address` is the hash of the caller's; the session then lives for `at_least_seconds`, and `new_job`
    # stands at the head of its list, unless the call is refused.

    async def create(
        self, address: str, rate: Rate, *, at_least_seconds: int = 0, new_job: UUID | None = None
    ) -> tuple[str, Admission]:
        """A new token, unless the rate refuses it; only its SHA-256 is stored."""

    async def look(
        self,
        token: str,
        address: str,
        rate: Rate,
        *,
        at_least_seconds: int = 0,
        new_job: UUID | None = None,
    ) -> Admission:
        """The session of a token. Where there is none, the call is counted for its address alone."""

    async def keep(self, owner: str) -> bool:
        """It has completed an upload: from now on 7 days slide. False when it lives no more."""

    async def end(self, owner: str) -> None:
        """Its token opens nothing any more, and its jobs are listed nowhere."""


@dataclass(frozen=True, slots=True)
class Started:
    """The lease is ours; `attempt` is its fencing token, `now_ms` the Redis clock at the start."""

    attempt: int
    starts: int
    now_ms: int
    answer: ModelAnswer | None


# held: another consumer works on it. suspect: its last holder died, run it alone.
# ended: nothing left to do. exhausted: every start is used up; crashed: and the last holder died.
Beginning = Started | Literal["held", "suspect", "ended", "exhausted", "crashed"]
Held = Literal["ours", "lost", "ended"]


@dataclass(frozen=True, slots=True)
class History:
    """A job's log after some id. `reset` when that id is not in the log: then `entries` is what
    follows the snapshot `state.entry`."""

    state: JobState
    entries: list[LogEntry]
    reset: bool


@dataclass(frozen=True, slots=True)
class BudgetSpent:
    """No call may be made for now: `scope` says whose budget is spent, `opens_at_ms` when it opens again."""

    scope: Scope
    opens_at_ms: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """By Redis' clock."""

    at_ms: int
    deadline_ms: int


# Or whose unfinished jobs are too many; over: it no longer waits for its upload.
Acceptance = Accepted | Holder | Literal["over"]

# refused: the job's calls are used up, or it is another's, or over. awaited: another job of the same owner
# asks the same just now. An answer: that is what it got.
Counting = Literal["counted", "refused", "awaited"] | BudgetSpent | ModelAnswer


# A job's progress, Redis DB 2: the truth about every job. One adapter implements what follows, a port for
# each kind of caller; every write is one atomic script.


class JobStates(Protocol):
    """What anybody asks."""

    async def state(self, job_id: UUID) -> JobState | None:
        """The job now; expires it first if it is due."""


class Endings(JobStates, Protocol):
    """What anybody asks who finds that a job has ended."""

    async def erase(self, job_id: UUID, owner: str) -> None:
        """End the job if it has not ended, remove its progress, leave a tombstone (a state that
        `is_erased`), and put the passes that remove the rest on the agenda, all at once. May be repeated."""


class ProgressReader(JobStates, Protocol):
    """What a stream asks."""

    async def history(self, job_id: UUID, after_id: str | None) -> History | None:
        """The log after `after_id`; expires the job first if it is due."""


class GatewayProgress(ProgressReader, Endings, Protocol):
    """What the gateway asks: it reads, begins a job's log, and ends a job that its owner drops."""

    async def open_job(self, upload: Upload, deadline_ms: int) -> None:
        """Append `awaiting_upload`, and let the owner's open streams know that its list has a new job."""

    async def accept_job(
        self, upload: Upload, *, session_most: int, address_most: int, deadline_seconds: int
    ) -> Acceptance:
        """Before its event is published: from now on no look ends the job with its ticket, and until it ends,
        or its deadline has passed, it is counted as unfinished. Where that is too many nothing is changed;
        to repeat it counts nothing twice, and begins its time anew."""

    async def queue_job(self, job: Job, backlog: Backlog | None = None) -> None:
        """Append `queued`, with its place when known, unless the consumer was faster."""

    async def cancel(self, job_id: UUID) -> bool:
        """True when this call ended the job."""

    async def mark_feedback(self, job_id: UUID) -> bool:
        """True the first time, for a job that is done."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """One pass of a deletion that is due. `is_repeated`: it was begun before, who knows how far."""

    job_id: UUID
    entry: str
    is_repeated: bool


class Agenda(Protocol):
    """Redis DB 2: the deletions that are not finished, due by Redis' clock."""

    async def claim(self, most: int) -> Sequence[Erasure]:
        """What is due, and nobody else's for a while. What is not `done` by then comes due again."""

    async def wipe(self, job_id: UUID) -> None:
        """Remove what was written of the job after its deletion, but not the tombstone."""

    async def done(self, erasure: Erasure) -> None: ...


class SessionJobs(Protocol):
    """What the gateway asks of many jobs at once."""

    async def states(self, job_ids: Sequence[UUID]) -> Sequence[JobState | None]:
        """Each job now, in one read for all of them; those that are due are expired first."""


class Leases(Protocol):
    """What a consumer asks before it works on a job, and again and again while it does."""

    async def begin(self, job: Job, *, alone: bool, call_id: str) -> Beginning:
        """Take the lease, count the start and announce `fetching`; expires the job if it is due. To repeat it
        with the same `call_id`, because the reply was lost, changes nothing."""

    async def renew(self, job: Job, attempt: int) -> Held: ...

    async def release(self, job: Job, attempt: int, *, refund: bool = False) -> None:
        """Give the lease back; `refund` uncounts a start that never got its chance."""


class PaidCalls(Protocol):
    """What is asked around a call of the model by the holder of a lease; `attempt` is its token."""

    async def count_paid_call(
        self, job: Job, attempt: int, call_id: str, same: str | None = None, *, is_fresh: bool = False
    ) -> Counting:
        """Announce `analysing`; record a paid call before it is made and reserve its budget, or neither. To
        repeat it with the same `call_id` changes nothing. `same` is the digest of all that an answer depends
        on: what another job of the owner has asked under it in the last seven days is not asked again, unless
        `is_fresh`."""

    async def uncount_paid_call(self, job: Job, attempt: int, call_id: str) -> None:
        """Nothing was paid: as if it had not been counted."""

    async def settle_paid_call(self, job: Job, call_id: str, cost_usd: float | None) -> None:
        """It is over without an answer to keep. None: nobody knows what it cost, so all that was reserved."""

    async def keep_answer(self, job: Job, attempt: int, answer: ModelAnswer, call_id: str) -> Held:
        """Store the raw answer if there is none, also a loser's: it was paid for. Not that of a deleted job,
        nor of an earlier run than the present one. What its call cost is settled in the same breath, and
        then `advising` announced."""


class AttemptProgress(Endings, Protocol):
    """What the holder of a lease asks. `attempt` is its token."""

    async def announce(self, job: Job, attempt: int, stage: Stage) -> Held:
        """Append a stage; refused (`lost`, `ended`) when the lease is another's or the job ended."""

    async def finish(self, job: Job, attempt: int | None, end: Result | Failure) -> Held:
        """Append `done` or `failed`, write the result and give the lease back; attempt None writes without
        one."""

    async def expire_if_due(self, job: Job) -> bool:
        """True when the job has ended, by this call or before."""


class ObituaryProgress(Endings, Protocol):
    """What the reader of obituaries asks; it holds no lease."""

    async def expire_if_due(self, job: Job) -> bool:
        """True when the job has ended, by this call or before."""

    async def lease_lives(self, job_id: UUID) -> bool: ...

    async def finish(self, job: Job, attempt: None, end: Failure) -> Held:
        """Append `failed` and write the result, without a lease."""

    async def fail_unreadable(self, job_id: UUID, code: str) -> None:
        """End a known job of which a dead letter gave only the id, in the language of its client."""


@dataclass(frozen=True, slots=True)
class EndedJob:
    """A job that is over, as an operator looks for it: `outcome` is the failure code, or the end's stage."""

    job_id: UUID
    outcome: str
    ended_at: str  # RFC 3339


class RedriveProgress(JobStates, Protocol):
    """What the command for dead letters asks."""

    async def reopen(self, job: Job, deadline_seconds: int) -> Job:
        """Begin a new run of a job that failed, or expired after it was accepted, tell its owner's open
        streams, and return its event. A kept answer that is no analysis is dropped. Raises
        Rejected(not_failed)."""

    def ended_jobs(self) -> AsyncIterator[EndedJob]:
        """Every job whose end is kept, in no order; one that ends meanwhile may be missing."""


@dataclass(frozen=True, slots=True)
class PartAway:
    """A part that consumers find away for everybody, `since` a moment of Redis' clock (RFC 3339)."""

    part: str
    since: str


# Which parts are away, Redis DB 2: consumers tell it, and who looks hears it.


class OutageReports(Protocol):
    """What a consumer tells while a breaker is open."""

    async def tell_away(self, part: str, away_seconds: float) -> None:
        """Holds for half a minute, then it must be told again. Since when: as the first has told it."""

    async def tell_back(self, part: str) -> None: ...


class Outages(Protocol):
    """What gateways and the doctor ask."""

    async def away(self, parts: Sequence[str]) -> Sequence[PartAway]:
        """Those of `parts` that are away, the longest away first."""


class ProgressFeed(Protocol):
    """Redis pub/sub: one connection for the whole gateway, whatever the number of streams."""

    async def request(self, job_id: UUID) -> None:
        """Ask for what `subscribe` then awaits."""

    async def subscribe(self, job_id: UUID) -> None:
        """Returns once the server has confirmed."""

    async def unsubscribe(self, job_id: UUID) -> None: ...

    async def subscribe_session(self, owner: str) -> None:
        """To hear of the owner's jobs that are new or driven again."""

    async def unsubscribe_session(self, owner: str) -> None: ...
