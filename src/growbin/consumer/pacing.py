"""How fast one consumer may go, and how many jobs at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from growbin.errors import Throttled

log = structlog.get_logger()

FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 30.0
MAX_ASKED_PAUSE_SECONDS = 300.0  # a job's life; "come back tomorrow" is worth another look before


class Closing(Exception):
    """The consumer stops: who still waits here has not begun, and is handed back."""


class Throttle:
    """Adaptive concurrency: halved by a refusal, one more after as many answers as there are places.
    While `is_broken` (key or quota: only a person can mend it) one call at a time probes."""

    def __init__(self, max_places: int = 32) -> None:
        self._max_places = max_places
        self._places = float(max_places)
        self._taken = 0
        self._refusals = 0
        self._open_at = 0.0
        self._changed = asyncio.Condition()
        self._is_closing = asyncio.Event()
        self.is_broken = False

    @property
    def places(self) -> int:
        return max(1, int(self._places))

    def concurrency(self) -> int:
        """How many jobs to take at once now: all; fewer while the model refuses (in powers of two, for
        each change costs a cancel and a consume); none while it is broken; one to probe after a pause."""
        if self.is_broken:
            return 1 if self._open_at <= asyncio.get_running_loop().time() else 0
        return self._max_places if self.places >= self._max_places else 1 << (self.places.bit_length() - 1)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a place and for the pause to be over. Raises Closing."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._taken < self.places or self._is_closing.is_set())
            self._taken += 1
        try:
            await self._wait_out_pause()
            yield
        finally:
            self._taken -= 1
            async with self._changed:
                self._changed.notify_all()

    async def _wait_out_pause(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._is_closing.is_set() and self._open_at > loop.time():
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._open_at):
                    await self._is_closing.wait()
        if self._is_closing.is_set():
            raise Closing

    async def close(self) -> None:
        """Let nobody begin a call any more; calls that run go on."""
        self._is_closing.set()
        async with self._changed:
            self._changed.notify_all()

    def slow_down(self, refusal: Throttled) -> None:
        """Half the places, and a pause: what the model asked for, else doubling, with jitter."""
        self._refusals += 1
        self.is_broken = refusal.broken
        self._places = 1.0 if refusal.broken else max(1.0, self._places / 2)
        backoff = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._refusals - 1, 6))
        pause = min(refusal.retry_after_seconds or backoff, MAX_ASKED_PAUSE_SECONDS)
        pause *= random.uniform(1.0, 1.25)  # noqa: S311 - jitter, not a secret
        self._open_at = max(self._open_at, asyncio.get_running_loop().time() + pause)
        log.warning(
            "model_throttled",
            reason=refusal.reason,
            broken=refusal.broken,
            places=self.places,
            pause_seconds=round(pause, 2),
        )

    def speed_up(self) -> None:
        self._refusals = 0
        self.is_broken = False
        self._places = min(float(self._max_places), self._places + 1 / self._places)


class SoloGate:
    """Many jobs at once, or one alone. Solo jobs take priority; otherwise they would starve."""

    def __init__(self) -> None:
        self._inside = 0
        self._is_alone = False
        self._waiting_for_solo = 0
        self._is_closing = False
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def entered(self, *, alone: bool) -> AsyncIterator[None]:
        """Raises Closing."""
        async with self._changed:
            await (self._wait_for_nobody() if alone else self._wait_for_room())
            if self._is_closing:
                raise Closing
            self._inside += 1
            self._is_alone = alone
        try:
            yield
        finally:
            self._inside -= 1
            self._is_alone = False
            async with self._changed:
                self._changed.notify_all()

    async def _wait_for_nobody(self) -> None:
        self._waiting_for_solo += 1
        try:
            await self._changed.wait_for(lambda: self._inside == 0 or self._is_closing)
        finally:
            self._waiting_for_solo -= 1
            self._changed.notify_all()  # should this one give up, the others need not wait

    async def _wait_for_room(self) -> None:
        await self._changed.wait_for(
            lambda: self._is_closing or not (self._is_alone or self._waiting_for_solo)
        )

    async def close(self) -> None:
        """Let nobody in any more; who is inside goes on."""
        self._is_closing = True
        async with self._changed:
            self._changed.notify_all()
