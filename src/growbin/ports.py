"""The outside world on one screen. Each port is made for one kind of caller and has one real adapter; where
tests have a fake of it, both pass the same contract suite. Every call may raise `Unavailable`; what else it
raises stands here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from uuid import UUID

from growbin.job import (
    CleanPhoto,
    ContentType,
    Failure,
    FetchedPhoto,
    Job,
    JobState,
    Locale,
    LogEntry,
    ModelAnswer,
    Result,
    Stage,
    StoredUpload,
    Upload,
)
from growbin.rates import Admission, Holder, Rate


@dataclass(frozen=True, slots=True)
class Ticket:
    """The presigned permission to upload one photo."""

    url: str
    headers: dict[str, str]


class UploadStore(Protocol):
    """S3."""

    async def ticket(
        self, key: str, content_type: str | None, content_length: int | None, expires_seconds: int
    ) -> Ticket:
        """Presign a PUT. What is declared is bound into the signature, with `If-None-Match: *`."""

    async def look(self, key: str) -> StoredUpload | None:
        """What lies under `key` (one ranged read), or None when there is nothing."""

    async def delete(self, key: str) -> None: ...

    async def publish_photo(self, key: str, photo: CleanPhoto, cache_seconds: int) -> None:
        """Put the clean copy in its public place."""


class PhotoCache(Protocol):
    """What the CDN keeps of public photos."""

    async def forget(self, key: str) -> None:
        """Within a minute the CDN serves the photo no more."""


class PhotoSource(Protocol):
    """CDN first, then S3."""

    async def fetch(self, key: str, etag: str, length: int) -> FetchedPhoto:
        """Raises JobFailed(photo_missing | photo_changed)."""


class PhotoCleaner(Protocol):
    async def clean(self, data: bytes, target: ContentType) -> CleanPhoto:
        """Hygiene in a child process. Raises JobFailed(unsupported_photo | photo_too_complex)."""


class Analyst(Protocol):
    """The vision model."""

    async def ask(self, photo: CleanPhoto, question: str | None, locale: Locale) -> ModelAnswer:
        """At most one paid answer. Raises Throttled (nothing was paid), Unavailable (perhaps paid),
        JobFailed(model_refused | model_answer_invalid)."""


class JobRecords(Protocol):
    """Redis DB 0: what was promised to whom."""

    async def create(self, upload: Upload, idempotency_key: str | None) -> Upload:
        """Store a new upload, stamping times from Redis' clock; with a known idempotency key
        of this owner, return the earlier one instead. Raises Rejected(idempotency_key_reused)."""

    async def list_job(self, upload: Upload) -> None:
        """Put it at the head of its owner's list, unless it is there. Who reads the list reads the log."""

    async def get(self, job_id: UUID) -> Upload | None: ...

    async def accept(self, job_id: UUID, etag: str, length: int, content_type: ContentType) -> Upload | None:
        """Stamp ETag, accepted_at and deadline, unless a publish was confirmed: then unchanged. From now on
        the record is kept for its day."""

    async def mark_published(self, job_id: UUID) -> None: ...

    async def erase(self, job_id: UUID) -> None: ...

    async def recent(self, owner: str, limit: int) -> Sequence[UUID]: ...


class Sessions(Protocol):
    """Redis DB 3."""

    # A call costs one round trip: it is counted, and its session's life slides, as the session is looked up.
    # `address` is the hash of the caller's; the session then lives for `at_least_seconds`.

    async def create(self, address: str, rate: Rate, *, at_least_seconds: int = 0) -> tuple[str, Admission]:
        """A new token, unless the rate refuses it; only its SHA-256 is stored."""

    async def look(self, token: str, address: str, rate: Rate, *, at_least_seconds: int = 0) -> Admission:
        """The session of a token. Where there is none, the call is counted for its address alone."""

    async def keep(self, owner: str) -> bool:
        """It has completed an upload: from now on 7 days slide. False when it lives no more."""


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


# A job's progress, Redis DB 2: the truth about every job. One adapter implements what follows, a port for
# each kind of caller; every write is one atomic script.


class JobStates(Protocol):
    """What anybody asks."""

    async def state(self, job_id: UUID) -> JobState | None:
        """The job now; expires it first if it is due."""


class ProgressReader(JobStates, Protocol):
    """What a stream asks."""

    async def history(self, job_id: UUID, after_id: str | None) -> History | None:
        """The log after `after_id`; expires the job first if it is due."""


class GatewayProgress(ProgressReader, Protocol):
    """What the gateway asks: it reads, begins a job's log, and ends a job that its owner drops."""

    async def open_job(self, upload: Upload, deadline_ms: int) -> None:
        """Append `awaiting_upload`."""

    async def queue_job(self, job: Job, backlog: Backlog | None = None) -> None:
        """Append `queued`, with its place when known, unless the consumer was faster."""

    async def cancel(self, job_id: UUID) -> bool:
        """True when this call ended the job."""

    async def mark_feedback(self, job_id: UUID) -> bool:
        """True the first time, for a job that is done."""

    async def erase(self, job_id: UUID, owner: str) -> None:
        """End the job if it has not ended, remove all that is known of it, and leave a tombstone:
        a state that `is_erased`."""


