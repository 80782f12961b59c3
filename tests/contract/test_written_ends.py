"""Ends and deletions that a real Valkey has forgotten, and that their writer writes again."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest_asyncio
from redis.asyncio import Redis
from structlog.testing import capture_logs

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import open_redis
from growbin.adapters.redis.progress_log import RedisProgressLog
from growbin.adapters.redis.written_ends import KEPT_SECONDS
from growbin.job import Failure, Job
from growbin.ports import Started
from growbin.telemetry import metrics
from tests.jobs import job_of, upload

FAILURE = Failure(code="photo_missing", detail="gone", retryable=True)
OF_A_JOB = (keys.progress, keys.events, keys.result, keys.lease, keys.attempts)
PATIENCE_SECONDS = 20


@pytest_asyncio.fixture
async def redis(parts: dict[str, str]) -> AsyncIterator[Redis]:
    async with open_redis(f"{parts['REDIS_URL'].rstrip('/')}/2") as other:
        yield other


@pytest_asyncio.fixture
async def progress(parts: dict[str, str]) -> AsyncIterator[RedisProgressLog]:
    url = f"{parts['REDIS_URL'].rstrip('/')}/2"
    async with RedisProgressLog.open(url=url, image_base_url="http://cdn.test", lease_seconds=60) as log:
        yield log


async def failed_job(progress: RedisProgressLog) -> Job:
    job = job_of(upload())
    start = await progress.begin(job, alone=False, call_id="call")
    assert isinstance(start, Started)
    assert await progress.finish(job, start.attempt, FAILURE) == "ours"
    return job


async def forget(redis: Redis, job: Job) -> None:
    await redis.delete(*(key(job.job_id) for key in OF_A_JOB))


async def cut(progress: RedisProgressLog, redis: Redis) -> None:
    """Its link breaks, as it does when its server restarts."""
    await redis.client_kill_filter(_id=str(await progress.redis.client_id()))


async def stage_of(progress: RedisProgressLog, job: Job) -> str | None:
    state = await progress.state(job.job_id)
    if state is None:
        return None
    return "deleted" if state.is_erased else str(json.loads(state.entry.data)["stage"])


async def until_it_is(stage: str, progress: RedisProgressLog, job: Job) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await stage_of(progress, job) != stage:
            await asyncio.sleep(0.02)


async def test_end_that_redis_has_forgotten_is_written_again_and_counted_once(
    progress: RedisProgressLog, redis: Redis
) -> None:
    """Of a job without a delivery: whoever ended it says so once more, and streams hear it."""
    counted = metrics.jobs_ended.labels(outcome="photo_missing")._value.get()
    job = await failed_job(progress)
    await forget(redis, job)
    assert await stage_of(progress, job) is None
    async with redis.pubsub() as heard:
        await heard.subscribe(keys.events(job.job_id))
        await cut(progress, redis)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while " failed " not in str(await heard.get_message(timeout=None)):
                pass
    history = await progress.history(job.job_id, None)
    assert history is not None
    assert [entry.event for entry in history.entries] == ["progress", "failed"]
    assert metrics.jobs_ended.labels(outcome="photo_missing")._value.get() == counted + 1


async def test_cancel_that_redis_has_forgotten_is_written_again(
    progress: RedisProgressLog, redis: Redis
) -> None:
    """The job stood at its stage before, as in a server that was set back."""
    job = job_of(upload())
    await progress.begin(job, alone=False, call_id="call")
    names = [key(job.job_id) for key in OF_A_JOB if key is not keys.result]
    for name in names:
        await redis.copy(name, f"before:{name}")
    assert await progress.cancel(job.job_id)
    await forget(redis, job)
    for name in names:
        await redis.rename(f"before:{name}", name)
    assert await stage_of(progress, job) == "fetching"
    await cut(progress, redis)
    await until_it_is("cancelled", progress, job)


async def test_deletion_that_redis_has_forgotten_is_written_again(
    progress: RedisProgressLog, redis: Redis
) -> None:
    """Nothing deleted stays: the end before it is back, and goes once more, by the agenda as well."""
    job = await failed_job(progress)
    end = await redis.get(keys.result(job.job_id)) or ""
    await progress.erase(job.job_id, job.owner)
    await forget(redis, job)
    await redis.delete(keys.AGENDA)
    await redis.set(keys.result(job.job_id), end)
    await cut(progress, redis)
    await until_it_is("deleted", progress, job)
    assert await redis.zcard(keys.AGENDA)


async def test_what_redis_knows_is_not_written_again(progress: RedisProgressLog, redis: Redis) -> None:
    """Neither an end nor a deletion, nor what is older than Redis may forget."""
    known, deleted, old, forgotten = [await failed_job(progress) for _ in range(4)]
    await progress.erase(deleted.job_id, deleted.owner)
    ends = progress._ends
    ends._kept[2] = replace(ends._kept[2], at=time.monotonic() - KEPT_SECONDS - 1)
    await forget(redis, old)
    await forget(redis, forgotten)
    with capture_logs() as logs:
        await cut(progress, redis)
        await until_it_is("failed", progress, forgotten)  # the last of them but the deletion
        await cut(progress, redis)  # and once more, so that the deletion was looked at as well
        marker = await failed_job(progress)
        await forget(redis, marker)
        await cut(progress, redis)
        await until_it_is("failed", progress, marker)
    again = [line["job_id"] for line in logs if line["event"] == "end_written_again"]
    assert again == [str(forgotten.job_id), str(marker.job_id)]
    assert await stage_of(progress, known) == "failed"
    assert await stage_of(progress, old) is None


async def test_newer_run_is_not_ended_by_the_end_of_the_one_before(
    progress: RedisProgressLog, redis: Redis
) -> None:
    """A redrive takes the end away on purpose."""
    job = await failed_job(progress)
    await progress.reopen(job, 300)
    marker = await failed_job(progress)
    await forget(redis, marker)
    with capture_logs() as logs:
        await cut(progress, redis)
        await until_it_is("failed", progress, marker)
    assert await stage_of(progress, job) == "queued"
    assert [line["job_id"] for line in logs if line["event"] == "end_written_again"] == [str(marker.job_id)]
