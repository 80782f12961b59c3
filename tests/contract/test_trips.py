"""Round trips of a whole job to Redis, counted from outside."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import open_redis
from growbin.adapters.redis.progress_log import RedisProgressLog
from growbin.budgets import Budget, parse_limits
from growbin.consumer.handle_job import handle_job
from growbin.ports import Ack
from tests.contract.round_trips import counting
from tests.jobs import job_of, upload
from tests.unit.test_consumer import Bench

# begun (fetching), call counted (analysing), answer kept (advising), done (given back, off the unfinished)
TRIPS_OF_A_JOB = 4


async def trips(url: str, budget: Budget | None, answers_depend_on: str | None) -> int:
    async with (
        counting(url) as (counted_url, sent),
        RedisProgressLog.open(url=counted_url, image_base_url="http://cdn.test", budget=budget) as progress,
    ):
        bench = Bench()
        bench.consumer = replace(
            bench.consumer,
            leases=progress,
            progress=progress,
            calls=progress,
            answers_depend_on=answers_depend_on,
            lease_renew_seconds=60,
        )
        await handle_job(job_of(upload()), bench.consumer)  # connects, and brings the script
        before = len(sent)
        async with asyncio.timeout(30):
            another = job_of(upload().model_copy(update={"owner": "c" * 64, "question": str(before)}))
            assert await handle_job(another, bench.consumer) == Ack()
        assert bench.outside.model_calls == 2
        return len(sent) - before


async def test_budget_and_kept_answers_ride_in_calls_that_are_made_anyway(parts: dict[str, str]) -> None:
    """A job asks Redis as often with them as without: four times."""
    url = f"{parts['REDIS_URL'].rstrip('/')}/2"
    limits = parse_limits("everybody", "1000000 calls/day, $1000/day, 1000000 calls/minute")
    async with open_redis(url) as redis:
        await redis.delete(keys.budget(keys.EVERYBODY), keys.open_reservations())
    assert await trips(url, None, None) == TRIPS_OF_A_JOB
    assert await trips(url, Budget(limits, call_micros=10), "a model and rules") == TRIPS_OF_A_JOB
