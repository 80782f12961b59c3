"""Which parts consumers find away, on Redis: a key for each, which lapses unless it is renewed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Self

from redis.asyncio import Redis

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import ask, open_redis
from growbin.adapters.redis.stored_values import read_outage
from growbin.job import rfc3339
from growbin.ports import PartAway


class RedisOutages:
    """Implements ports.OutageReports and ports.Outages."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @classmethod
    @asynccontextmanager
    async def open(cls, *, url: str) -> AsyncIterator[Self]:
        async with open_redis(url) as redis:
            yield cls(redis)

    async def tell_away(self, part: str, away_seconds: float) -> None:
        seconds, microseconds = await ask(self._redis.time())
        since_ms = int(seconds) * 1000 + int(microseconds) // 1000 - int(away_seconds * 1000)
        told, name = json.dumps({"since": rfc3339(since_ms)}), keys.part(part)
        if not await ask(self._redis.set(name, told, nx=True, ex=keys.PART_SECONDS)):
            await ask(self._redis.expire(name, keys.PART_SECONDS))

    async def tell_back(self, part: str) -> None:
        await ask(self._redis.delete(keys.part(part)))

    async def away(self, parts: Sequence[str]) -> Sequence[PartAway]:
        told = await ask(self._redis.mget([keys.part(part) for part in parts]))
        found = [read_outage(part, text) for part, text in zip(parts, told, strict=True) if text]
        return sorted((away for away in found if away), key=lambda away: away.since)
