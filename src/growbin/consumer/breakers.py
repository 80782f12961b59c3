"""Whose outage is it? A breaker for each part that a job may fail at.

When a step fails at a part, a probe that is no person's job asks whether the part is away for everybody. If
it is, the breaker opens: no new job is begun, and those that were begun wait where they are, in memory, until
the probe passes. No start is burned. If the part is well, the trouble is the job's own. While it is away
that is told on, for the people who wait.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import structlog

from growbin.consumer.pacing import Closing
from growbin.errors import GrowbinError, Unavailable
from growbin.ports import OutageReports
from growbin.telemetry import metrics

log = structlog.get_logger()

PROBE_SECONDS = 10.0  # a probe that takes longer has failed
PROBE_PAUSE_SECONDS = 3.0  # between two probes while the part is away

Found = TypeVar("Found")
Probe = Callable[[], Awaitable[object]]  # raises while the part is away


class Breaker:
    """Of one part. At most one probe asks at any time, however many jobs have failed."""

    def __init__(self, part: str, probe: Probe, outages: OutageReports) -> None:
        self.part = part
        self._probe = probe
        self._outages = outages
        self._is_well = asyncio.Event()
        self._is_well.set()
        self._asking: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        return not self._is_well.is_set()

    async def is_away(self) -> bool:
        """Whether the part is away for everybody; opens the breaker if it is."""
        if self.is_open:
            return True
        if self._asking is None or self._asking.done():
            # In a context of its own, as below: the probe is no job's, and stands in no job's trace.
            self._asking = asyncio.create_task(
                self._look(), name=f"probe-{self.part}", context=contextvars.Context()
            )
        # Shared: a job that is cancelled or loses patience meanwhile takes the answer from nobody.
        await asyncio.shield(self._asking)
        return self.is_open

    async def back(self) -> None:
        """Returns once the part is well."""
        await self._is_well.wait()

    async def _look(self) -> None:
        if reason := await self._ask():
            self._open(reason)

    def _open(self, reason: str) -> None:
        self._is_well.clear()
        metrics.part_away.labels(part=self.part).set(1)
        # In a context of its own: what is said of the part is said of no job.
        self._watching = asyncio.create_task(
            self._watch(reason), name=f"watch-{self.part}", context=contextvars.Context()
        )

    async def _watch(self, reason: str) -> None:
        log.error("part_away", part=self.part, reason=reason)
        began = time.monotonic()
        while True:
            with suppress(Unavailable):  # told again after the next probe
                await self._outages.tell_away(self.part, time.monotonic() - began)
            await asyncio.sleep(PROBE_PAUSE_SECONDS)
            if not await self._ask():
                break
        with suppress(Unavailable):  # then it lapses
            await self._outages.tell_back(self.part)
        metrics.part_away.labels(part=self.part).set(0)
        log.info("part_back", part=self.part, away_seconds=round(time.monotonic() - began, 1))
        self._is_well.set()

    async def _ask(self) -> str:
        """Why the part is away; empty when it is well."""
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self._probe()
        except TimeoutError:
            return "timed out"
        except GrowbinError as error:
            return str(error)
        except Exception:
            # A bug of the probe's own must not stop the queue for good.
            log.exception("probe_hit_a_bug", part=self.part)
        return ""

    async def close(self) -> None:
        tasks = [task for task in (self._asking, self._watching) if task and not task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Breakers:
    """All of a consumer's."""

    def __init__(
        self, probes: Mapping[str, Probe], outages: OutageReports, covered: frozenset[str] = frozenset()
    ) -> None:
        """`covered`: parts that something stands in for, so that jobs are begun all the same."""
        self._breakers = {part: Breaker(part, probe, outages) for part, probe in probes.items()}
        self._covered = covered
        for part in probes:
            metrics.part_away.labels(part=part).set(0)
        self._closing = asyncio.Event()

    @property
    def open_parts(self) -> list[str]:
        return [part for part, breaker in self._breakers.items() if breaker.is_open]

    @property
    def stopping_parts(self) -> list[str]:
        """Those that are away and have nothing that stands in for them."""
        return [part for part in self.open_parts if part not in self._covered]

    @property
    def parts(self) -> list[str]:
        return list(self._breakers)

    async def is_well(self, part: str) -> bool:
        """For readiness."""
        return not self._breakers[part].is_open

    async def wait_if_away(self, part: str) -> bool:
        """True when the part was away for everybody and is back; False when it is well, or none of ours.
        Raises Closing when the consumer stops meanwhile."""
        breaker = self._breakers.get(part)
        if breaker is None or not await self._unless_closing(breaker.is_away()):
            return False
        await self._unless_closing(breaker.back())
        return True

    async def all_well(self, within_seconds: float) -> None:
        """Returns once no part stops us, at the latest after `within_seconds`. Raises Closing."""
        if not self.stopping_parts:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(within_seconds):
                while stopping := self.stopping_parts:
                    await self.back(stopping[0])

    async def back(self, part: str) -> None:
        """Returns once the part is well, as far as we know. Raises Closing."""
        await self._unless_closing(self._breakers[part].back())

    async def pause(self, seconds: float) -> None:
        """Raises Closing when the consumer stops meanwhile."""
        await self._unless_closing(asyncio.sleep(seconds))

    async def _unless_closing(self, waited: Coroutine[Any, Any, Found]) -> Found:
        waiting = asyncio.create_task(waited)
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait((waiting, closing), return_when=asyncio.FIRST_COMPLETED)
            if self._closing.is_set():
                raise Closing
            return waiting.result()
        finally:
            waiting.cancel()
            closing.cancel()

    async def close(self) -> None:
        self._closing.set()
        for breaker in self._breakers.values():
            await breaker.close()
