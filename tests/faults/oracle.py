"""What was promised and what was seen, written down outside the system, and whether it agrees.

`violations` says what is wrong, each line beginning with the invariant:
I1  each 202 leads to exactly one terminal event, in time, visible to the owner
I2  nothing follows a terminal event
I3  one paid model answer, plus one for each call that a trouble touched
I4  each stream: no gap, no repeat, no disorder, one terminal; `reset` only where history was destroyed
(I5 to I7 look at the system itself: inspection.py)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.faults.journal import Journal
from tests.faults.model import PROBE, Call

TERMINAL = ("done", "failed", "cancelled", "expired")
STORY = ("awaiting_upload", "queued", "fetching", "analysing", "advising")
LATE_SECONDS = 10.0
# An answer is stored right after it was given, and a call is recorded right before it is made: a trouble
# this close to a call may have touched it.
CALL_MARGIN_SECONDS = 1.0


@dataclass(frozen=True)
class Event:
    """One server-sent event as a client got it; `at` is `time.monotonic()`."""

    at: float
    id: str
    name: str
    data: dict[str, Any]

    @property
    def ends(self) -> bool:
        return self.name in TERMINAL

    @property
    def code(self) -> str:
        """`done`, `expired`, `failed: photo_missing`, ..."""
        failure = self.data.get("failure")
        return f"{self.name}: {failure['code']}" if failure else self.name


@dataclass
class Stream:
    """All that one client saw of one job, over all its connections."""

    name: str
    is_nervous: bool = False
    events: list[Event] = field(default_factory=list)
    notices: list[dict[str, Any]] = field(default_factory=list)  # of parts that are away
    connections: list[str] = field(default_factory=list)  # "gateway-1 200 closed", for people
    tried_at: list[float] = field(default_factory=list)  # time.monotonic() of each connection's begin
    retry_seconds: float = 3.0

    @property
    def last_id(self) -> str | None:
        return self.events[-1].id if self.events else None

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
    accepted_at: float | None = None  # time.monotonic() of the first 202
    accepted_time: float = 0.0  # the same as time.time()
    refusal: str = ""  # why it was never accepted
    is_innocent: bool = True  # a test that means a job to end otherwise than done says so
    streams: list[Stream] = field(default_factory=list)
    final: dict[str, Any] | None = None  # the last GET

    @property
    def end(self) -> Event | None:
        return next((stream.end for stream in self.streams if stream.end), None)

    @property
    def is_in_flight(self) -> bool:
        return self.accepted_at is not None and self.end is None

    def accept(self) -> None:
        if self.accepted_at is None:
            self.accepted_at, self.accepted_time = time.monotonic(), time.time()


class Ledger:
    """Every job of one case, and the secrets that must not turn up anywhere."""

    def __init__(self) -> None:
        self.jobs: dict[str, TrackedJob] = {}
        self.secrets: dict[str, str] = {}  # secret -> what it is
        self.history_was_destroyed = False  # set it when the run destroys what Redis knows
        self.unreadable_letters = 0  # dead letters that name no job of ours, sent on purpose
        self.expected_errors: list[str] = []  # words of log lines of level error that are right

    def track(self, marker: str, token: str) -> TrackedJob:
        assert marker not in self.jobs, marker
        job = self.jobs[marker] = TrackedJob(marker, token)
        self.secrets[token] = "a session token"
        return job

    @property
    def accepted(self) -> int:
        return sum(job.accepted_at is not None for job in self.jobs.values())

    @property
    def in_flight(self) -> int:
        return sum(job.is_in_flight for job in self.jobs.values())

    def violations(
        self, calls: Iterable[Call], journal: Journal, *, deadline_seconds: float, max_paid_calls: int
    ) -> list[str]:
        by_marker: dict[str, list[Call]] = {marker: [] for marker in self.jobs}
        found = []
        for call in calls:
            if call.marker in by_marker:
                by_marker[call.marker].append(call)
            elif call.marker != PROBE:
                found.append(f"I3 the model was called for {call.marker}, which nobody asked for")
        for job in self.jobs.values():
            found += _promise_broken(job, journal, deadline_seconds)
            found += _paid_too_often(job, by_marker[job.marker], journal, max_paid_calls)
            for stream in job.streams:
                found += stream_violations(job, stream, may_reset=self.history_was_destroyed)
        return found


def _promise_broken(job: TrackedJob, journal: Journal, deadline_seconds: float) -> Iterator[str]:
    if job.accepted_at is None:
        return
    ends = {event.id: event for stream in job.streams for event in stream.events if event.ends}
    if not ends:
        yield f"I1 {job.marker} {job.job_id} was accepted and never ended for its owner; now {job.final}"
        return
    if len(ends) > 1:
        yield f"I1 {job.marker} {job.job_id} has {len(ends)} ends: {sorted(map(str, ends.values()))}"
    end = next(iter(ends.values()))
    ended_time = datetime.fromisoformat(end.data["updated_at"]).timestamp()
    late_seconds = ended_time - job.accepted_time - deadline_seconds - LATE_SECONDS
    redis_away_seconds = sum(
        trouble.seconds
        for trouble in journal.during(["valkey"], job.accepted_at, end.at)
        if trouble.ended is not None
    )
    if late_seconds > redis_away_seconds:
        yield f"I1 {job.marker} {job.job_id} ended {late_seconds:.1f} s too late: {end.code}"
    if job.final is not None and job.final.get("stage") != end.name:
        yield f"I1 {job.marker} {job.job_id} ended {end.name} and reads {job.final}"


def excused_calls(calls: Iterable[Call], journal: Journal) -> list[Call]:
    """The calls that a kill, a freeze or a cut link of their consumer touched, or a Redis that was away."""
    return [
        call
        for call in calls
        if journal.during(
            (call.consumer, f"redis of {call.consumer}", f"model of {call.consumer}", "valkey"),
            call.began - CALL_MARGIN_SECONDS,
            (call.ended or time.monotonic()) + CALL_MARGIN_SECONDS,
        )
    ]


def _paid_too_often(
    job: TrackedJob, calls: list[Call], journal: Journal, max_paid_calls: int
) -> Iterator[str]:
    paid = sum(call.paid for call in calls)
    allowed = min(1 + len(excused_calls(calls, journal)), max_paid_calls)
    if paid > allowed:
        yield f"I3 {job.marker} {job.job_id} was paid {paid} times where {allowed} may be: {calls}"


def stream_violations(job: TrackedJob, stream: Stream, *, may_reset: bool) -> Iterator[str]:
    where = f"{job.marker} {job.job_id} in {stream.name}"
    previous: Event | None = None
    for event in stream.events:
        said = event.data
        if event.name == "reset":
            if not may_reset:
                yield f"I4 {where}: reset, and history was never destroyed"
        elif previous is not None and previous.ends:
            yield f"I2 {where}: {event.name} after {previous.name}"
        elif previous is None:
            if said["seq"] != 1 and not event.ends:
                yield f"I4 {where}: began with event {said['seq']}"
        else:
            yield from (f"I4 {where}: {wrong}" for wrong in _does_not_follow(previous, event))
        if event.name != "reset" and (event.name == "progress") != (said["stage"] in STORY):
            yield f"I4 {where}: {event.name} with stage {said['stage']}"
        previous = event
    if previous is not None and job.accepted_at is not None and stream.end is None:
        yield f"I4 {where}: no end after {previous.data['stage']} ({stream.connections[-3:]})"


def _does_not_follow(previous: Event, event: Event) -> Iterator[str]:
    before, after = previous.data, event.data
    if previous.name == "reset" and event.ends and after["seq"] == before["seq"]:
        return  # the snapshot of an ended job, then its end
    if after["seq"] != before["seq"] + 1:
        yield f"event {after['seq']} ({after['stage']}) after {before['seq']} ({before['stage']})"
    if after["progress"] < before["progress"]:
        yield f"progress fell from {before['progress']} to {after['progress']}"
    if after["attempt"] < before["attempt"]:
        yield f"attempt {after['attempt']} after {before['attempt']}"
    same_attempt = after["attempt"] == before["attempt"] and {after["stage"], before["stage"]} <= set(STORY)
    if same_attempt and STORY.index(after["stage"]) <= STORY.index(before["stage"]):
        yield f"{after['stage']} after {before['stage']} in attempt {after['attempt']}"


def count_by(jobs: Iterable[TrackedJob], key: Callable[[TrackedJob], str]) -> dict[str, int]:
    """How many jobs of each kind, the largest first."""
    counts: dict[str, int] = {}
    for job in jobs:
        counts[key(job)] = counts.get(key(job), 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def outcome(job: TrackedJob) -> str:
    if job.end is not None:
        return job.end.code
    return "never ended" if job.accepted_at is not None else f"not accepted: {job.refusal}"
