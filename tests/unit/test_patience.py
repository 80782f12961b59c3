"""Many calls under one timer: each is cut when its own time is over."""

from __future__ import annotations

import asyncio
import time

from growbin.adapters.redis.patience import Patience

SECONDS = 0.5


async def held(patience: Patience, seconds: float) -> float | None:
    """Since when it was cut; None when it was not."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(None) as limit:
            patience.begin(limit)
            try:
                await asyncio.sleep(seconds)
            finally:
                patience.end(limit)
    except TimeoutError:
        return time.monotonic() - began
    return None


async def test_each_call_is_cut_when_its_time_is_over_and_no_other() -> None:
    """Those that began later have later; those that were in time never hear of it."""
    patience = Patience(SECONDS)
    calls = list[asyncio.Task[float | None]]()
    for number in range(20):
        calls.append(asyncio.create_task(held(patience, 60 if number % 2 else SECONDS / 10)))
        await asyncio.sleep(0.01)
    cut = await asyncio.gather(*calls)
    assert set(cut[::2]) == {None}
    assert all(seconds is not None and SECONDS <= seconds < 60 for seconds in cut[1::2])


async def test_cancelled_call_is_cancelled_and_not_late() -> None:
    """Also in the moment in which its time is over."""
    patience = Patience(SECONDS)
    call = asyncio.create_task(held(patience, 10))
    await asyncio.sleep(SECONDS / 2)
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()
    assert await held(patience, 10) is not None


def test_another_loop_has_its_own_time() -> None:
    """What was under way when a loop ended keeps no later call from being cut."""
    patience = Patience(SECONDS)

    async def leave_one_behind() -> None:
        asyncio.get_running_loop().call_soon(asyncio.create_task, held(patience, 10))
        await asyncio.sleep(0.01)

    asyncio.run(leave_one_behind())
    assert asyncio.run(held(patience, 10)) is not None
