"""What was promised and what was seen, written down outside the system, and whether it agrees.

`violations` says what is wrong, each line beginning with the invariant:
I1  each 202 leads to exactly one terminal event, in time, visible to the owner, with this job's own result
    (promises.py)
I2  nothing follows a terminal event
I3  one paid model answer, plus one for each call that a trouble touched (allowance.py)
I4  each stream: no gap, no repeat, no disorder, nothing left out, one terminal, the same words to everybody;
    `reset` only where that job's history was destroyed (story.py)
(I5 to I7 look at the system itself: inspection.py)
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tests.faults.instruments.allowance import called_after_its_end, paid_too_often
from tests.faults.instruments.journal import Journal
from tests.faults.instruments.promises import (
    LATE_SECONDS,
    answered_after_cancel,
    dismissed_too_early,
    promise_broken,
    seen_late,
    sessions_broken,
    time_of,
    wrong_answers,
    wrong_result,
)
from tests.faults.instruments.story import STORY, TERMINAL, stream_violations, streams_disagree
from tests.faults.model import PROBE, Call

__all__ = ["LATE_SECONDS", "STORY", "TERMINAL", "Event", "Ledger", "Read", "Stream", "TrackedJob"]

Thing = TypeVar("Thing")

SESSION_STREAM = "session stream"
FORGOTTEN_SECONDS = 60.0
SAFE_SECONDS = 1.0  # after its end was seen there is nothing more to be written of a job
JOB_PATH = re.compile(r"/(?:api/v1/waste/jobs|upload-complete)/([0-9a-f-]{36})(/[a-z]+)?")


@dataclass(frozen=True)
class Event:
    """One server-sent event as a client got it; `at` is `time.monotonic()`."""

    at: float
    id: str
    name: str
    data: dict[str, Any]
    text: str = ""  # the data as it came

    @property
    def said(self) -> str:
        return self.text or json.dumps(self.data)

    @property
    def ends(self) -> bool:
        return self.name in TERMINAL

    @property
    def code(self) -> str:
        """`done`, `expired`, `failed: photo_missing`, ..."""
        failure = self.data.get("failure")
        return f"{self.name}: {failure['code']}" if failure else self.name


@dataclass(frozen=True)
class Read:
    """One answer of the job's own address, as its owner got it: `how` is read, wait or stream."""

    how: str
    asked_at: float  # time.monotonic()
    status: int
    body: dict[str, Any] = field(default_factory=dict)


@dataclass
class Stream:
    """All that one client saw of one run of one job, over all its connections."""

    name: str
    is_nervous: bool = False
    run: int = 1
    resumes_after: str | None = None  # the last id of an earlier run, with which its client came
    events: list[Event] = field(default_factory=list)
    notices: list[dict[str, Any]] = field(default_factory=list)  # of parts that are away
    connections: list[str] = field(default_factory=list)  # "gateway-1 200 closed", for people
    tried_at: list[float] = field(default_factory=list)  # time.monotonic() of each connection's begin
    dismissed_at: list[float] = field(default_factory=list)  # time.monotonic() of each 204
    retry_seconds: float = 3.0
    waited: list[tuple[float, float]] = field(default_factory=list)  # from when to when, as it was told

    @property
    def last_id(self) -> str | None:
        return self.events[-1].id if self.events else self.resumes_after

    @property
    def is_of_session(self) -> bool:
        """Its ids are the session's, not the job's."""
        return self.name == SESSION_STREAM

    @property
    def end(self) -> Event | None:
        return next((event for event in self.events if event.ends), None)


