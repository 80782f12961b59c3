"""Fakes of the ports: in memory, with the meaning that the ports' docstrings promise.

Each may be told to be away (`is_away = True`): then every call raises Unavailable. Time is the
machine's, moved ahead by `clock.advance(seconds)` where a test cannot wait.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Literal
from uuid import UUID

from growbin.errors import Rejected, Unavailable
from growbin.job import (
    STAGE_PROGRESS,
    Ack,
    Backlog,
    CleanPhoto,
    ContentType,
    DeadLetter,
    Failure,
    HandBack,
    Job,
    JobState,
    Locale,
    LogEntry,
    ModelAnswer,
    Result,
    Stage,
    StoredUpload,
    Ticket,
    Upload,
    Verdict,
    rfc3339,
)
from growbin.messages import failure, stage_message
from growbin.ports import Beginning, Handler, Held, History, Letter, Obituary, ObituaryHandler, Started

RECENT_JOBS = 100


class Clock:
    """The time of the fakes, in milliseconds. It runs with the loop's clock: a wall clock that is set
    right in mid-test would make a deadline come at two times."""

    def __init__(self) -> None:
        self._ahead_ms = 0
        self._offset_seconds = time.time() - time.monotonic()

    def now_ms(self) -> int:
        return int((time.monotonic() + self._offset_seconds) * 1000) + self._ahead_ms

    def advance(self, seconds: float) -> None:
        self._ahead_ms += int(seconds * 1000)


class MayBeAway:
    """What can be away: `is_away` makes every call fail as a lost server would."""

    part = "redis"

    def __init__(self) -> None:
        self.is_away = False

    def _answer(self) -> None:
        if self.is_away:
            raise Unavailable(self.part, "told to be away")


# --- sessions and records ----------------------------------------------------------------------


class FakeSessions(MayBeAway):
    def __init__(self) -> None:
        super().__init__()
        self.owners: set[str] = set()

    async def create(self) -> str:
        self._answer()
        token = secrets.token_urlsafe(32)
        self.owners.add(hashlib.sha256(token.encode()).hexdigest())
        return token

    async def owner(self, token: str) -> str | None:
        self._answer()
        owner = hashlib.sha256(token.encode()).hexdigest()
        return owner if owner in self.owners else None


class FakeJobRecords(MayBeAway):
    def __init__(self, clock: Clock, ticket_seconds: int = 300, deadline_seconds: int = 300) -> None:
        super().__init__()
        self.clock = clock
        self.uploads: dict[UUID, Upload] = {}
        self._ticket_ms = ticket_seconds * 1000
        self._deadline_ms = deadline_seconds * 1000
        self._keys: dict[tuple[str, str], Upload] = {}
        self._recent: dict[str, list[UUID]] = {}

    async def create(self, upload: Upload, idempotency_key: str | None) -> Upload:
        self._answer()
        if idempotency_key is not None:
            claimed = self._keys.setdefault((upload.owner, idempotency_key), upload)
            if _request(claimed) != _request(upload):
                raise Rejected("idempotency_key_reused", "Send a new key.")
            if claimed.job_id in self.uploads:
                return self.uploads[claimed.job_id]
            self._keys[upload.owner, idempotency_key] = upload
        now_ms = self.clock.now_ms()
        times = {"created_at_ms": now_ms, "ticket_expires_at_ms": now_ms + self._ticket_ms}
        self.uploads[upload.job_id] = upload.model_copy(update=times)
        return self.uploads[upload.job_id]

    async def list_job(self, upload: Upload) -> None:
        self._answer()
        recent = self._recent.setdefault(upload.owner, [])
        if upload.job_id not in recent:
            recent.insert(0, upload.job_id)
            del recent[RECENT_JOBS:]

    async def get(self, job_id: UUID) -> Upload | None:
        self._answer()
        return self.uploads.get(job_id)

    async def accept(self, job_id: UUID, etag: str, length: int, content_type: ContentType) -> Upload | None:
        self._answer()
        upload = self.uploads.get(job_id)
        if upload is None or upload.published:
            return upload
        now_ms = self.clock.now_ms()
        stamps = {
            "etag": etag,
            "length": length,
            "content_type": content_type,
            "accepted_at_ms": now_ms,
            "deadline_ms": now_ms + self._deadline_ms,
        }
        self.uploads[job_id] = upload.model_copy(update=stamps)
        return self.uploads[job_id]

    async def mark_published(self, job_id: UUID) -> None:
        self._answer()
        if job_id in self.uploads:
            self.uploads[job_id] = self.uploads[job_id].model_copy(update={"published": True})

    async def erase(self, job_id: UUID) -> None:
        self._answer()
        self.uploads.pop(job_id, None)

    async def recent(self, owner: str, limit: int) -> Sequence[UUID]:
        self._answer()
        return self._recent.get(owner, [])[:limit]


def _request(upload: Upload) -> tuple[object, ...]:
    return upload.declared_type, upload.declared_length, upload.question, upload.locale


# --- progress ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A job's latest progress and what its messages need."""

    job_id: UUID
    run: int
    epoch: str
    owner: str
    image_url: str
    locale: Locale
    deadline_ms: int
    stage: Stage | None = None
    attempt: int = 1
    progress: int = 0
    entry: LogEntry | None = None


