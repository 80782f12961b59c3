"""What a stream may say of a job (I2, I4): the whole story, once, in order, and to all in the same words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.instruments.oracle import Event, Stream, TrackedJob

TERMINAL = ("done", "failed", "cancelled", "expired")
STORY = ("awaiting_upload", "queued", "fetching", "analysing", "advising")
# A retry, or a new run, tells again from one of these on.
BEGIN_AN_ATTEMPT = ("queued", "fetching")
JOBS_OWN_ID = re.compile(r"[0-9a-z]+\.([0-9]+)\.[0-9a-z]+")
FIELDS = {"job_id", "seq", "stage", "progress", "attempt", "updated_at"}


def stream_violations(job: TrackedJob, stream: Stream) -> Iterator[str]:
    where = f"{job.marker} {job.job_id} in {stream.name}"
    previous: Event | None = None
    seen_ids: set[str] = set()
    for event in stream.events:
        if not _is_of_our_shape(event):
            yield f"I4 {where}: a strange event stands in its story: {event.name} {event.data}"
            continue
        if event.data["job_id"] != job.job_id:
            yield f"I4 {where}: {event.name} of another job, {event.data['job_id']}"
            continue
        if event.name == "reset":
            seen_ids.clear()  # what a Redis that was set back tells again is told again
        if event.id in seen_ids:
            yield f"I4 {where}: the id {event.id} came twice"
        seen_ids.add(event.id)
        if not stream.is_of_session:
            yield from (f"I4 {where}: {wrong}" for wrong in _wrong_id(event))
        if event.name == "reset":
            if not job.may_reset(event.at, in_session=stream.is_of_session):
                yield f"I4 {where}: reset, and this job's history was never destroyed"
        elif previous is None:
            if not (
                stream.resumes_after and job.was_destroyed
            ):  # there may have been no second run after all
                yield from (f"I4 {where}: {wrong}" for wrong in _wrong_beginning(stream, event))
        elif previous.ends:
            yield f"I2 {where}: {event.data['stage']} after {previous.name}"
        else:
            wrongs = _does_not_follow(previous, event, may_skip=job.was_destroyed)
            yield from (f"I4 {where}: {wrong}" for wrong in wrongs)
        previous = event
    is_awaited = job.is_promised and stream.run == job.run and not job.is_acceptance_forgotten
    if previous is not None and is_awaited and stream.end is None:
        yield f"I4 {where}: no end after {previous.data['stage']} ({stream.connections[-3:]})"


def streams_disagree(job: TrackedJob) -> Iterator[str]:
    """What one client was told another must not have been told otherwise: the same bytes under each number,
    and under each id whatever was destroyed."""
    told: dict[tuple[object, ...], tuple[str, str, str]] = {}
    for stream in job.streams:
        for event in stream.events:
            if event.name == "reset" or not _is_of_our_shape(event):
                continue
            keys: list[tuple[object, ...]] = [] if stream.is_of_session else [("id", event.id)]
            if not job.was_destroyed:
                keys.append(("number", stream.run, event.data["seq"]))
                if not stream.is_of_session:
                    keys.append(("id of number", stream.run, event.data["seq"]))
            for key in keys:
                said = event.id if key[0] == "id of number" else event.said
                first, name, words = told.setdefault(key, (stream.name, event.name, said))
                if (name, words) != (event.name, said):
                    yield (
                        f"I4 {job.marker} {job.job_id}: {first} and {stream.name} differ in "
                        f"event {event.data['seq']}: {words} / {said}"
                    )


def _is_of_our_shape(event: Event) -> bool:
    stage = event.data.get("stage")
    fits = {"progress": stage in STORY, "reset": stage in (*STORY, *TERMINAL)}
    return (
        fits.get(event.name, event.name in TERMINAL and event.name == stage) and event.data.keys() >= FIELDS
    )


def _wrong_id(event: Event) -> Iterator[str]:
    """A job's own stream: the id tells the number. (`reset` before an end has an id that is in no log.)"""
    found = JOBS_OWN_ID.fullmatch(event.id)
    if found is None or (event.name != "reset" and int(found[1]) != event.data["seq"]):
        yield f"event {event.data['seq']} has the id {event.id}"


def _wrong_beginning(stream: Stream, event: Event) -> Iterator[str]:
    """Who comes without an id is told everything; of what ended long ago only the end is left."""
    if stream.resumes_after is not None:
        yield f"{event.name} ({event.data['seq']}) came to a client of an earlier run without a reset"
    elif event.data["seq"] != 1:
        yield f"began with event {event.data['seq']} ({event.data['stage']})"


def _does_not_follow(previous: Event, event: Event, *, may_skip: bool) -> Iterator[str]:
    before, after = previous.data, event.data
    if previous.name == "reset" and event.ends and after["seq"] == before["seq"]:
        return  # the snapshot of an ended job, then its end
    if after["seq"] != before["seq"] + 1:
        yield f"event {after['seq']} ({after['stage']}) after {before['seq']} ({before['stage']})"
    if after["progress"] < before["progress"]:
        yield f"progress fell from {before['progress']} to {after['progress']}"
    if after["attempt"] < before["attempt"]:
        yield f"attempt {after['attempt']} after {before['attempt']}"
    if after["updated_at"] < before["updated_at"]:
        yield f"{after['stage']} of {after['updated_at']} after {before['stage']} of {before['updated_at']}"
    yield from _wrong_stage(before, after, may_skip=may_skip)


def _wrong_stage(before: dict[str, object], after: dict[str, object], *, may_skip: bool) -> Iterator[str]:
    """Each stage comes once in an attempt and none is left out; only `done` needs them all."""
    present, stage, attempt = str(before["stage"]), str(after["stage"]), after["attempt"]
    is_same_attempt = attempt == before["attempt"]
    if stage in STORY and is_same_attempt:
        step = STORY.index(stage) - STORY.index(present) if present in STORY else 0
        if step < 1:
            yield f"{stage} after {present} in attempt {attempt}"
        elif step > 1 and not may_skip:
            yield f"{stage} right after {present} in attempt {attempt}"
    elif stage in STORY and stage not in BEGIN_AN_ATTEMPT and not may_skip:
        yield f"attempt {attempt} began with {stage}"
    elif stage == "done" and not may_skip and (present != "advising" or not is_same_attempt):
        yield f"done right after {present} of attempt {before['attempt']}"
