"""Whose job: the caller's, or none. Whoever looks at a job whose log lags behind its record, mends it."""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass, replace
from uuid import UUID

import structlog
from aiohttp import web

from growbin.gateway.context import GATEWAY, Gateway
from growbin.gateway.problems import not_found
from growbin.gateway.sessions import Session, find_session
from growbin.job import JobState, Stage, Upload, job_of


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
    if not hmac.compare_digest(owner.encode(), session.owner.encode()):
        raise not_found()
    if state and state.is_erased:
        if not even_erased:
            raise not_found()
        return KnownJob(job_id, session, upload, state)
    if upload and upload.published and (state is None or stage_of(state) is Stage.AWAITING_UPLOAD):
        # It was accepted while the log could not be written: whoever looks, mends.
        await gateway.progress.queue_job(job_of(upload))
        state = await gateway.progress.state(job_id)
    elif upload and state is None:
        # Its log was lost before anything was accepted.
        await gateway.progress.open_job(upload, gateway.limits.upload_deadline_ms(upload))
        state = await gateway.progress.state(job_id)
    return KnownJob(job_id, session, upload, state)


async def find_upload(request: web.Request) -> KnownJob:
    """As `find_job`, but of a job whose record knows of no publish the state is not asked for: whoever
    accepts it looks at the log in the same breath."""
    gateway = request.app[GATEWAY]
    job_id = job_id_of(request.match_info["job_id"])
    session = await find_session(request)
    if session is None:
        raise not_found()
    upload = await gateway.records.get(job_id)
    is_theirs = hmac.compare_digest((upload.owner if upload else "").encode(), session.owner.encode())
    if upload and is_theirs and not upload.published:
        return KnownJob(job_id, session, upload, None)
    return await find_job(request)


async def looked_at(gateway: Gateway, known: KnownJob) -> KnownJob:
    """With its state as it is now. Raises Rejected(not_found) for one that is deleted."""
    state = await gateway.progress.state(known.job_id)
    if state and state.is_erased:
        raise not_found()
    return replace(known, state=state)


def job_id_of(text: str) -> UUID:
    try:
        job_id = UUID(text)
    except ValueError:
        raise not_found() from None
    if str(job_id) != text.lower():  # UUID() also takes braces, URNs and foreign digits
        raise not_found()
    structlog.contextvars.bind_contextvars(job_id=str(job_id))
    return job_id