@dataclass(slots=True)
class Attempts:
    token: int = 0
    starts: int = 0
    paid: int = 0
    is_open: bool = False
    counted: tuple[str, int] | None = None


@dataclass(slots=True)
class Kept:
    """Everything that is kept of one job."""

    snapshot: Snapshot | None = None
    entries: list[LogEntry] = field(default_factory=list)
    end: Snapshot | None = None
    lease_until_ms: int = 0
    attempts: Attempts = field(default_factory=Attempts)
    answer: ModelAnswer | None = None
    erased_by: str | None = None


class FakeProgressLog(MayBeAway):
    """`listeners` hear each entry, as a feed would."""

    def __init__(
        self,
        clock: Clock,
        image_base_url: str = "https://cdn.test",
        *,
        lease_seconds: float = 5,
        max_starts: int = 4,
        max_paid_calls: int = 3,
    ) -> None:
        super().__init__()
        self.clock = clock
        self.listeners: list[Callable[[UUID, LogEntry], None]] = []
        self._jobs: dict[UUID, Kept] = {}
        self._image_base_url = image_base_url
        self._lease_ms = int(lease_seconds * 1000)
        self._max_starts = max_starts
        self._max_paid_calls = max_paid_calls

    def forget_log(self, job_id: UUID) -> None:
        """As an hour after the end: only the result is left."""
        self._of(job_id).snapshot = None
        self._of(job_id).entries.clear()

    def forget(self, job_id: UUID) -> None:
        """As after seven days, or a lost disk."""
        self._jobs.pop(job_id, None)

    # --- written by the gateway

    async def open_job(self, upload: Upload, deadline_ms: int) -> None:
        self._answer()
        kept = self._of(upload.job_id)
        if kept.end is None and kept.snapshot is None:
            kept.snapshot = Snapshot(
                job_id=upload.job_id,
                run=1,
                epoch=secrets.token_hex(6),
                owner=upload.owner,
                image_url=upload.image_url,
                locale=upload.locale,
                deadline_ms=deadline_ms,
            )
            self._write(kept, Stage.AWAITING_UPLOAD, attempt=1)

    async def queue_job(self, job: Job, backlog: Backlog | None = None) -> None:
        self._append(job, None, Stage.QUEUED, **({"position": backlog.position} if backlog else {}))

    async def cancel(self, job_id: UUID) -> bool:
        self._answer()
        kept = self._of(job_id)
        if self._expire(kept) or kept.snapshot is None:
            return False
        self._write(kept, Stage.CANCELLED, kept.snapshot.attempt)
        return True

    # --- written by the consumer

    async def begin(self, job: Job, *, alone: bool) -> Beginning:
        self._answer()
        kept = self._of_run(job)
        if self._expire(kept, job):
            return "ended"
        attempts = kept.attempts
        if kept.lease_until_ms > self.clock.now_ms():
            return "held"
        could_only_fail = attempts.paid >= self._max_paid_calls and kept.answer is None
        if attempts.starts >= self._max_starts or could_only_fail:
            return "crashed" if attempts.is_open else "exhausted"
        if attempts.is_open and attempts.starts >= 2 and not alone:
            return "suspect"
        attempts.token += 1
        attempts.starts += 1
        attempts.is_open = True
        kept.lease_until_ms = self.clock.now_ms() + self._lease_ms
        return Started(attempts.token, attempts.starts, self.clock.now_ms(), kept.answer)

    async def renew(self, job: Job, attempt: int) -> Held:
        self._answer()
        kept = self._of_run(job)
        if self._is_over(kept, job):
            return "ended"
        if kept.attempts.token != attempt:
            return "lost"
        kept.lease_until_ms = self.clock.now_ms() + self._lease_ms
        return "ours"

    async def release(self, job: Job, attempt: int, *, refund: bool = False) -> None:
        self._answer()
        kept = self._of(job.job_id)
        if kept.attempts.token == attempt:
            kept.lease_until_ms = 0
            kept.attempts.is_open = False
            kept.attempts.starts -= refund

    async def announce(self, job: Job, attempt: int, stage: Stage) -> Held:
        return self._append(job, attempt, stage)

    async def count_paid_call(
        self, job: Job, attempt: int, call_id: str, *, change: Literal[1, -1] = 1
    ) -> bool:
        self._answer()
        attempts = self._of(job.job_id).attempts
        if attempts.token == attempt and attempts.counted == (call_id, change):
            return True
        if attempts.token != attempt or (change > 0 and attempts.paid >= self._max_paid_calls):
            return False
        attempts.paid += change
        attempts.counted = (call_id, change)
        return True

    async def keep_answer(self, job: Job, answer: ModelAnswer) -> None:
        self._answer()
        kept = self._of(job.job_id)
        kept.answer = kept.answer or answer

    async def finish(self, job: Job, attempt: int | None, end: Result | Failure) -> Held:
        if isinstance(end, Result):
            return self._append(job, attempt, Stage.DONE, result=end.model_dump(mode="json"))
        return self._append(job, attempt, Stage.FAILED, failure=end.model_dump(mode="json"))

    async def erase(self, job_id: UUID, owner: str) -> None:
        self._answer()
        kept = self._of(job_id)
        if kept.end is None and kept.snapshot is not None:
            self._write(kept, Stage.CANCELLED, kept.snapshot.attempt)
        self._jobs[job_id] = Kept(erased_by=owner)

    async def reopen(self, job: Job, deadline_seconds: int) -> Job:
        self._answer()
        kept = self._of(job.job_id)
        if kept.erased_by is not None:
            raise Rejected("not_failed", "Only a failed job can be driven again; this one is deleted.")
        now = kept.snapshot
        deadline_ms = self.clock.now_ms() + deadline_seconds * 1000
        if kept.end is None and now is not None and now.run > 1 and now.stage is Stage.QUEUED:
            return job.model_copy(update={"run": now.run, "deadline_ms": now.deadline_ms})
        last = kept.end or now
        if last is not None and last.stage is not Stage.FAILED:
            raise Rejected("not_failed", f"Only a failed job can be driven again; this one is {last.stage}.")
        again = job.model_copy(update={"run": (last or job).run + 1, "deadline_ms": deadline_ms})
        kept.end, kept.entries, kept.lease_until_ms = None, [], 0
        kept.attempts = Attempts(token=kept.attempts.token)
        kept.snapshot = self._new(again)
        self._write(kept, Stage.QUEUED, attempt=kept.attempts.token + 1)
        return again

    async def fail_unreadable(self, job_id: UUID, code: str) -> None:
        self._answer()
        kept = self._of(job_id)
        if kept.end is None and kept.snapshot is not None:
            end = failure(code, kept.snapshot.locale).model_dump(mode="json")
            self._write(kept, Stage.FAILED, kept.snapshot.attempt, failure=end)

    # --- read, and expired by whoever looks

    async def expire_if_due(self, job: Job) -> bool:
        self._answer()
        return self._expire(self._of_run(job), job)

    async def lease_lives(self, job_id: UUID) -> bool:
        self._answer()
        return self._of(job_id).lease_until_ms > self.clock.now_ms()

    async def state(self, job_id: UUID) -> JobState | None:
        self._answer()
        kept = self._of(job_id)
        if kept.erased_by is not None:
            return JobState(LogEntry("0.0.0", "deleted", '{"stage":"deleted"}'), 1, kept.erased_by, "", 0)
        self._expire(kept)
        latest = kept.end or kept.snapshot
        if latest is None or latest.entry is None:
            return None
        left_seconds = (latest.deadline_ms - self.clock.now_ms()) / 1000
        return JobState(latest.entry, latest.run, latest.owner, latest.image_url, left_seconds)

    async def history(self, job_id: UUID, after_id: str | None) -> History | None:
        state = await self.state(job_id)
        if state is None:
            return None
        entries = self._of(job_id).entries
        if after_id is None:
            return History(state, entries[:] or [state.entry], reset=False)
        for place, entry in enumerate(entries):
            if entry.id == after_id:
                return History(state, entries[place + 1 :], reset=False)
        if after_id == state.entry.id and state.entry.ends:
            return History(state, [], reset=False)
        return History(state, [state.entry] if state.entry.ends else [], reset=True)

    # --- the rules of appending

    def _of(self, job_id: UUID) -> Kept:
        return self._jobs.setdefault(job_id, Kept())

    def _of_run(self, job: Job) -> Kept:
        """A newer run than what is stored makes that history."""
        kept = self._of(job.job_id)
        if kept.end and kept.end.run < job.run:
            kept.end = None
        if kept.snapshot and kept.snapshot.run < job.run:
            kept.snapshot = None
            kept.entries.clear()
        return kept

    def _is_over(self, kept: Kept, job: Job | None = None) -> bool:
        is_older = job is not None and kept.snapshot is not None and kept.snapshot.run > job.run
        return kept.end is not None or kept.erased_by is not None or is_older

    def _expire(self, kept: Kept, job: Job | None = None) -> bool:
        if self._is_over(kept, job):
            return True
        if kept.snapshot is None and job is not None and self.clock.now_ms() > job.deadline_ms:
            kept.snapshot = self._new(job)
        if kept.snapshot is None or self.clock.now_ms() <= kept.snapshot.deadline_ms:
            return False
        self._write(kept, Stage.EXPIRED, kept.snapshot.attempt)
        return True

    def _append(self, job: Job, attempt: int | None, stage: Stage, **more: object) -> Held:
        self._answer()
        kept = self._of_run(job)
        if self._is_over(kept, job):
            return "ended"
        if attempt is not None and kept.attempts.token != attempt:
            return "lost"
        present = kept.snapshot or self._new(job)
        if present.stage in (None, Stage.AWAITING_UPLOAD):
            kept.snapshot = replace(present, deadline_ms=job.deadline_ms)
            self._write(kept, Stage.QUEUED, attempt=1, **(more if stage is Stage.QUEUED else {}))
            present = kept.snapshot
        number = attempt or present.attempt
        is_behind = present.stage is not None and stage.rank <= present.stage.rank
        if stage.is_terminal or number != present.attempt or not is_behind:
            self._write(kept, stage, number, **more)
        return "ours"

    def _new(self, job: Job) -> Snapshot:
        return Snapshot(
            job_id=job.job_id,
            run=job.run,
            epoch=secrets.token_hex(6),
            owner=job.owner,
            image_url=f"{self._image_base_url}/{job.public_key}",
            locale=job.locale,
            deadline_ms=job.deadline_ms,
        )

    def _write(self, kept: Kept, stage: Stage, attempt: int, **more: object) -> None:
        now = kept.snapshot
        assert now is not None
        seq = now.entry.seq + 1 if now.entry else 1
        progress = max(now.progress, STAGE_PROGRESS[stage])
        data = {
            "job_id": str(now.job_id),
            "seq": seq,
            "stage": stage,
            "progress": progress,
            "message": stage_message(stage, now.locale),
            "attempt": attempt,
            "updated_at": rfc3339(self.clock.now_ms()),
            **more,
        }
        entry = LogEntry(
            f"{now.epoch}.{seq}.{secrets.token_hex(4)}",
            str(stage) if stage.is_terminal else "progress",
            json.dumps(data, ensure_ascii=False, separators=(",", ":")),
        )
        kept.snapshot = replace(now, stage=stage, attempt=attempt, progress=progress, entry=entry)
        kept.entries.append(entry)
        if stage.is_terminal:
            kept.end = kept.snapshot
            kept.lease_until_ms = 0
        for listener in self.listeners:
            listener(now.job_id, entry)


