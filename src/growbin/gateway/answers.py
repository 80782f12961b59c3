"""What the gateway answers: each body's shape, and a job as its owner sees it."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel

from growbin.job import Failure, JobState, Locale, LogEntry, NamedAdvice, Result, Stage
from growbin.messages import notice, place_in_line
from growbin.ports import PartAway

QUEUE = "queue"  # the part that a notice of a place in line names


class Links(BaseModel):
    """Where to go with a job, as paths."""

    upload_complete: str
    self: str
    events: str


class Submitted(BaseModel):
    job_id: UUID
    stage: Stage
    links: Links


class Notice(BaseModel):
    """A part is away that the job needs: it keeps its place and takes longer. `job_id` stands only in the
    event of a job's own stream. Or, with the part `queue`, a job's place in line has fallen: to `position`,
    from where it takes about `wait_seconds` where that is known."""

    part: str
    message: str
    since: str
    job_id: UUID | None = None
    position: int | None = None
    wait_seconds: int | None = None


class JobView(BaseModel):
    """The latest progress event, and where the photo is shown once the job is done; a notice while a part is
    away."""

    job_id: UUID
    stage: Stage
    progress: int
    message: str
    attempt: int
    image_url: str
    updated_at: str
    result: Result | None = None
    failure: Failure | None = None
    notice: Notice | None = None


class JobList(BaseModel):
    """Newest first; `next_cursor` is null on the last page."""

    jobs: list[JobView]
    next_cursor: str | None


class RuleAdvice(BaseModel):
    """By name the likeliest things, best first, or none; by category one item. `place` is the municipality
    whose overlay is in force."""

    locale: Locale
    place: str | None
    rules_version: str
    items: list[NamedAdvice]


class CancelAsked(BaseModel):
    job_id: UUID
    asked: bool


def links_of(job_id: UUID) -> Links:
    job = f"/api/v1/waste/jobs/{job_id}"
    return Links(upload_complete=f"/upload-complete/{job_id}", self=job, events=f"{job}/events")


def json_answer(answer: BaseModel | dict[str, Any], status: int = 200) -> web.Response:
    """`answer` as it was made: what was not given stays out, what was given as null stays in."""
    if isinstance(answer, BaseModel):
        text = answer.model_dump_json(exclude_unset=True)
    else:
        text = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
    return web.Response(status=status, text=text, content_type="application/json")


def notice_of(away: PartAway, locale: Locale) -> Notice:
    return Notice(part=away.part, message=notice(away.part, locale), since=away.since)


def notice_event(away: PartAway, locale: Locale, job_id: UUID | None = None) -> LogEntry:
    """A notice on a stream. It has no id, for it is of no job's story."""
    told = notice_of(away, locale)
    if job_id is not None:
        told = told.model_copy(update={"job_id": job_id})
    return LogEntry("", "notice", told.model_dump_json(exclude_unset=True))


def place_event(
    job_id: UUID, position: int, wait_seconds: int | None, since: str, locale: Locale
) -> LogEntry:
    """A notice that the job's place in line has fallen; nor is this of its story."""
    words = place_in_line(position, wait_seconds, locale)
    told = Notice(part=QUEUE, message=words, since=since, job_id=job_id, position=position)
    if wait_seconds is not None:
        told.wait_seconds = wait_seconds
    return LogEntry("", "notice", told.model_dump_json(exclude_unset=True))


def view_of(state: JobState, told: Notice | None) -> dict[str, Any]:
    """A JobView. The result stands in it as it was written, with what a newer version may have added."""
    known = json.loads(state.entry.data) | {
        "image_url": state.image_url,
        "notice": told and told.model_dump(exclude_unset=True),
    }
    return {name: known[name] for name in JobView.model_fields if name in known}