class SessionJobs(Protocol):
    """What the gateway asks of many jobs at once."""

    async def states(self, job_ids: Sequence[UUID]) -> Sequence[JobState | None]:
        """Each job now, in one read for all of them; those that are due are expired first."""

    async def admit(
        self, upload: Upload, *, session_most: int, address_most: int, deadline_seconds: int
    ) -> Holder | None:
        """Count the job as unfinished until it ends, or its deadline has passed. Returns who has too many
        already, and counts nothing then; to repeat it changes nothing."""


class Leases(Protocol):
    """What a consumer asks before it works on a job, and again and again while it does."""

    async def begin(self, job: Job, *, alone: bool, call_id: str) -> Beginning:
        """Take the lease and count the start; expires the job if it is due. To repeat it with the same
        `call_id`, because the reply was lost, changes nothing."""

    async def renew(self, job: Job, attempt: int) -> Held: ...

    async def release(self, job: Job, attempt: int, *, refund: bool = False) -> None:
        """Give the lease back; `refund` uncounts a start that never got its chance."""


class AttemptProgress(JobStates, Protocol):
    """What the holder of a lease asks. `attempt` is its token."""

    async def announce(self, job: Job, attempt: int, stage: Stage) -> Held:
        """Append a stage; refused (`lost`, `ended`) when the lease is another's or the job ended."""

    async def count_paid_call(
        self, job: Job, attempt: int, call_id: str, *, change: Literal[1, -1] = 1
    ) -> bool:
        """Record a paid call before it is made (or take it back); False when all are used up. To repeat
        it with the same `call_id` changes nothing."""

    async def keep_answer(self, job: Job, answer: ModelAnswer) -> None:
        """Store the raw answer if there is none, also a loser's: it was paid for. Not that of a deleted job,
        nor of an earlier run than the present one."""

    async def finish(self, job: Job, attempt: int | None, end: Result | Failure) -> Held:
        """Append `done` or `failed` and write the result; attempt None writes without a lease."""

    async def expire_if_due(self, job: Job) -> bool:
        """True when the job has ended, by this call or before."""


class ObituaryProgress(Protocol):
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
        """Begin a new run of a job that failed, or expired after it was accepted, and return its event. A
        kept answer that is no analysis is dropped. Raises Rejected(not_failed)."""

    def ended_jobs(self) -> AsyncIterator[EndedJob]:
        """Every job whose end is kept, in no order; one that ends meanwhile may be missing."""


@dataclass(frozen=True, slots=True)
class Ack:
    """The delivery is finished."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Bring the job again after one of the delay steps."""

    delay_seconds: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Park the delivery for people; its obituary ends the job if nothing else did."""

    reason: str


@dataclass(frozen=True, slots=True)
class HandBack:
    """Give the untouched delivery back at shutdown."""


Verdict = Ack | Retry | DeadLetter | HandBack


# How long a job waits before its second start, its third, and so on: the queue has a step for each.
RETRY_DELAYS_SECONDS = (1, 5, 15, 60)

Handler = Callable[[Job], Coroutine[Any, Any, Verdict]]


@dataclass(frozen=True, slots=True)
class Obituary:
    """A dead letter: its job, or what little of it could be read, and why it died."""

    job_id: UUID | None
    job: Job | None
    reason: str


@dataclass(frozen=True, slots=True)
class Letter:
    """A parked dead letter. `job` is None when its body is no event of ours."""

    job_id: UUID | None
    job: Job | None
    reason: str
    parked_at: str | None
    body: bytes


ObituaryHandler = Callable[[Obituary], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in the main queue, and how fast it is worked off when the broker knows."""

    waiting: int
    per_second: float | None = None

    @property
    def position(self) -> int:
        """Of the job that comes next."""
        return self.waiting + 1

    @property
    def wait_seconds(self) -> int | None:
        return round(self.position / self.per_second) if self.per_second else None


class JobQueue(Protocol):
    """RabbitMQ."""

    async def publish(self, job: Job) -> None:
        """Returns once a quorum queue has confirmed. Raises Unavailable: perhaps sent, perhaps not."""

    async def backlog(self) -> Backlog | None:
        """What waits, at most a second old; None when unknown."""

    def consuming(
        self,
        handle: Handler,
        handle_obituary: ObituaryHandler,
        *,
        concurrency: Callable[[], int],
        grace_seconds: float,
    ) -> AbstractAsyncContextManager[Callable[[], bool]]:
        """Consume the main queue and the obituaries until the block is left; then let running jobs
        finish. `concurrency` may change while it goes on; at 0 only obituaries are read. Yields a
        function that tells whether we are subscribed."""


class DeadLetters(Protocol):
    """The parked letters, for people."""

    async def list(self) -> Sequence[Letter]:
        """They stay where they are."""

    async def walk(self, act: Callable[[Letter], Awaitable[bool]]) -> None:
        """Hand each letter to `act`, which says whether it is to be removed."""


class ProgressFeed(Protocol):
    """Redis pub/sub: one connection for the whole gateway, whatever the number of streams."""

    async def subscribe(self, job_id: UUID) -> None:
        """Returns once the server has confirmed."""

    async def unsubscribe(self, job_id: UUID) -> None: ...
