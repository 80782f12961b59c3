"""Redis' clock jumps: what it does to deadlines and leases is bounded. On a Valkey whose clock is moved."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import ask, open_redis
from growbin.adapters.redis.progress_log import LONGEST_LEASE_MS, RedisProgressLog
from growbin.job import Job
from growbin.local.parts.valkey import Valkey
from growbin.ports import Started
from tests.faults.surgery import FAKETIME
from tests.jobs import job_of, upload

HOUR_SECONDS = 3600
DEADLINE_SECONDS = 300
JUMP_SECONDS = 30
TIME = "return redis.call('TIME')[1]"


class ClockedValkey(Valkey):
    """A Valkey whose wall clock is read from a file."""

    @property
    def clock(self) -> Path:
        return self.folder / "clock-offset"

    def environment(self) -> dict[str, str]:
        assert FAKETIME, "libfaketime is not installed: run `apt-get install faketime`"
        return super().environment() | {
            "LD_PRELOAD": str(FAKETIME[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self.clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",  # the same, for older releases
        }


@dataclass
class Clocked:
    valkey: ClockedValkey
    progress: RedisProgressLog

    async def jump_to(self, seconds: int) -> None:
        """So far away from now; returns once scripts see it."""
        self.valkey.clock.write_text(f"{seconds:+d}")
        async with open_redis(self.valkey.url) as redis, asyncio.timeout(JUMP_SECONDS):
            while abs(int(await ask(redis.eval(TIME, 0))) - seconds - time.time()) > 2:
                await asyncio.sleep(0.02)

    async def left_seconds(self, job: Job) -> float:
        state = await self.progress.state(job.job_id)
        assert state is not None
        return state.left_seconds

    async def begin(self, job: Job, call_id: str) -> object:
        return await self.progress.begin(job, alone=False, call_id=call_id)


@pytest_asyncio.fixture
async def clocked(tmp_path: Path) -> AsyncIterator[Clocked]:
    valkey = ClockedValkey(tmp_path)
    valkey.clock.write_text("+0")
    await valkey.start()
    try:
        await valkey.ready()
        async with RedisProgressLog.open(
            url=f"{valkey.url}/2", image_base_url="http://cdn.test", lease_seconds=5
        ) as progress:
            yield Clocked(valkey, progress)
    finally:
        await valkey.kill()


@pytest.mark.long
async def test_clock_that_jumps_back_gives_a_job_its_life_once_more_at_most(clocked: Clocked) -> None:
    """Not an hour: whoever looks first after the jump sets the deadline, and it stays."""
    job = job_of(upload(), deadline_in_ms=DEADLINE_SECONDS * 1000)
    await clocked.progress.queue_job(job)
    await clocked.jump_to(-HOUR_SECONDS)
    first = await clocked.left_seconds(job)
    assert DEADLINE_SECONDS - 5 < first <= DEADLINE_SECONDS
    await clocked.jump_to(-HOUR_SECONDS + 100)
    assert first - 105 < await clocked.left_seconds(job) <= first - 95
    await clocked.jump_to(-HOUR_SECONDS + DEADLINE_SECONDS + 1)
    state = await clocked.progress.state(job.job_id)
    assert state is not None
    assert state.entry.event == "expired"


@pytest.mark.long
async def test_clock_that_jumps_back_holds_a_dead_holder_s_job_a_minute_at_most(clocked: Clocked) -> None:
    """The lease would lie an hour ahead: the next who asks for it cuts it; a living holder renews it."""
    job = job_of(upload())
    await clocked.progress.queue_job(job)
    assert isinstance(await clocked.begin(job, "dead"), Started)
    await clocked.jump_to(-HOUR_SECONDS)
    assert await clocked.begin(job, "next") == "held"
    async with open_redis(f"{clocked.valkey.url}/2") as redis:
        assert await ask(redis.pttl(keys.lease(job.job_id))) <= LONGEST_LEASE_MS
    await clocked.jump_to(-HOUR_SECONDS + LONGEST_LEASE_MS // 1000 + 1)
    started = await clocked.begin(job, "next")
    assert isinstance(started, Started)
    assert (await clocked.progress.renew(job, 1), await clocked.progress.renew(job, 2)) == ("lost", "ours")


@pytest.mark.long
async def test_clock_that_jumps_ahead_ends_each_job_once_and_a_lease_goes_on(clocked: Clocked) -> None:
    """What lies beyond its deadline is expired, with one end; what does not goes on with its holder, whose
    lapsed lease nobody else has taken."""
    near, far = (job_of(upload(), deadline_in_ms=seconds * 1000) for seconds in (DEADLINE_SECONDS, 7200))
    for job in (near, far):
        await clocked.progress.queue_job(job)
        assert isinstance(await clocked.begin(job, "holder"), Started)
    await clocked.jump_to(HOUR_SECONDS)
    assert await clocked.progress.renew(far, 1) == "ours"
    assert await clocked.begin(far, "other") == "held"
    assert await clocked.progress.expire_if_due(near)
    assert await clocked.progress.renew(near, 1) == "ended"
    history = await clocked.progress.history(near.job_id, None)
    assert history is not None
    assert [entry.event for entry in history.entries].count("expired") == 1
