"""What a 202 promises (I1), and what else is true of a job's end and of what its owner is answered."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from tests.faults.instruments.journal import Journal
from tests.faults.model import Call

if TYPE_CHECKING:
    from tests.faults.instruments.oracle import Event, Stream, TrackedJob

LATE_SECONDS = 10.0
ANSWER = "Seen for "
CLOCKS_SECONDS = 0.2  # between our clock and Redis', and for an answer on its way


def promise_broken(job: TrackedJob, journal: Journal, deadline_seconds: float) -> Iterator[str]:
    """Exactly one end, in time, and it is what the owner reads afterwards."""
    who = f"{job.marker} {job.job_id}"
    if not job.is_promised:
        return
    ends = _ends_of(job)
    if not ends:
        if not job.is_acceptance_forgotten:
            yield f"I1 {who} was accepted and never ended for its owner; now {job.final}"
        return
    if len(ends) > 1 + len(job.destroyed):
        yield f"I1 {who} has {len(ends)} ends: {sorted(map(str, ends))}"
    end = ends[0]
    late_seconds = time_of(end) - job.accepted_time - deadline_seconds - LATE_SECONDS
    redis_away_seconds = sum(
        trouble.seconds
        for trouble in journal.during(["valkey"], job.accepted_at or 0, end.at)
        if trouble.ended is not None
    )
    if late_seconds > redis_away_seconds and not job.is_acceptance_forgotten:
        yield f"I1 {who} ended {late_seconds:.1f} s too late: {end.code}"
    early_seconds = job.asked_time + deadline_seconds - CLOCKS_SECONDS - time_of(end)
    if end.name == "expired" and early_seconds > 0 and not job.was_destroyed:
        yield f"I1 {who} expired {early_seconds:.1f} s too early"
    if end.name == "cancelled" and job.cancel_asked_at is None:
        yield f"I1 {who} is cancelled, and nobody asked for it"
    if job.final is not None and not job.may_forget(ends[-1]):
        yield from _reads_otherwise(job, ends[-1])


def _ends_of(job: TrackedJob) -> list[Event]:
    """The different ends of its latest run, in the order in which they were seen."""
    ends: dict[tuple[str, int, str], Event] = {}
    for stream in job.streams:
        for event in stream.events:
            if event.ends and stream.run == job.run:
                key = (event.name, event.data["seq"], event.data["updated_at"])
                ends[key] = min(ends.get(key, event), event, key=lambda seen: seen.at)
    return sorted(ends.values(), key=lambda event: event.at)


def _reads_otherwise(job: TrackedJob, end: Event) -> Iterator[str]:
    final = job.final or {}
    if final.get("stage") != end.name:
        yield f"I1 {job.marker} {job.job_id} ended {end.name} and reads {final}"
        return
    for part in ("result", "failure"):
        if final.get(part) != end.data.get(part):
            yield f"I1 {job.marker} {job.job_id} reads another {part} than its stream told: {final.get(part)}"


def seen_late(job: TrackedJob, journal: Journal) -> Iterator[str]:
    """An end comes to an open stream soon after it was written, whatever `updated_at` says. A client that
    was cut off by a trouble is given the trouble's time, and one that waits before it comes back its own."""
    booted = time.time() - time.monotonic()
    for stream in job.streams:
        end = stream.end
        if end is None or not stream.tried_at:
            continue
        waiting_since = max(time_of(end) - booted, stream.tried_at[0])
        troubles = journal.on_the_way(waiting_since, end.at)
        hindered_seconds = sum(min(trouble.seconds, end.at - waiting_since) for trouble in troubles)
        own_seconds = sum(max(0.0, until - max(since, waiting_since)) for since, until in stream.waited)
        late_seconds = end.at - waiting_since - LATE_SECONDS - hindered_seconds - own_seconds
        if late_seconds > 0:
            yield (
                f"I1 {job.marker} {job.job_id} in {stream.name}: its {end.name} was seen "
                f"{late_seconds:.1f} s too late ({stream.connections[-3:]})"
            )


def wrong_result(job: TrackedJob, calls: Iterable[Call], owners_calls: Iterable[Call]) -> Iterator[str]:
    """`done` carries this job's result, which the model, or a kept answer of the same owner, was paid for."""
    end = job.end
    if end is None or end.name != "done":
        return
    who = f"I1 {job.marker} {job.job_id}"
    result = end.data.get("result")
    if not isinstance(result, dict):
        yield f"{who} is done without a result"
        return
    for name, own in (("job_id", job.job_id), ("image_url", job.ticket.get("image_url"))):
        if result.get(name) != own:
            yield f"{who} is done with the result of another: {name} {result.get(name)}"
    answer = str(result.get("answer") or "")
    if answer.startswith(ANSWER) and answer != answer_for(job.marker):
        yield f"{who} is done with the answer of another: {answer}"
    answered_by = result.get("answered_by", "model")
    asked = calls if answered_by == "model" else owners_calls
    was_given = any(call.status == 200 and call.began < end.at for call in asked)
    if answered_by != "fallback" and not was_given:
        yield f"{who} is done, answered by {answered_by}, and nobody was ever paid for that"


