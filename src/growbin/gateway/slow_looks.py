"""The slow look at the lists of all session streams of a gateway."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import web

from growbin.errors import Unavailable
from growbin.gateway.hub import Hub
from growbin.ports import JobRecords

if TYPE_CHECKING:
    from growbin.gateway.session_watch import SessionWatch

SLOW_LOOK_SECONDS = 15.0
LOOK_PAUSE_SECONDS = 0.5
LOOKED_AT_ONCE = 200


class SlowLooks:
    """For all session streams of a gateway: whether their lists have changed without a word, each looked at
    every SLOW_LOOK_SECONDS, many in one round trip."""

    def __init__(self, hub: Hub, records: JobRecords, pause_seconds: float = SLOW_LOOK_SECONDS) -> None:
        self._hub = hub
        self._records = records
        self._pause_seconds = pause_seconds
        self._due: dict[SessionWatch, float] = {}  # by time: what was looked at goes to the end
        self._timer: asyncio.TimerHandle | None = None

    def add(self, watch: SessionWatch) -> None:
        loop = asyncio.get_running_loop()
        self._due[watch] = loop.time() + self._pause_seconds
        if self._timer is None:
            self._timer = loop.call_later(LOOK_PAUSE_SECONDS, self._look)

    def remove(self, watch: SessionWatch) -> None:
        self._due.pop(watch, None)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        due: list[SessionWatch] = []
        while self._due and self._due[watch := next(iter(self._due))] <= loop.time():
            del self._due[watch]
            self._due[watch] = loop.time() + self._pause_seconds
            due.append(watch)
        for first in range(0, len(due), LOOKED_AT_ONCE):
            self._hub.spawn(self._look_at(due[first : first + LOOKED_AT_ONCE]))
        self._timer = loop.call_later(LOOK_PAUSE_SECONDS, self._look) if self._due else None

    async def _look_at(self, watches: list[SessionWatch]) -> None:
        with suppress(Unavailable):  # at the next look, then
            newest = await self._records.newest([watch.owner for watch in watches])
            for watch, job_id in zip(watches, newest, strict=True):
                if not watch.knows(job_id):
                    watch.look()


LOOKS = web.AppKey("looks", SlowLooks)
