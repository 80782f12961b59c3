"""Jobs over HTTP: submit, read, list, cancel. `submit_job` is the story of upload-complete."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from aiohttp import hdrs, web
from pydantic import BaseModel

from growbin.errors import Rejected, Unavailable
from growbin.gateway.context import GATEWAY, Gateway
from growbin.gateway.problems import bad_request, not_found
from growbin.gateway.sessions import Session, address_of, find_session
from growbin.job import (
    EXTENSIONS,
    Backlog,
    ContentType,
    Failure,
    Job,
    JobState,
    Result,
    Stage,
    StoredUpload,
    Upload,
)
from growbin.photo import sniff
from growbin.ports import Letter
from growbin.telemetry import metrics

log = structlog.get_logger()

LONGEST_WAIT_SECONDS = 60
LONGEST_LIST = 100


class Links(BaseModel):
    """Where to go with a job, as paths."""

    upload_complete: str
    self: str
    events: str


class Submitted(BaseModel):
    job_id: UUID
    stage: Stage
    links: Links


class JobView(BaseModel):
    """The latest progress event, and where the photo is shown once the job is done."""

    job_id: UUID
    stage: Stage
    progress: int
    message: str
    attempt: int
    image_url: str
    updated_at: str
    result: Result | None = None
    failure: Failure | None = None


class JobList(BaseModel):
    """Newest first; `next_cursor` is null on the last page."""

    jobs: list[JobView]
    next_cursor: str | None


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


# --- whose job ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KnownJob:
    """One of the caller's jobs. The record goes after 24 hours, the state after 7 days."""

    job_id: UUID
    session: Session
    upload: Upload | None
    state: JobState | None

    @property
    def stage(self) -> Stage | None:
        return stage_of(self.state) if self.state else None


def stage_of(state: JobState) -> Stage:
    return Stage(json.loads(state.entry.data)["stage"])


async def find_job(request: web.Request, *, even_erased: bool = False) -> KnownJob:
    """The job in the path, if it is the caller's; else Rejected(not_found), the same for every reason."""
    gateway = request.app[GATEWAY]
    job_id = job_id_of(request.match_info["job_id"])
    session = await find_session(request)
    if session is None:
        raise not_found()
    # Both are always asked, so that a foreign job takes as long as an unknown one.
    upload = await gateway.records.get(job_id)
    state = await gateway.progress.state(job_id)
    owner = upload.owner if upload else state.owner if state else ""
    if not hmac.compare_digest(owner, session.owner):
        raise not_found()
    if state and state.is_erased:
        if not even_erased:
            raise not_found()
        return KnownJob(job_id, session, upload, state)
    if upload and upload.published and (state is None or stage_of(state) is Stage.AWAITING_UPLOAD):
        # It was accepted while the log could not be written: whoever looks, mends.
        await gateway.progress.queue_job(_job_of(upload))
        state = await gateway.progress.state(job_id)
    elif upload and state is None:
        # Its log was lost before anything was accepted.
        await gateway.progress.open_job(upload, upload_deadline_ms(gateway, upload))
        state = await gateway.progress.state(job_id)
    return KnownJob(job_id, session, upload, state)


def upload_deadline_ms(gateway: Gateway, upload: Upload) -> int:
    """When a job without upload expires, on Redis' clock."""
    return upload.created_at_ms + gateway.limits.upload_wait_seconds * 1000


def job_id_of(text: str) -> UUID:
    try:
        job_id = UUID(text)
    except ValueError:
        raise not_found() from None
    if str(job_id) != text.lower():  # UUID() also takes braces, URNs and foreign digits
        raise not_found()
    structlog.contextvars.bind_contextvars(job_id=str(job_id))
    return job_id


# --- submit ------------------------------------------------------------------------------------


async def complete_upload(request: web.Request) -> web.Response:
    """`POST /upload-complete/{job_id}`"""
    gateway = request.app[GATEWAY]
    job_id = job_id_of(request.match_info["job_id"])
    try:
        async with gateway.submissions.setdefault(job_id, asyncio.Lock()):
            stage = await submit_job(gateway, await find_job(request))
    except Rejected as error:
        metrics.uploads.labels(outcome=error.code).inc()
        raise
    except Unavailable:
        metrics.uploads.labels(outcome="unavailable").inc()
        raise
    metrics.uploads.labels(outcome="accepted").inc()
    links = links_of(job_id)
    answer = json_answer(Submitted(job_id=job_id, stage=stage, links=links), status=202)
    answer.headers.update({hdrs.LOCATION: links.self, hdrs.RETRY_AFTER: "1"})
    return answer