@dataclass
class TrackedJob:
    """One job as the outside knows it."""

    marker: str
    token: str
    job_id: str = ""
    ticket: dict[str, Any] = field(default_factory=dict)
    ticketed_at: float | None = None  # time.monotonic() when the ticket was first asked for
    asked_time: float = 0.0  # time.time() when the first upload-complete was sent
    accepted_at: float | None = None  # time.monotonic() of the first 202
    accepted_time: float = 0.0  # the same as time.time()
    begun_at: float | None = None  # time.monotonic() when its latest run was surely written
    refusal: str = ""  # why it was never accepted
    is_innocent: bool = True  # a test that means a job to end otherwise than done says so
    run: int = 1
    redriven_at: list[float] = field(default_factory=list)  # time.monotonic()
    cancel_asked_at: float | None = None  # the first cancel or DELETE, whatever came of it
    cancelled_time: float | None = None  # time.time() of the first answer that said yes
    delete_asked_at: float | None = None
    deleted_at: float | None = None  # time.monotonic() of the first 204
    feedback_given: int = 0  # how often it was taken
    destroyed: list[tuple[float, float]] = field(
        default_factory=list
    )  # what was written since .. was gone at
    unlisted_at: list[float] = field(default_factory=list)  # when its session's list was set back: shared
    reads: list[Read] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    final: dict[str, Any] | None = None  # the last GET

    @property
    def end(self) -> Event | None:
        """Of its latest run."""
        return next((stream.end for stream in self.streams if stream.end and stream.run == self.run), None)

    @property
    def own_streams(self) -> list[Stream]:
        """Those that tell of nothing else: with their last ids its client may come back."""
        return [stream for stream in self.streams if not stream.is_of_session]

    @property
    def is_promised(self) -> bool:
        """Its owner may expect an end."""
        return self.accepted_at is not None and self.delete_asked_at is None

    @property
    def is_in_flight(self) -> bool:
        return self.is_promised and self.end is None

    def accept(self) -> None:
        if self.accepted_at is None:
            self.accepted_at, self.accepted_time = time.monotonic(), time.time()
            self.begun_at = self.accepted_at

    def drive_again(self) -> None:
        """Everything that is promised is promised anew, for a run of its own. When that is begun is for the
        caller to say."""
        self.run += 1
        self.redriven_at.append(time.monotonic())
        self.asked_time = time.time()
        self.accepted_at = None
        self.accept()
        self.begun_at = None

    def driven(self) -> None:
        """Its new run was surely written, by one of the tries since `drive_again`: its life may begin now."""
        self.accepted_at = None
        self.accept()

    # --- what of it was destroyed

    @property
    def was_destroyed(self) -> bool:
        return bool(self.destroyed)

    def may_reset(self, at: float, *, in_session: bool) -> bool:
        """A session's stream may also where the list was lost that told what was delivered."""
        moments = [gone_at for _, gone_at in self.destroyed] + self.redriven_at
        return any(moment <= at for moment in [*moments, *(self.unlisted_at if in_session else ())])

    def forgets(self, at: float) -> bool:
        """What was true at that moment may be unknown now."""
        return any(since <= at <= gone_at for since, gone_at in self.destroyed)

    def has_settled(self, at: float) -> bool:
        """Its end was heard well before, and nothing that it was heard from was gone since."""
        gone_at = max((gone_at for _, gone_at in self.destroyed), default=float("-inf"))
        return any(
            gone_at < event.at <= at - SAFE_SECONDS
            for stream in self.streams
            if stream.run == self.run
            for event in stream.events
            if event.ends
        )

    def may_forget(self, event: Event) -> bool:
        """It may have been written before, and seen only afterwards."""
        return self.forgets(event.at) or self.forgets(time_of(event) - (time.time() - time.monotonic()))

    @property
    def is_acceptance_forgotten(self) -> bool:
        """To Redis it may be a ticket that is not used: what ends it then is the ticket's deadline."""
        accepted_at, asked_at = self.accepted_at, self.asked_time - (time.time() - time.monotonic())
        return accepted_at is not None and any(
            since <= accepted_at and asked_at <= gone_at for since, gone_at in self.destroyed
        )

    @property
    def has_been_forgotten(self) -> bool:
        """For longer than anybody who still has its message needs to tell of it."""
        return any(time.monotonic() - gone_at > FORGOTTEN_SECONDS for _, gone_at in self.destroyed)

    def is_deletion_asked(self, at: float) -> bool:
        return self.delete_asked_at is not None and self.delete_asked_at <= at

    def is_deleted(self, at: float) -> bool:
        return self.deleted_at is not None and self.deleted_at < at and not self.forgets(self.deleted_at)


