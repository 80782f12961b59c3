"""Calls to Redis, on a real Valkey."""

from __future__ import annotations

import asyncio

from growbin.adapters.redis.connection import ask, open_redis


async def test_cancelled_call_is_cancelled_wherever_it_is(parts: dict[str, str]) -> None:
    """A task that is cancelled in the midst of a call ends, at whichever turn of the event loop it is told:
    not even a call that is just being sent goes on as if nothing had been said."""
    async with open_redis(parts["REDIS_URL"]) as redis:

        async def call_on_and_on() -> None:
            for _ in range(100):
                await ask(redis.ping())

        await ask(redis.ping())  # connected
        for turns in range(60):
            caller = asyncio.create_task(call_on_and_on())
            for _ in range(turns):
                await asyncio.sleep(0)
            caller.cancel()
            await asyncio.wait([caller])
            assert caller.cancelled(), f"it went on when told after {turns} turns"