async def submit_job(gateway: Gateway, known: KnownJob) -> Stage:
    """The photo is up: look at it, publish the job, say so. Returns the stage the job is in.

    To return is the promise of the 202: S3 holds a photo within the limits, and a quorum queue has
    confirmed the job. To repeat it is safe, in parallel and at any gateway: until a publish is confirmed
    each try stamps the record anew, afterwards nothing is published again, and should two messages have
    been sent nevertheless, the consumer knows them by their job id.

    Raises Rejected (upload_missing, upload_expired, photo_too_large, unsupported_photo, backlog_full)
    and Unavailable; the job may then be submitted again.
    """
    upload = known.upload
    if known.stage is Stage.EXPIRED and upload and upload.accepted_at_ms is None:
        raise _upload_expired()
    if known.stage not in (None, Stage.AWAITING_UPLOAD):
        return known.stage  # it was submitted before, or has ended
    if upload is None:
        raise not_found()

    stored = await gateway.uploads.look(upload.key)
    if stored is None:
        raise _upload_missing(gateway, upload, known.state)
    content_type = await _inspect(gateway, upload, stored)
    backlog = await _admit(gateway)

    accepted = await gateway.records.accept(upload.job_id, stored.etag, stored.length, content_type)
    if accepted is None:
        raise not_found()  # its 24 hours ran out in between
    job = _job_of(accepted)
    if not accepted.published:  # else another gateway was faster, just now
        await gateway.queue.publish(job)
        await gateway.records.mark_published(job.job_id)
    try:
        await gateway.progress.queue_job(job, backlog)
    except Unavailable as error:
        # The job is safe in the queue; the consumer, or the next who looks, writes `queued`.
        log.warning("progress_unwritten", part=error.part, reason=error.reason)
    log.info("job_submitted", length=job.length, content_type=job.content_type)
    return Stage.QUEUED


def _job_of(upload: Upload) -> Job:
    return Job.model_validate(upload.model_dump(include=set(Job.model_fields)))


def _upload_missing(gateway: Gateway, upload: Upload, state: JobState | None) -> Rejected:
    # By Redis' clock, of which the state tells how long the job will still wait: ours may be wrong.
    now_ms = upload_deadline_ms(gateway, upload) - state.left_seconds * 1000 if state else 0
    if now_ms < upload.ticket_expires_at_ms:
        detail = "There is no photo at the upload_url yet. Upload it, then call again."
        return Rejected(409, "upload_missing", detail, retry_after_seconds=1)
    return _upload_expired()


def _upload_expired() -> Rejected:
    return Rejected(410, "upload_expired", "The upload_url ran out without a photo. Ask for a new one.")


async def _inspect(gateway: Gateway, upload: Upload, stored: StoredUpload) -> ContentType:
    """The photo's type, by its first bytes. What cannot be taken is deleted: the ticket may be used again."""
    found = sniff(stored.head)
    if stored.length > gateway.limits.photo_max_bytes:
        await gateway.uploads.delete(upload.key)
        raise photo_too_large(gateway)
    if stored.length == 0 or found is None or found != (upload.declared_type or found):
        await gateway.uploads.delete(upload.key)
        raise unsupported_photo()
    return found


def photo_too_large(gateway: Gateway) -> Rejected:
    megabytes = gateway.limits.photo_max_bytes / 2**20
    return Rejected(413, "photo_too_large", f"A photo may have at most {megabytes:g} MB: send a smaller one.")


def unsupported_photo() -> Rejected:
    return Rejected(
        415, "unsupported_photo", "Send a JPEG, PNG or WebP photo, with the type that was declared for it."
    )


async def _admit(gateway: Gateway) -> Backlog | None:
    backlog = await gateway.queue.backlog()
    if backlog is not None and backlog.waiting >= gateway.limits.backlog_limit:
        detail = "Too many photos are waiting. The upload is kept: call again later."
        raise Rejected(503, "backlog_full", detail, retry_after_seconds=10)
    return backlog


# --- read, list, cancel ------------------------------------------------------------------------