class Ledger:
    """Every job of one case, and the secrets that must not turn up anywhere."""

    def __init__(self) -> None:
        self.jobs: dict[str, TrackedJob] = {}
        self.secrets: dict[str, str] = {}  # secret -> what it is
        self._by_id: dict[str, TrackedJob] = {}
        self._unlisted_at: dict[str, list[float]] = defaultdict(list)  # of a session, jobs to come included
        self._early: dict[str, list[tuple[Event, float]]] = {}  # told by a session's stream, not yet ours
        self.sessions_heard: dict[str, float] = {}  # token -> since when its stream was heard
        # token -> when 204 was asked for, and when it came
        self.sessions_dismissed: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.is_model_elsewhere = False  # the answers come from one that is not asked by the oracle
        self.unreadable_letters = 0  # dead letters that name no job of ours, sent on purpose
        self.expected_errors: list[str] = []  # words of log lines of level error that are right

    def track(self, marker: str, token: str) -> TrackedJob:
        assert marker not in self.jobs, marker
        job = self.jobs[marker] = TrackedJob(marker, token, unlisted_at=self._unlisted_at[token])
        self.secrets[token] = "a session token"
        return job

    def note(self, method: str, path: str, token: str, asked_at: float, status: int) -> None:
        """What a call means for the job that it names."""
        found = JOB_PATH.match(path)
        if "erase=true" in path:
            for own in self.jobs.values():
                if own.token == token:
                    _note_deletion(own, asked_at, status)
        job = self._job_of(found[1]) if found else None
        if job is None or job.token != token:
            return
        if method == "DELETE":
            _note_deletion(job, asked_at, status)
        elif path.endswith("/cancel"):
            job.cancel_asked_at = job.cancel_asked_at or asked_at
            if status == 202:
                job.cancelled_time = job.cancelled_time or time.time()
        elif path.endswith("/feedback"):
            job.feedback_given += status == 204
        elif path.startswith("/upload-complete/"):
            job.asked_time = job.asked_time or time.time() - (time.monotonic() - asked_at)

    def _job_of(self, job_id: str) -> TrackedJob | None:
        if job_id not in self._by_id:
            self._by_id |= {job.job_id: job for job in self.jobs.values() if job.job_id}
        return self._by_id.get(job_id)

    def know(self, job: TrackedJob) -> None:
        """Its id is known; its session may have heard of it before."""
        self._by_id[job.job_id] = job
        for event, tried_at in self._early.pop(job.job_id, []):
            _session_part(job, event, tried_at).events.append(event)

    def hear_in_session(self, event: Event, tried_at: float) -> None:
        """One event of a session's stream, for the job that it names."""
        job_id = event.data.get("job_id", "")
        job = self._job_of(job_id)
        if job is None:
            self._early.setdefault(job_id, []).append((event, tried_at))
        else:
            _session_part(job, event, tried_at).events.append(event)

    def destroy_history(self, since: float = float("-inf")) -> None:
        """What Redis was told after `since` is about to be gone: of all jobs that had not ended before."""
        now = time.monotonic()
        for job in self.jobs.values():
            if not job.has_settled(since) or job.deleted_at is not None:
                job.destroyed.append((since, now))
        set_back = {
            job.token for job in self.jobs.values() if job.accepted_at is None or job.accepted_at > since
        }
        for token in set_back:
            self._unlisted_at[token].append(now)

    @property
    def accepted(self) -> int:
        return sum(job.accepted_at is not None for job in self.jobs.values())

    @property
    def in_flight(self) -> int:
        return sum(job.is_in_flight for job in self.jobs.values())

    @property
    def untold(self) -> list[str]:
        """What the sessions' streams have not told, or not to the end."""
        return list(sessions_broken(self.jobs.values(), self.sessions_heard, SESSION_STREAM))

    def violations(
        self, calls: Iterable[Call], journal: Journal, *, deadline_seconds: float, max_paid_calls: int
    ) -> list[str]:
        by_marker: dict[str, list[Call]] = {marker: [] for marker in self.jobs}
        by_owner: dict[str, list[Call]] = {}
        found = []
        for call in calls:
            if call.marker in by_marker:
                by_marker[call.marker].append(call)
                by_owner.setdefault(self.jobs[call.marker].token, []).append(call)
            elif call.marker != PROBE:
                found.append(f"I3 the model was called for {call.marker}, which nobody asked for")
        for job in self.jobs.values():
            own = by_marker[job.marker]
            found += promise_broken(job, journal, deadline_seconds)
            found += seen_late(job, journal)
            found += answered_after_cancel(job)
            found += wrong_answers(job)
            since, dismissed = self.sessions_heard.get(job.token), self.sessions_dismissed.get(job.token, [])
            found += dismissed_too_early(job, since, dismissed)
            if not self.is_model_elsewhere:
                found += wrong_result(job, own, by_owner.get(job.token, []))
            found += paid_too_often(job, own, journal, max_paid_calls)
            found += called_after_its_end(job, own, journal)
            for stream in job.streams:
                found += stream_violations(job, stream)
            found += streams_disagree(job)
        for job_id, early in self._early.items():
            stages = {event.data.get("stage") for event, _ in early} - {"awaiting_upload", "expired"}
            found += (
                [f"I4 a session's stream tells of {job_id}, which is nobody's: {stages}"] if stages else []
            )
        return found + self.untold


def _session_part(job: TrackedJob, event: Event, tried_at: float) -> Stream:
    """What its session's stream told of one run of the job, over that stream's connections. The run before
    may be told after the job was driven again: a new run begins with its `reset`."""
    parts = [stream for stream in job.streams if stream.is_of_session]
    if not parts:
        is_first = event.data.get("stage") == "awaiting_upload"
        parts = [Stream(SESSION_STREAM, run=1 if is_first else job.run)]
        job.streams += parts
    elif parts[-1].run < job.run and event.name == "reset":
        parts = [Stream(SESSION_STREAM, run=job.run, resumes_after=parts[-1].last_id)]
        job.streams += parts
    parts[-1].tried_at.append(tried_at)
    return parts[-1]


def _note_deletion(job: TrackedJob, asked_at: float, status: int) -> None:
    job.cancel_asked_at = job.cancel_asked_at or asked_at
    job.delete_asked_at = job.delete_asked_at or asked_at
    if status == 204 and job.deleted_at is None:
        job.deleted_at = time.monotonic()
        job.cancelled_time = job.cancelled_time or time.time()


def count_by(things: Iterable[Thing], key: Callable[[Thing], str]) -> dict[str, int]:
    """How many of each kind, the largest first."""
    return dict(Counter(map(key, things)).most_common())


def outcome(job: TrackedJob) -> str:
    if job.deleted_at is not None:
        return "deleted"
    if job.end is not None:
        return job.end.code
    return "never ended" if job.accepted_at is not None else f"not accepted: {job.refusal}"
