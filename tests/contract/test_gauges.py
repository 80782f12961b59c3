"""What gateways count of all jobs, on a real Redis."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

import pytest_asyncio
from prometheus_client import REGISTRY

from growbin.adapters.redis import keys
from growbin.adapters.redis.gauges import RedisGauges
from growbin.adapters.redis.progress_log import RedisProgressLog
from growbin.job import Job, Stage
from growbin.messages import failure
from growbin.ports import Started
from tests.jobs import job_of, upload

DATABASE = 10  # of its own: on that of the other tests jobs come and go
DEADLINE_SECONDS = 300
ROLES = ("jobs", "progress", "sessions")


def value(name: str, **labels: str) -> float:
    found = REGISTRY.get_sample_value(name, labels)
    assert found is not None
    return found


async def counted(gauges: RedisGauges) -> tuple[float, float]:
    await gauges.read()
    return value("growbin_unfinished_jobs"), value("growbin_waiting_jobs")


@pytest_asyncio.fixture
async def url(parts: dict[str, str]) -> str:
    return f"{parts['REDIS_URL'].rstrip('/')}/{DATABASE}"


@pytest_asyncio.fixture
async def progress(url: str) -> AsyncIterator[RedisProgressLog]:
    async with RedisProgressLog.open(url=url, image_base_url="http://cdn.test") as progress:
        await progress._redis.delete(keys.UNFINISHED, keys.WAITING)
        yield progress


@pytest_asyncio.fixture
async def gauges(url: str) -> AsyncIterator[RedisGauges]:
    urls = dict.fromkeys(ROLES, url)
    async with RedisGauges.open(urls=urls, deadline_seconds=DEADLINE_SECONDS) as gauges:
        yield gauges


async def begun(progress: RedisProgressLog, job: Job) -> Started:
    start = await progress.begin(job, alone=False, call_id="c")
    assert isinstance(start, Started)
    return start


async def test_job_counts_as_waiting_until_it_is_begun_and_as_unfinished_until_its_end(
    progress: RedisProgressLog, gauges: RedisGauges
) -> None:
    """From `queued` to `fetching` it waits; a retry does not wait anew; after its end it counts nowhere."""
    job = job_of(upload())
    assert await counted(gauges) == (0, 0)
    await progress.queue_job(job)
    assert await counted(gauges) == (1, 1)
    start = await begun(progress, job)
    await progress.announce(job, start.attempt, Stage.FETCHING)
    assert await counted(gauges) == (1, 0)
    await progress.release(job, start.attempt)
    again = await begun(progress, job)
    await progress.announce(job, again.attempt, Stage.FETCHING)
    assert await counted(gauges) == (1, 0)
    await progress.finish(job, None, failure("internal", "ko"))
    assert await counted(gauges) == (0, 0)
    await progress.reopen(job, DEADLINE_SECONDS)
    assert await counted(gauges) == (1, 1)
    await progress.cancel(job.job_id)
    assert await counted(gauges) == (0, 0)


async def test_oldest_waiting_job_tells_its_age_and_one_that_is_long_over_does_not_count(
    progress: RedisProgressLog, gauges: RedisGauges
) -> None:
    """By Redis' clock; nobody was there to end the one that is over."""
    seconds, _ = await progress._redis.time()
    ages = {"young": 5, "old": 100, "over": DEADLINE_SECONDS + 90}
    for name in (keys.UNFINISHED, keys.WAITING):
        await progress._redis.zadd(name, {job: (int(seconds) - age) * 1000 for job, age in ages.items()})
    assert await counted(gauges) == (2, 2)
    assert 100 <= value("growbin_oldest_waiting_seconds") < 130
    await progress._redis.delete(keys.WAITING)
    assert await counted(gauges) == (2, 0)
    assert value("growbin_oldest_waiting_seconds") == 0


async def test_key_of_another_kind_in_their_place_hurts_no_job(
    progress: RedisProgressLog, gauges: RedisGauges
) -> None:
    """What is for metrics alone must not stand in the way of an answer."""
    for name in (keys.UNFINISHED, keys.WAITING):
        await progress._redis.set(name, "odd")
    job = job_of(upload())
    await progress.queue_job(job)
    await progress.finish(job, None, failure("internal", "ko"))
    state = await progress.state(job.job_id)
    assert state is not None
    assert state.entry.event == "failed"
    assert all(map(math.isnan, await counted(gauges)))


async def test_memory_of_each_role_is_told_with_its_limit(gauges: RedisGauges) -> None:
    """As the server tells it; ours has no limit."""
    await gauges.read()
    for role in ROLES:
        assert value("growbin_redis_used_bytes", role=role) > 100_000
        assert value("growbin_redis_limit_bytes", role=role) == 0


async def test_what_redis_does_not_tell_is_unknown_and_not_zero() -> None:
    """An outage must not read as "nobody waits"."""
    urls = dict.fromkeys(ROLES, "redis://127.0.0.1:1/0")
    async with RedisGauges.open(urls=urls, deadline_seconds=DEADLINE_SECONDS) as gauges:
        assert all(map(math.isnan, await counted(gauges)))
    assert math.isnan(value("growbin_oldest_waiting_seconds"))
    assert math.isnan(value("growbin_redis_used_bytes", role="jobs"))
