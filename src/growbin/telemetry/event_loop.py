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
    loop = asyncio.get_running_loop()
    due_at = loop.time() + LOOK_SECONDS
    timer: asyncio.TimerHandle

    def look() -> None:  # a timer, as a task that sleeps would cost the loop another turn each time
        nonlocal due_at, timer
        now = loop.time()
        metrics.event_loop_lag_seconds.observe(max(0.0, now - due_at))
        due_at = now + LOOK_SECONDS
        timer = loop.call_at(due_at, look)

    timer = loop.call_at(due_at, look)
    try:
        yield
    finally:
        timer.cancel()
