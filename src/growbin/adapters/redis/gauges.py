"""What Redis alone knows of all jobs and of itself, for the metrics of a gateway."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self

from redis.asyncio import Redis

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import ask, open_redis
from growbin.errors import Unavailable
from growbin.telemetry import metrics

LATE_SECONDS = 60  # past its deadline a job has ended, or will be ended by the next who looks


class RedisGauges:
    """Read with each scrape, so that they are true during an outage; NaN while they cannot be read."""

    def __init__(self, servers: Mapping[str, Redis], deadline_seconds: int) -> None:
        self._servers = servers
        self._kept_ms = (deadline_seconds + LATE_SECONDS) * 1000

    @classmethod
    @asynccontextmanager
    async def open(cls, *, urls: Mapping[str, str], deadline_seconds: int) -> AsyncIterator[Self]:
        """`urls` by role."""
        async with AsyncExitStack() as stack:
            servers = {role: await stack.enter_async_context(open_redis(url)) for role, url in urls.items()}
            yield cls(servers, deadline_seconds)

    async def read(self) -> None:
        await asyncio.gather(self._read_jobs(), *map(self._read_memory, self._servers))

    async def _read_memory(self, role: str) -> None:
        try:
            memory = await ask(self._servers[role].info("memory"))
        except Unavailable:
            memory = {}
        metrics.redis_used_bytes.labels(role=role).set(memory.get("used_memory", math.nan))
        metrics.redis_limit_bytes.labels(role=role).set(memory.get("maxmemory", math.nan))

    async def _read_jobs(self) -> None:
        try:
            unfinished, waiting, oldest_ms = await self._count_jobs()
        except Unavailable:
            unfinished = waiting = oldest_ms = math.nan
        metrics.unfinished_jobs.set(unfinished)
        metrics.waiting_jobs.set(waiting)
        metrics.oldest_waiting_seconds.set(oldest_ms / 1000)

    async def _count_jobs(self) -> tuple[float, float, float]:
        """How many are unfinished, how many wait, and since how many milliseconds the oldest does."""
        redis = self._servers["progress"]
        seconds, microseconds = await ask(redis.time())
        now_ms = int(seconds) * 1000 + int(microseconds) // 1000
        late_ms = now_ms - self._kept_ms
        _, unfinished, _, waiting, oldest = await ask(
            asyncio.gather(
                redis.zremrangebyscore(keys.UNFINISHED, "-inf", late_ms),
                redis.zcard(keys.UNFINISHED),
                redis.zremrangebyscore(keys.WAITING, "-inf", late_ms),
                redis.zcard(keys.WAITING),
                redis.zrange(keys.WAITING, 0, 0, withscores=True),
            )
        )
        return unfinished, waiting, max(0.0, now_ms - oldest[0][1]) if oldest else 0.0
