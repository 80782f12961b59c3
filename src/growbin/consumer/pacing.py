"""How fast one consumer may go, and how many jobs at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from growbin.errors import Throttled

log = structlog.get_logger()

DOUBLING_SECONDS = 10.0  # from one place to 32 within a minute
PLACES_PAUSE_SECONDS = 0.5
FORGOTTEN_SECONDS = 10.0  # so long after a pause without a refusal the next one is a new congestion
FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 30.0
MAX_ASKED_PAUSE_SECONDS = 300.0  # a job's life; "come back tomorrow" is worth another look before


class Closing(Exception):
    """The consumer stops: who still waits here has not begun, and is handed back."""


class Throttle:
    """Adaptive concurrency: halved by a refusal, doubled again with every `DOUBLING_SECONDS` without one."""

    def __init__(self, max_places: int = 32) -> None:
        self._max_places = max_places
        self._places_then = float(max_places)  # when it was last slowed down
        self._refusals = 0
        self._taken = 0
        self._slowed_at = self._open_at = 0.0
        self._changed = asyncio.Condition()
        self._is_closing = asyncio.Event()

    @property
    def places(self) -> int:
        quiet_seconds = max(0.0, asyncio.get_running_loop().time() - self._open_at)
        doublings = min(quiet_seconds / DOUBLING_SECONDS, 60)
        return min(self._max_places, max(1, int(self._places_then * 2**doublings)))

    @property
    def is_free(self) -> bool:
        """Whether a turn would begin at once."""
        return self._taken < self.places and self._open_at <= asyncio.get_running_loop().time()

    def concurrency(self) -> int:
        """How many jobs to take at once now: all; fewer while the model refuses, in powers of two, for each
        change costs a cancel and a consume."""
        return self._max_places if self.places >= self._max_places else 1 << (self.places.bit_length() - 1)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[float]:
        """Wait for a place and for the pause to be over; yields when that was. Raises Closing."""
        async with self._changed:
            while self._taken >= self.places and not self._is_closing.is_set():
                with suppress(TimeoutError):  # places come back by themselves
                    async with asyncio.timeout(PLACES_PAUSE_SECONDS):
                        await self._changed.wait()
            self._taken += 1
        try:
            await self._wait_out_pause()
            yield asyncio.get_running_loop().time()
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

    def slow_down(self, refusal: Throttled, begun_at: float) -> None:
        """Half the places, and a pause: what the model asked for, else doubling, with jitter. A call that had
        begun (its turn's time) before the last slowing down tells of the same congestion: it lengthens
        the pause, if it asks for more, and halves nothing."""
        now = asyncio.get_running_loop().time()
        is_news = begun_at >= self._slowed_at
        if is_news:
            was_quiet = now > self._open_at + FORGOTTEN_SECONDS
            self._refusals = 1 if was_quiet else self._refusals + 1
            self._places_then = max(1.0, self.places / 2)
            self._slowed_at = now
        elif refusal.retry_after_seconds is None:
            return
        backoff = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._refusals - 1, 6))
        pause = min(refusal.retry_after_seconds or backoff, MAX_ASKED_PAUSE_SECONDS)
        pause *= random.uniform(1.0, 1.25)  # noqa: S311 - jitter, not a secret
        self._open_at = max(self._open_at, now + pause)
        if is_news:
            log.warning(
                "model_throttled", reason=refusal.reason, places=self.places, pause_seconds=round(pause, 2)
            )


class SoloGate:
    """Many jobs at once, or one alone. Solo jobs take priority; otherwise they would starve. One that has
    waited as long as it may goes in beside others that are solo."""

    def __init__(self) -> None:
        self._inside = 0
        self._is_for_solo = False
        self._waiting_for_solo = 0
        self._is_closing = False
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def entered(self, *, alone: bool, patience_seconds: float) -> AsyncIterator[None]:
        """Raises Closing."""
        async with self._changed:
            await (self._wait_for_nobody(patience_seconds) if alone else self._wait_for_room())
            if self._is_closing:
                raise Closing
            self._inside += 1
            self._is_for_solo = alone
        try:
            yield
        finally:
            self._inside -= 1
            self._is_for_solo = self._is_for_solo and self._inside > 0
            async with self._changed:
                self._changed.notify_all()

    async def _wait_for_nobody(self, patience_seconds: float) -> None:
        self._waiting_for_solo += 1
        try:
            try:
                async with asyncio.timeout(patience_seconds):
                    await self._changed.wait_for(lambda: self._is_closing or not self._inside)
            except TimeoutError:
                await self._changed.wait_for(
                    lambda: self._is_closing or not self._inside or self._is_for_solo
                )
        finally:
            self._waiting_for_solo -= 1
            self._changed.notify_all()  # should this one give up, the others need not wait

    async def _wait_for_room(self) -> None:
        await self._changed.wait_for(
            lambda: self._is_closing or not (self._is_for_solo or self._waiting_for_solo)
        )

    async def close(self) -> None:
        """Let nobody in any more; who is inside goes on."""
        self._is_closing = True
        async with self._changed:
            self._changed.notify_all()
