"""A dead letter turned into its job's end."""

from __future__ import annotations

import asyncio
import json

import structlog

from growbin.consumer.public_copy import withdraw_unless_done
from growbin.job import Job
from growbin.messages import failure
from growbin.ports import Obituary, ObituaryProgress, UploadStore

log = structlog.get_logger()

OBITUARY_PAUSE_SECONDS = 1.0
BAD_EVENT = "bad_event"


async def end_dead_job(obituary: Obituary, progress: ObituaryProgress, uploads: UploadStore) -> str | None:
    """Turn a dead letter into a terminal event, unless the job has one. Waits while a consumer
    still holds the job and its deadline is ahead. Returns the code that its job ended with, for people;
    None for one that its owner has deleted. Raises Unavailable."""
    log.warning("obituary_read", job_id=str(obituary.job_id), reason=obituary.reason)
    if obituary.job_id is None:
        return BAD_EVENT
    if obituary.job is None:
        await progress.fail_unreadable(obituary.job_id, BAD_EVENT)
    else:
        await _end(obituary.job, progress)
        await withdraw_unless_done(obituary.job, progress, uploads)
    state = await progress.state(obituary.job_id)
    if state is None:
        return BAD_EVENT  # it names a job that nobody knows
    if state.is_erased:
        return None
    event = json.loads(state.entry.data)
    return str((event.get("failure") or {}).get("code") or event["stage"])


async def _end(job: Job, progress: ObituaryProgress) -> None:
    while not await progress.expire_if_due(job):
        if not await progress.lease_lives(job.job_id):
            await progress.finish(job, None, failure("dead_lettered", job.locale))
            return
        await asyncio.sleep(OBITUARY_PAUSE_SECONDS)