def answer_for(marker: str) -> str:
    """What the scripted model replies to the question of one job."""
    return f"{ANSWER}{marker}."


def wrong_answers(job: TrackedJob) -> Iterator[str]:
    """What its owner read: never older than what a stream had told before, and nothing of what is deleted."""
    who = f"{job.marker} {job.job_id}"
    events = [event for stream in job.streams for event in stream.events if "updated_at" in event.data]
    for read in job.reads:
        if job.is_deleted(read.asked_at) and read.status == 200:
            yield f"I1 {who} was deleted, and a {read.how} answers {read.body}"
        told = [event for event in events if event.at < read.asked_at and not job.may_forget(event)]
        newest = max(told, key=lambda event: str(event.data["updated_at"]), default=None)
        if read.status != 200 or newest is None or "updated_at" not in read.body:
            continue
        if str(read.body["updated_at"]) < str(newest.data["updated_at"]):
            yield (
                f"I4 {who}: a {read.how} answered {read.body.get('stage')} of {read.body['updated_at']}, "
                f"though {newest.data['stage']} of {newest.data['updated_at']} had been told"
            )


def dismissed_too_early(
    job: TrackedJob, heard_since: float | None, dismissed: Iterable[tuple[float, float]]
) -> Iterator[str]:
    """204 stops an EventSource for good: whoever gets it was told the end last. So it is with a session's
    stream, heard since that moment and dismissed between those, and each accepted job that it must know."""
    who = f"I4 {job.marker} {job.job_id}"
    for stream in job.own_streams:
        is_lost = stream.resumes_after is not None and job.is_acceptance_forgotten  # no new run after all
        for at in stream.dismissed_at:
            told = [event for event in stream.events if event.at <= at]
            if not (is_lost or job.is_deletion_asked(at) or (told and told[-1].ends)):
                yield f"{who} in {stream.name}: 204, and its client waits for its end"
    parts = [stream for stream in job.streams if stream.is_of_session and stream.run == job.run]
    for at, came_at in dismissed:
        if job.begun_at is None or job.begun_at > at or job.is_deletion_asked(came_at):
            continue
        told = [event for stream in parts for event in stream.events if event.at <= at]
        is_news = heard_since is not None and (job.ticketed_at or 0) >= heard_since and not job.was_destroyed
        if not told[-1].ends if told else is_news:
            yield f"{who}: 204 to its session's stream, whose client waits for its end"


def answered_after_cancel(job: TrackedJob) -> Iterator[str]:
    """Its 202 means that the end is written: nothing else ends the job afterwards, and no stage follows."""
    if job.cancelled_time is None or job.was_destroyed:
        return
    for stream in job.streams:
        for event in stream.events:
            if "updated_at" in event.data and time_of(event) > job.cancelled_time + CLOCKS_SECONDS:
                stage = event.data.get("stage")
                yield f"I1 {job.marker} {job.job_id} in {stream.name}: {stage} after its cancel was confirmed"


def time_of(event: Event) -> float:
    """When it was written, by Redis' clock."""
    return datetime.fromisoformat(str(event.data["updated_at"])).timestamp()


def sessions_broken(jobs: Iterable[TrackedJob], sessions: Mapping[str, float], name: str) -> Iterator[str]:
    """A session's stream, heard since the moment that `sessions` tells for its token, must have brought the
    end of each accepted job whose ticket was asked for later."""
    for job in jobs:
        since = sessions.get(job.token)
        if since is None or not job.is_promised or job.ticketed_at is None or job.ticketed_at < since:
            continue
        if job.was_destroyed:
            continue
        heard: list[Stream] = [stream for stream in job.streams if stream.name == name]
        if not any(stream.end for stream in heard):
            yield f"I4 {job.marker} {job.job_id} is missing in its session's stream, or has no end there"


def feedback_miscounted(jobs: Iterable[TrackedJob], counted: float, *, is_whole: bool) -> Iterator[str]:
    """The first word on a job counts, and no other. Who was killed has forgotten what it counted."""
    given = sum(job.feedback_given > 0 and not job.was_destroyed for job in jobs)
    doubtful = sum(job.feedback_given > 0 and job.was_destroyed for job in jobs)
    if counted > given + 2 * doubtful or (is_whole and counted < given):
        yield f"I1 people spoke of {given + doubtful} answers, and {counted:g} were counted"