async def read_job(request: web.Request) -> web.Response:
    """`GET /api/v1/waste/jobs/{job_id}`; with `Prefer: wait=N` once it has ended, or N seconds later."""
    gateway = request.app[GATEWAY]
    job = await find_job(request)
    state = job.state
    wait_seconds = _preferred_wait_seconds(request)
    if wait_seconds and state and not state.entry.ends:
        with gateway.slots.take(job.session.owner, address_of(request)):
            await _wait_for_end(gateway, job.job_id, state.entry.id, wait_seconds)
        state = await gateway.progress.state(job.job_id)
    if state is None:
        raise not_found()

    answer = json_answer(_view(state))
    version = hashlib.sha256((answer.text or "").encode()).hexdigest()[:32]
    if any(known.value in (version, "*") for known in request.if_none_match or ()):
        answer = web.Response(status=304)
    answer.etag = version
    answer.headers[hdrs.CACHE_CONTROL] = "private, no-cache"  # may be kept, must be revalidated
    if wait_seconds:
        answer.headers["Preference-Applied"] = f"wait={wait_seconds}"
    return answer


def _view(state: JobState) -> dict[str, Any]:
    """A JobView. The result stands in it as it was written, with what a newer version may have added."""
    known = json.loads(state.entry.data) | {"image_url": state.image_url}
    return {name: known[name] for name in JobView.model_fields if name in known}


def _preferred_wait_seconds(request: web.Request) -> int:
    preferences = ",".join(request.headers.getall("Prefer", []))
    wait = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,6})", preferences)
    return min(int(wait[1]), LONGEST_WAIT_SECONDS) if wait else 0


async def _wait_for_end(gateway: Gateway, job_id: UUID, after_id: str, wait_seconds: float) -> None:
    ends_at = time.monotonic() + wait_seconds
    async with gateway.hub.watch(job_id, after_id) as watch:
        while (left_seconds := ends_at - time.monotonic()) > 0:
            try:
                entry = await watch.next(left_seconds)
            except StopAsyncIteration:
                return
            if entry is None or entry.ends:
                return


async def list_jobs(request: web.Request) -> web.Response:
    """`GET /api/v1/waste/jobs`: the caller's recent jobs, newest first. The cursor is the last job seen."""
    gateway = request.app[GATEWAY]
    limit = _listed(request)
    session = await find_session(request)
    recent = list(await gateway.records.recent(session.owner, LONGEST_LIST)) if session else []
    cursor = request.query.get("cursor")
    if cursor is not None:
        if cursor not in map(str, recent):
            raise bad_request("`cursor` must be the next_cursor of an earlier page.")
        recent = recent[recent.index(UUID(cursor)) + 1 :]
    page = recent[:limit]
    states = await asyncio.gather(*(gateway.progress.state(job_id) for job_id in page))
    return json_answer(  # a JobList
        {
            "jobs": [_view(state) for state in states if state is not None and not state.is_erased],
            "next_cursor": str(page[-1]) if len(recent) > limit else None,
        }
    )


def _listed(request: web.Request) -> int:
    limit = request.query.get("limit", "20")
    if not re.fullmatch(r"[0-9]{1,3}", limit) or not 1 <= int(limit) <= LONGEST_LIST:
        raise bad_request(f"`limit` must be a number from 1 to {LONGEST_LIST}.")
    return int(limit)


async def cancel_job(request: web.Request) -> web.Response:
    """`POST /api/v1/waste/jobs/{job_id}/cancel`: 202 says "asked"; the terminal event says who won."""
    job = await find_job(request)
    await request.app[GATEWAY].progress.cancel(job.job_id)
    log.info("cancel_asked")
    return json_answer(CancelAsked(job_id=job.job_id, asked=True), status=202)


async def delete_job(request: web.Request) -> web.Response:
    """`DELETE /api/v1/waste/jobs/{job_id}`: 204 once nothing of it is left but a tombstone."""
    gateway = request.app[GATEWAY]
    job = await find_job(request, even_erased=True)
    # First the tombstone, so that no consumer brings anything back; then whatever may lie anywhere.
    # Each step may be repeated: should one fail, the client hears 503 and asks again.
    await gateway.progress.erase(job.job_id, job.session.owner)
    for extension in EXTENSIONS.values():
        for key in (f"incoming/{job.job_id}.{extension}", f"{job.job_id}.{extension}"):
            await gateway.uploads.delete(key)
            await gateway.photo_cache.forget(key)
    await gateway.letters.walk(_is_of(job.job_id))
    await gateway.records.erase(job.job_id)
    log.info("job_deleted")
    return web.Response(status=204)


def _is_of(job_id: UUID) -> Callable[[Letter], Awaitable[bool]]:
    async def is_of_job(letter: Letter) -> bool:
        return letter.job_id == job_id

    return is_of_job
