"""What `growbin doctor` measures of one server."""

from __future__ import annotations

import time

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import ask, open_redis
from growbin.measurements import RedisFacts, since_ms


async def use_redis(url: str) -> RedisFacts:
    """Write and read a key that lives a minute. INFO tells the rest, also where CONFIG is forbidden.
    Raises Unavailable."""
    async with open_redis(url) as redis:
        await ask(redis.ping())
        began = time.perf_counter()
        await ask(redis.set(keys.READINESS, "1", ex=keys.READINESS_SECONDS))
        await ask(redis.get(keys.READINESS))
        round_trip_ms = since_ms(began)
        before = time.time()
        seconds, microseconds = await ask(redis.time())
        here = (before + time.time()) / 2
        known = await ask(redis.info("everything"))
    appends = known.get("aof_enabled")
    return RedisFacts(
        version=str(known.get("valkey_version") or known.get("redis_version") or "unknown"),
        round_trip_ms=round_trip_ms,
        appends=None if appends is None else bool(appends),
        eviction_policy=known.get("maxmemory_policy"),
        skew_seconds=here - (int(seconds) + int(microseconds) / 1e6),
    )
