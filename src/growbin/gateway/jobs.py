"""Jobs over HTTP: read, list, cancel, delete."""

from __future__ import annotations

import hashlib
import re
import time
from uuid import UUID

import structlog
from aiohttp import hdrs, web

from growbin.gateway.answers import CancelAsked, json_answer, view_of
from growbin.gateway.context import GATEWAY, Gateway
from growbin.gateway.owned_job import find_job
from growbin.gateway.problems import bad_request, not_found
from growbin.gateway.sessions import address_of, find_session
from growbin.gateway.stream_slots import SLOTS
from growbin.job import RECENT_JOBS

log = structlog.get_logger()

LONGEST_WAIT_SECONDS = 60
LONGEST_LIST = 50


async def read_job(request: web.Request) -> web.Response:
    """`GET /api/v1/waste/jobs/{job_id}`; with `Prefer: wait=N` once it has ended, or N seconds later."""
    gateway = request.app[GATEWAY]
    job = await find_job(request)
    state = job.state
    wait_seconds = _preferred_wait_seconds(request)
    if wait_seconds and state and not state.entry.ends:
        with request.app[SLOTS].take(job.session.owner, address_of(request)):
            await _wait_for_end(gateway, job.job_id, state.entry.id, wait_seconds)
        state = await gateway.progress.state(job.job_id)
    if state is None or state.is_erased:  # perhaps while we waited
        raise not_found()

    answer = json_answer(view_of(state, await gateway.notices.about(state)))
    version = hashlib.sha256((answer.text or "").encode()).hexdigest()[:32]
    if any(known.value in (version, "*") for known in request.if_none_match or ()):
        answer = web.Response(status=304)
    answer.etag = version
    answer.headers[hdrs.CACHE_CONTROL] = "private, no-cache"  # may be kept, must be revalidated
    if wait_seconds:
        answer.headers["Preference-Applied"] = f"wait={wait_seconds}"
    return answer


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
    recent = list(await gateway.records.recent(session.owner, RECENT_JOBS)) if session else []
    cursor = request.query.get("cursor")
    if cursor is not None:
        if cursor not in map(str, recent):
            raise bad_request("`cursor` must be the next_cursor of an earlier page.")
        recent = recent[recent.index(UUID(cursor)) + 1 :]
    page = recent[:limit]
    states = await gateway.session_jobs.states(page)
    known = [state for state in states if state is not None and not state.is_erased]
    return json_answer(  # a JobList
        {
            "jobs": [view_of(state, await gateway.notices.about(state)) for state in known],
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
    """`DELETE /api/v1/waste/jobs/{job_id}`: 204 once it is certain that all but a tombstone will go."""
    job = await find_job(request, even_erased=True)
    await request.app[GATEWAY].eraser.promise(job.job_id, job.session.owner)
    return web.Response(status=204)
