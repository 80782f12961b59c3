"""How long a call may take: one timer for all that are under way, where each would set and cancel its own."""

from __future__ import annotations

import asyncio

LOOK_SECONDS = 0.05


class Patience:
    """All calls of a process; each may take the same time, so those begun first are due first."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due: dict[asyncio.Timeout, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, call: asyncio.Timeout) -> None:
        """`call` has been entered and expires in its turn. `end` follows, whatever happens."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._timer, self._due = loop, None, {}
        self._due[call] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_later(LOOK_SECONDS, self._look, loop)

    def end(self, call: asyncio.Timeout) -> None:
        self._due.pop(call, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        while self._due and self._due[call := next(iter(self._due))] <= now:
            del self._due[call]
            call.reschedule(now)
        self._timer = loop.call_later(LOOK_SECONDS, self._look, loop) if self._due else None
