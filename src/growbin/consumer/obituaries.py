"""A dead letter turned into its job's end."""

from __future__ import annotations

import asyncio

import structlog

from growbin.messages import failure
from growbin.ports import Obituary, ObituaryProgress

log = structlog.get_logger()

OBITUARY_PAUSE_SECONDS = 1.0


async def end_dead_job(obituary: Obituary, progress: ObituaryProgress) -> None:
    """Turn a dead letter into a terminal event, unless the job has one. Waits while a consumer
    still holds the job and its deadline is ahead. Raises Unavailable."""
    job = obituary.job
    log.warning("obituary_read", job_id=str(obituary.job_id), reason=obituary.reason)
    if job is None:
        if obituary.job_id is not None:
            await progress.fail_unreadable(obituary.job_id, "bad_event")
        return
    while not await progress.expire_if_due(job):
        if not await progress.lease_lives(job.job_id):
            await progress.finish(job, None, failure("dead_lettered", job.locale))
            return
        await asyncio.sleep(OBITUARY_PAUSE_SECONDS)