class FakeProgressFeed(MayBeAway):
    """The live side: hands a log's entries of the subscribed jobs to `on_entry`."""

    def __init__(self, progress: FakeProgressLog, on_entry: Callable[[UUID, LogEntry], None]) -> None:
        super().__init__()
        self.subscribed: set[UUID] = set()
        self._on_entry = on_entry
        progress.listeners.append(self._hear)

    def _hear(self, job_id: UUID, entry: LogEntry) -> None:
        if job_id in self.subscribed and not self.is_away:
            self._on_entry(job_id, entry)

    async def subscribe(self, job_id: UUID) -> None:
        self._answer()
        self.subscribed.add(job_id)

    async def unsubscribe(self, job_id: UUID) -> None:
        self.subscribed.discard(job_id)


# --- uploads and queue -------------------------------------------------------------------------


class FakeUploadStore(MayBeAway):
    """`put` plays the client that uses its ticket."""

    part = "s3"

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, StoredUpload] = {}
        self.published: dict[str, CleanPhoto] = {}
        self.publish_gate: asyncio.Event | None = None  # what was put is there, and nobody is told
        self.looks = 0

    def put(self, key: str, data: bytes, content_type: str = "image/jpeg") -> None:
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        self.objects[key] = StoredUpload(f'"{etag}"', len(data), content_type, data[:64])

    async def ticket(
        self, key: str, content_type: str | None, content_length: int | None, expires_seconds: int
    ) -> Ticket:
        self._answer()
        headers = {"If-None-Match": "*"}
        if content_type is not None:
            headers["Content-Type"] = content_type
        if content_length is not None:
            headers["Content-Length"] = str(content_length)
        signature = secrets.token_hex(32)
        url = f"https://bucket.test/{key}?X-Amz-Expires={expires_seconds}&X-Amz-Signature={signature}"
        return Ticket(url, headers)

    async def look(self, key: str) -> StoredUpload | None:
        self._answer()
        self.looks += 1
        return self.objects.get(key)

    async def delete(self, key: str) -> None:
        self._answer()
        self.objects.pop(key, None)
        self.published.pop(key, None)

    async def publish_photo(self, key: str, photo: CleanPhoto, cache_seconds: int) -> None:
        self._answer()
        self.published[key] = photo
        if self.publish_gate is not None:
            await self.publish_gate.wait()


