"""The photo is uploaded: `submit_job` is the story of upload-complete."""

from __future__ import annotations

import asyncio

import structlog
from aiohttp import hdrs, web

from growbin.errors import Rejected, Unavailable
from growbin.gateway.answers import Submitted, json_answer, links_of
from growbin.gateway.context import GATEWAY, Gateway
from growbin.gateway.owned_job import KnownJob, find_upload, job_id_of, looked_at
from growbin.gateway.problems import not_found, photo_too_large, unsupported_photo
from growbin.gateway.sessions import keep_session, kept
from growbin.job import Job, JobState, Stage, StoredUpload, Upload, job_of
from growbin.photo_file.by_type import sniff
from growbin.ports import Accepted, Backlog
from growbin.telemetry import metrics, traces

log = structlog.get_logger()

UNFINISHED_RETRY_SECONDS = 3


async def complete_upload(request: web.Request) -> web.Response:
    """`POST /upload-complete/{job_id}`"""
    gateway = request.app[GATEWAY]
    job_id = job_id_of(request.match_info["job_id"])
    try:
        async with gateway.submissions.setdefault(job_id, asyncio.Lock()):
            known = await find_upload(request)
            stage = await submit_job(gateway, known)
    except Rejected as error:
        metrics.uploads.labels(outcome=error.code if error.code in metrics.UPLOAD_OUTCOMES else "other").inc()
        raise
    except Unavailable:
        metrics.uploads.labels(outcome="unavailable").inc()
        raise
    metrics.uploads.labels(outcome="accepted").inc()
    links = links_of(job_id)
    answer = json_answer(Submitted(job_id=job_id, stage=stage, links=links), status=202)
    answer.headers.update({hdrs.LOCATION: links.self, hdrs.RETRY_AFTER: "1"})
    keep_session(request, answer, kept(known.session))
    return answer


async def submit_job(gateway: Gateway, known: KnownJob) -> Stage:
    """The photo is up: look at it, publish the job, say so. Returns the stage the job is in.

    To return is the promise of the 202: S3 holds a photo within the limits, and a quorum queue has
    confirmed the job. To repeat it is safe, in parallel and at any gateway: until a publish is confirmed
    each try stamps the job anew, afterwards nothing is published again, and should two messages have
    been sent nevertheless, the consumer knows them by their job id.

    Raises Rejected (upload_missing, upload_expired, photo_too_large, unsupported_photo, backlog_full,
    too_many_unfinished) and Unavailable; the job may then be submitted again.
    """
    if (stage := _stage_reached(known)) is not None:
        return stage
    upload = known.upload
    if upload is None:
        raise not_found()

    stored = await gateway.uploads.look(upload.key)
    refusal = _refusal_of(gateway, upload, stored)
    if stored is None or refusal is not None:
        # Perhaps it went on long ago: only now that matters.
        known = await looked_at(gateway, known)
        if (stage := _stage_reached(known)) is not None:
            return stage
        if stored is not None:
            await gateway.uploads.delete(upload.key)  # the ticket may be used again
        raise refusal or _upload_missing(gateway, upload, known.state)
    backlog = await _admit(gateway)
    accepted = await _accept(gateway, upload)
    if accepted is None:  # it was submitted, or has ended, just now
        stage = _stage_reached(await looked_at(gateway, known))
        if stage is None:
            raise Unavailable("redis", "a log that had gone on was lost")
        if stage not in (Stage.CANCELLED, Stage.EXPIRED):
            # Somebody has its event. Perhaps its sender died before it could say so in the record: then the
            # latest moments that it may have told stand there, so that the job can be driven again.
            latest_ms = gateway.limits.upload_deadline_ms(upload)
            deadline_ms = latest_ms + gateway.limits.job_deadline_seconds * 1000
            await gateway.records.mark_published(_stamped(upload, stored, Accepted(latest_ms, deadline_ms)))
        return stage
    job = _stamped(upload, stored, accepted)
    # First its session, which is to live as long as the answer: nobody could read it otherwise.
    if not known.session.is_kept and not await gateway.sessions.keep(job.owner):
        raise not_found()  # the session has ended in between
    with traces.job(job.job_id):
        await gateway.queue.publish(job)
    await gateway.records.mark_published(job)
    try:
        await gateway.progress.queue_job(job, backlog)
    except Unavailable as error:
        # The job is safe in the queue; the consumer, or the next who looks, writes `queued`.
        log.warning("progress_unwritten", part=error.part, reason=error.reason)
    log.info("job_submitted", length=job.length, content_type=job.content_type)
    return Stage.QUEUED


def _stamped(upload: Upload, stored: StoredUpload, accepted: Accepted) -> Job:
    stamps = {
        "etag": stored.etag,
        "length": stored.length,
        "content_type": sniff(stored.head),
        "accepted_at_ms": accepted.at_ms,
        "deadline_ms": accepted.deadline_ms,
    }
    return job_of(upload.model_copy(update=stamps))


def _stage_reached(known: KnownJob) -> Stage | None:
    """Of a job that was submitted before, or has ended. Raises Rejected(upload_expired) where nothing was."""
    if known.stage is Stage.EXPIRED and known.upload and known.upload.accepted_at_ms is None:
        raise _upload_expired()
    return None if known.stage is Stage.AWAITING_UPLOAD else known.stage


def _upload_missing(gateway: Gateway, upload: Upload, state: JobState | None) -> Rejected:
    # By Redis' clock, of which the state tells how long the job will still wait: ours may be wrong.
    now_ms = gateway.limits.upload_deadline_ms(upload) - state.left_seconds * 1000 if state else 0
    if now_ms < upload.ticket_expires_at_ms:
        detail = "There is no photo at the upload_url yet. Upload it, then call again."
        return Rejected("upload_missing", detail, retry_after_seconds=1)
    return _upload_expired()


def _upload_expired() -> Rejected:
    return Rejected("upload_expired", "The upload_url ran out without a photo. Ask for a new one.")


def _refusal_of(gateway: Gateway, upload: Upload, stored: StoredUpload | None) -> Rejected | None:
    """What cannot be taken, by its length and its first bytes."""
    if stored is None:
        return None
    found = sniff(stored.head)
    if stored.length > gateway.limits.photo_max_bytes:
        return photo_too_large(gateway.limits.photo_max_bytes)
    if stored.length == 0 or found is None or found != (upload.declared_type or found):
        return unsupported_photo()
    return None


async def _admit(gateway: Gateway) -> Backlog | None:
    backlog = await gateway.queue.backlog()
    if backlog is not None and backlog.waiting >= gateway.limits.backlog_limit:
        detail = "Too many photos are waiting. The upload is kept: call again later."
        raise Rejected("backlog_full", detail, retry_after_seconds=10)
    return backlog


async def _accept(gateway: Gateway, upload: Upload) -> Accepted | None:
    """Among the unfinished jobs of its session and address, which are to leave room for others. None: its log
    has gone on."""
    limits = gateway.limits
    accepted = await gateway.progress.accept_job(
        upload,
        session_most=limits.max_unfinished_per_session,
        address_most=limits.max_unfinished_per_address,
        deadline_seconds=limits.job_deadline_seconds,
    )
    if isinstance(accepted, Accepted):
        return accepted
    if accepted == "over":
        return None
    detail = f"This {accepted} has too many photos under way. The upload is kept: call again when one ends."
    raise Rejected("too_many_unfinished", detail, retry_after_seconds=UNFINISHED_RETRY_SECONDS)
