"""The fake of ports.ProgressLog."""

from __future__ import annotations

import json
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Literal
from uuid import UUID

from growbin.analysis import is_analysis
from growbin.budgets import Budget, micros
from growbin.errors import Rejected
from growbin.job import (
    STAGE_PROGRESS,
    Failure,
    Job,
    JobState,
    Locale,
    LogEntry,
    ModelAnswer,
    Result,
    Stage,
    Upload,
    rfc3339,
)
from growbin.messages import failure, stage_message
from growbin.ports import (
    Acceptance,
    Accepted,
    Backlog,
    Beginning,
    Counting,
    EndedJob,
    Held,
    History,
    Started,
)
from growbin.rates import Holder
from tests.fakes.absence import MayBeAway
from tests.fakes.agenda import FakeAgenda
from tests.fakes.budget_book import BudgetBook
from tests.fakes.clock import Clock


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
    is_accepted: bool = False


@dataclass(slots=True)
class Attempts:
    token: int = 0
    starts: int = 0
    paid: int = 0
    is_open: bool = False
    begun_by: str = ""
    counted: tuple[str, int] | None = None
    reserved: str = ""


@dataclass(slots=True)
class Kept:
    """Everything that is kept of one job."""

    snapshot: Snapshot | None = None
    entries: list[LogEntry] = field(default_factory=list)
    end: Snapshot | None = None
    ended_by: int | None = None  # the attempt that wrote the end
    lease_until_ms: int = 0
    attempts: Attempts = field(default_factory=Attempts)
    answer: ModelAnswer | None = None
    erased_by: str | None = None
    has_feedback: bool = False


