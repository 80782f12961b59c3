"""How late the event loop is: what every other wait here suffers as well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from growbin.telemetry import metrics

LOOK_SECONDS = 1.0


@asynccontextmanager
async def measured_lag() -> AsyncIterator[None]:
    """Measure it while the block runs."""
    measuring = asyncio.create_task(_measure(), name="event-loop-lag")
    try:
        yield
    finally:
        measuring.cancel()
        await asyncio.wait([measuring])


async def _measure() -> None:
    loop = asyncio.get_running_loop()
    while True:
        due_at = loop.time() + LOOK_SECONDS
        await asyncio.sleep(LOOK_SECONDS)
        metrics.event_loop_lag_seconds.observe(max(0.0, loop.time() - due_at))