class FakePhotoCache:
    def __init__(self) -> None:
        self.forgotten: list[str] = []

    async def forget(self, key: str) -> None:
        self.forgotten.append(key)


class FakeDeadLetters(MayBeAway):
    part = "rabbitmq"

    def __init__(self) -> None:
        super().__init__()
        self.parked: list[Letter] = []

    async def list(self) -> Sequence[Letter]:
        self._answer()
        return tuple(self.parked)

    async def walk(self, act: Callable[[Letter], Awaitable[bool]]) -> None:
        self._answer()
        self.parked = [letter for letter in self.parked if not await act(letter)]


class FakeJobQueue(MayBeAway):
    """`published` keeps every job sent; `known_depth` is what `backlog` tells; `loses_confirms` sends
    the job and raises all the same, as a timeout does; `on_publish` may break something just then."""

    part = "rabbitmq"

    def __init__(self) -> None:
        super().__init__()
        self.published: list[Job] = []
        self.known_depth: int | None = 0
        self.loses_confirms = False
        self.on_publish: Callable[[], None] = lambda: None
        self.delays_seconds: list[int] = []
        self._waiting: asyncio.Queue[Job] = asyncio.Queue()

    async def publish(self, job: Job) -> None:
        await asyncio.sleep(0)  # others may run while the broker confirms
        self._answer()
        self.published.append(job)
        self._waiting.put_nowait(job)
        self.on_publish()
        if self.loses_confirms:
            raise Unavailable(self.part, "no confirm in time")

    async def backlog(self) -> Backlog | None:
        return None if self.is_away or self.known_depth is None else Backlog(self.known_depth)

    @asynccontextmanager
    async def consuming(
        self,
        handle: Handler,
        handle_obituary: ObituaryHandler,
        *,
        concurrency: Callable[[], int],
        grace_seconds: float,
    ) -> AsyncIterator[Callable[[], bool]]:
        """A delay step takes no time here; its length is noted in `delays_seconds`."""

        async def consume() -> None:
            while True:
                job = await self._waiting.get()
                await self._settle(job, await handle(job), handle_obituary)

        consumers = [asyncio.create_task(consume()) for _ in range(concurrency())]
        try:
            yield lambda: not self.is_away
        finally:
            for consumer in consumers:
                consumer.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*consumers)

    async def _settle(self, job: Job, verdict: Verdict, handle_obituary: ObituaryHandler) -> None:
        match verdict:
            case Ack():
                return
            case DeadLetter(reason):
                await handle_obituary(Obituary(job.job_id, job, reason))
            case HandBack():
                self._waiting.put_nowait(job)
            case retry:
                self.delays_seconds.append(retry.delay_seconds)
                self._waiting.put_nowait(job)