class FakeProgressLog(MayBeAway):
    """`listeners` hear each entry, as a feed would, and `session_listeners` of each log that begins."""

    def __init__(
        self,
        clock: Clock,
        image_base_url: str = "https://cdn.test",
        *,
        lease_seconds: float = 5,
        max_starts: int = 4,
        max_paid_calls: int = 3,
        erased_after_seconds: Sequence[float] = (0, 30, 300),
        budget: Budget | None = None,
    ) -> None:
        super().__init__()
        self.clock = clock
        self.agenda = FakeAgenda(clock, self._wipe)
        self._erased_after_seconds = erased_after_seconds
        self.listeners: list[Callable[[UUID, LogEntry], None]] = []
        self.session_listeners: list[Callable[[str, UUID], None]] = []
        self._jobs: dict[UUID, Kept] = {}
        self._claims: dict[tuple[str, str], UUID] = {}
        self._unfinished: dict[str, dict[UUID, int]] = defaultdict(dict)  # each with its deadline
        self._image_base_url = image_base_url
        self._lease_ms = int(lease_seconds * 1000)
        self._max_starts = max_starts
        self._max_paid_calls = max_paid_calls
        self.book = BudgetBook(budget) if budget else None

    def forget_log(self, job_id: UUID) -> None:
        """As an hour after the end: only the result is left."""
        self._of(job_id).snapshot = None
        self._of(job_id).entries.clear()

    def forget(self, job_id: UUID) -> None:
        """As after seven days, or a lost disk."""
        self._jobs.pop(job_id, None)

    def saved(self, job_id: UUID) -> Kept:
        return deepcopy(self._of(job_id))

    def set_back(self, job_id: UUID, saved: Kept) -> None:
        """As a server does that lost its last second."""
        self._jobs[job_id] = saved

    # --- written by the gateway

    async def open_job(self, upload: Upload, deadline_ms: int) -> None:
        self._answer()
        kept = self._of(upload.job_id)
        if not self._is_over(kept) and kept.snapshot is None:
            kept.snapshot = Snapshot(
                job_id=upload.job_id,
                run=1,
                epoch=secrets.token_hex(6),
                owner=upload.owner,
                image_url=upload.image_url,
                locale=upload.locale,
                deadline_ms=deadline_ms,
            )
            self._tell_session(upload.owner, upload.job_id)
            self._write(kept, Stage.AWAITING_UPLOAD, attempt=1)

    async def accept_job(
        self, upload: Upload, *, session_most: int, address_most: int, deadline_seconds: int
    ) -> Acceptance:
        self._answer()
        kept = self._of(upload.job_id)
        is_waiting = kept.snapshot is None or kept.snapshot.stage is Stage.AWAITING_UPLOAD
        if self._expire(kept) or not is_waiting:
            return "over"
        holders: list[tuple[Holder, str | None, int]] = [
            ("session", upload.owner, session_most),
            ("address", upload.address_hash, address_most),
        ]
        for holder, name, most in holders:
            if name and len(self._unfinished_of(name) - {upload.job_id}) >= most:
                return holder
        now_ms = self.clock.now_ms()
        deadline_ms = now_ms + deadline_seconds * 1000
        for _, name, _ in holders:
            if name:
                self._unfinished[name][upload.job_id] = deadline_ms
        if kept.snapshot:
            later_ms = max(kept.snapshot.deadline_ms, deadline_ms)
            kept.snapshot = replace(kept.snapshot, deadline_ms=later_ms, is_accepted=True)
        return Accepted(now_ms, deadline_ms)

    def _unfinished_of(self, holder: str) -> set[UUID]:
        return {
            job_id
            for job_id, deadline_ms in self._unfinished[holder].items()
            if deadline_ms > self.clock.now_ms() and not self._is_over(self._of(job_id))
        }

    async def queue_job(self, job: Job, backlog: Backlog | None = None) -> None:
        place: dict[str, int] = {}
        if backlog is not None:
            place["position"] = backlog.position
            if (seconds := backlog.wait_seconds(backlog.position)) is not None:
                place["wait_seconds"] = seconds
            if backlog.turn is not None:
                place["turn"] = backlog.turn
        self._append(job, None, Stage.QUEUED, **place)

    async def cancel(self, job_id: UUID) -> bool:
        self._answer()
        kept = self._of(job_id)
        if self._expire(kept) or kept.snapshot is None:
            return False
        self._write(kept, Stage.CANCELLED, kept.snapshot.attempt)
        return True

    # --- written by the consumer

    async def begin(self, job: Job, *, alone: bool, call_id: str) -> Beginning:
        self._answer()
        kept = self._of_run(job)
        if self._expire(kept, job):
            return "ended"
        attempts = kept.attempts
        if kept.lease_until_ms > self.clock.now_ms():
            if attempts.begun_by != call_id:
                return "held"
            return Started(attempts.token, attempts.starts, self.clock.now_ms(), kept.answer)
        could_only_fail = attempts.paid >= self._max_paid_calls and kept.answer is None
        if attempts.starts >= self._max_starts or could_only_fail:
            return "crashed" if attempts.is_open else "exhausted"
        if attempts.is_open and attempts.starts >= 2 and not alone:
            return "suspect"
        attempts.token += 1
        attempts.starts += 1
        attempts.is_open = True
        attempts.begun_by = call_id
        kept.lease_until_ms = self.clock.now_ms() + self._lease_ms
        await self.announce(job, attempts.token, Stage.FETCHING)
        return Started(attempts.token, attempts.starts, self.clock.now_ms(), kept.answer)

    async def renew(self, job: Job, attempt: int) -> Held:
        self._answer()
        kept = self._of_run(job)
        if self._is_over(kept, job):
            is_own_end = kept.ended_by == attempt and not self._is_of_earlier_run(kept, job)
            return "ours" if is_own_end else "ended"
        if not self._holds_token(kept, attempt, job):
            return "lost"
        kept.lease_until_ms = self.clock.now_ms() + self._lease_ms
        return "ours"

    async def release(self, job: Job, attempt: int, *, refund: bool = False) -> None:
        self._answer()
        kept = self._of(job.job_id)
        if not self._is_of_earlier_run(kept, job) and self._holds_token(kept, attempt):
            kept.lease_until_ms = 0
            kept.attempts.starts -= refund and kept.attempts.is_open
            kept.attempts.is_open = False

    async def announce(self, job: Job, attempt: int, stage: Stage) -> Held:
        told = {"max_attempts": self._max_starts} if 1 < attempt <= self._max_starts else {}
        return self._append(job, attempt, stage, **told)

    async def count_paid_call(
        self, job: Job, attempt: int, call_id: str, same: str | None = None, *, is_fresh: bool = False
    ) -> Counting:
        self._answer()
        kept = self._of(job.job_id)
        if self._is_of_earlier_run(kept, job) or not self._holds_token(kept, attempt):
            return "refused"
        if self._is_over(kept, job):
            return "refused"
        await self.announce(job, attempt, Stage.ANALYSING)
        attempts = kept.attempts
        if attempts.counted == (call_id, 1):
            return "counted"
        if attempts.paid >= self._max_paid_calls:
            return "refused"
        if not is_fresh and (before := self._asked_before(job, same)):
            return before
        if self.book:
            if attempts.reserved:
                self.book.settle(job, attempts.reserved, None, was_paid=True)
            if spent := self.book.reserve(job, call_id, self.clock.now_ms()):
                return spent
            attempts.reserved = call_id
        if same:
            self._claims[job.owner, same] = job.job_id
        attempts.paid += 1
        attempts.counted = (call_id, 1)
        return "counted"

    def _asked_before(self, job: Job, same: str | None) -> Literal["awaited"] | ModelAnswer | None:
        other_id = self._claims.get((job.owner, same or ""))
        if other_id is None or other_id == job.job_id:
            return None
        other = self._of(other_id)
        asks = other.lease_until_ms > self.clock.now_ms() and not other.end and not other.erased_by
        return other.answer or ("awaited" if asks else None)

    async def uncount_paid_call(self, job: Job, attempt: int, call_id: str) -> None:
        self._answer()
        if self.book:
            self.book.settle(job, call_id, None, was_paid=False)
        kept = self._of(job.job_id)
        if self._is_of_earlier_run(kept, job) or not self._holds_token(kept, attempt):
            return
        if kept.attempts.counted != (call_id, -1):
            kept.attempts.paid -= 1
            kept.attempts.counted = (call_id, -1)

    async def settle_paid_call(self, job: Job, call_id: str, cost_usd: float | None) -> None:
        self._answer()
        if self.book:
            cost = None if cost_usd is None else micros(cost_usd)
            self.book.settle(job, call_id, cost, was_paid=True)

    async def keep_answer(self, job: Job, attempt: int, answer: ModelAnswer, call_id: str) -> Held:
        await self.settle_paid_call(job, call_id, answer.usage.cost_usd)
        kept = self._of(job.job_id)
        if kept.erased_by is None and not self._is_of_earlier_run(kept, job):
            kept.answer = kept.answer or answer
        return await self.announce(job, attempt, Stage.ADVISING)

    def answer_of(self, job_id: UUID) -> ModelAnswer | None:
        return self._of(job_id).answer

    async def finish(self, job: Job, attempt: int | None, end: Result | Failure) -> Held:
        is_done = isinstance(end, Result)
        told = {"result" if is_done else "failure": end.model_dump(mode="json")}
        return self._append(job, attempt, Stage.DONE if is_done else Stage.FAILED, **told)

    async def mark_feedback(self, job_id: UUID) -> bool:
        self._answer()
        kept = self._of(job_id)
        is_first = not kept.has_feedback and kept.end is not None and kept.end.stage is Stage.DONE
        kept.has_feedback |= is_first
        return is_first

    async def erase(self, job_id: UUID, owner: str) -> None:
        self._answer()
        kept = self._of(job_id)
        if kept.end is None and kept.snapshot is not None:
            self._write(kept, Stage.CANCELLED, kept.snapshot.attempt)
        self._jobs[job_id] = Kept(erased_by=owner)
        self._claims = {claim: one for claim, one in self._claims.items() if one != job_id}
        self.agenda.add(job_id, self._erased_after_seconds)

    def _wipe(self, job_id: UUID) -> None:
        self._jobs[job_id] = Kept(erased_by=self._of(job_id).erased_by)

    async def reopen(self, job: Job, deadline_seconds: int) -> Job:
        self._answer()
        kept = self._of(job.job_id)
        if kept.erased_by is not None:
            raise Rejected("not_failed", "Only a failed or expired job can be driven again; it is deleted.")
        now = kept.snapshot
        deadline_ms = self.clock.now_ms() + deadline_seconds * 1000
        if kept.end is None and now is not None and now.run > 1 and now.stage is Stage.QUEUED:
            return _again(job, now.run, now.deadline_ms, deadline_seconds)
        last = kept.end or now
        if last is not None and last.stage not in (Stage.FAILED, Stage.EXPIRED):
            detail = f"Only a failed or expired job can be driven again; it is {last.stage}."
            raise Rejected("not_failed", detail)
        again = _again(job, (last or job).run + 1, deadline_ms, deadline_seconds)
        kept.end, kept.entries, kept.lease_until_ms = None, [], 0
        if kept.answer and not is_analysis(kept.answer):
            kept.answer = None
        kept.attempts = Attempts(token=kept.attempts.token, counted=kept.attempts.counted)
        kept.snapshot = self._new(again)
        self._write(kept, Stage.QUEUED, attempt=kept.attempts.token + 1)
        return again

    async def ended_jobs(self) -> AsyncIterator[EndedJob]:
        for job_id, kept in list(self._jobs.items()):
            if kept.end and kept.end.entry:
                event = json.loads(kept.end.entry.data)
                code = (event.get("failure") or {}).get("code")
                yield EndedJob(job_id, code or str(kept.end.stage), event["updated_at"])

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
        entry = latest.entry if latest.entry.ends else _without_place(latest.entry)
        return JobState(
            entry,
            latest.run,
            latest.owner,
            latest.image_url,
            left_seconds,
            latest.locale,
            is_accepted=latest.is_accepted,
        )

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
        if any(known.run < job.run for known in (kept.end, kept.snapshot) if known):
            kept.attempts = Attempts(token=kept.attempts.token, counted=kept.attempts.counted)
            kept.answer = None
        if kept.end and kept.end.run < job.run:
            kept.end = None
        if kept.snapshot and kept.snapshot.run < job.run:
            kept.snapshot, kept.lease_until_ms = None, 0
            kept.entries.clear()
        return kept

    def _is_of_earlier_run(self, kept: Kept, job: Job | None) -> bool:
        return job is not None and kept.snapshot is not None and kept.snapshot.run > job.run

    def _is_over(self, kept: Kept, job: Job | None = None) -> bool:
        return kept.end is not None or kept.erased_by is not None or self._is_of_earlier_run(kept, job)

    def _holds_token(self, kept: Kept, attempt: int, job: Job | None = None) -> bool:
        """A token ahead of ours is somebody else's; one behind shows that we lost what we knew."""
        attempts = kept.attempts
        if attempts.token < attempt and not self._is_over(kept, job):
            attempts.token, attempts.is_open = attempt, True
            attempts.starts = attempts.starts or 1
        return attempts.token == attempt

    def _expire(self, kept: Kept, job: Job | None = None) -> bool:
        if self._is_over(kept, job):
            return True
        if kept.snapshot is None and job is not None and self.clock.now_ms() > job.deadline_ms:
            kept.snapshot = self._new(job)
        if kept.snapshot is None or self.clock.now_ms() <= kept.snapshot.deadline_ms:
            return False
        is_accepted = kept.snapshot.stage is Stage.AWAITING_UPLOAD and job is not None
        if job is not None and is_accepted and self.clock.now_ms() <= job.deadline_ms:
            return False
        self._write(kept, Stage.EXPIRED, kept.snapshot.attempt)
        return True

    def _append(self, job: Job, attempt: int | None, stage: Stage, **more: object) -> Held:
        self._answer()
        kept = self._of_run(job)
        if self._is_over(kept, job):
            return "ended"
        if attempt is not None and not self._holds_token(kept, attempt, job):
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
        if stage.is_terminal:
            kept.ended_by = attempt
        return "ours"

    def _tell_session(self, owner: str, job_id: UUID) -> None:
        for listener in self.session_listeners:
            listener(owner, job_id)

    def _new(self, job: Job) -> Snapshot:
        self._tell_session(job.owner, job.job_id)
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


def _again(job: Job, run: int, deadline_ms: int, deadline_seconds: int) -> Job:
    times = {"deadline_ms": deadline_ms, "accepted_at_ms": deadline_ms - deadline_seconds * 1000}
    return job.model_copy(update={"run": run, **times})


PLACE = ("position", "wait_seconds", "turn", "max_attempts")


def _without_place(entry: LogEntry) -> LogEntry:
    """A place in the queue is told once, not kept."""
    event = json.loads(entry.data)
    kept = {name: event[name] for name in event if name not in PLACE}
    return replace(entry, data=json.dumps(kept, ensure_ascii=False, separators=(",", ":")))
