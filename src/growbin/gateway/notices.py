"""What people who wait hear beside their job's story. Of a part that is away: once an outage on each open
stream, and in the job as they read it. Of their place in line: when it has fallen. One look serves the whole
process, and nobody looks while nobody waits.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from growbin.errors import PARTS, Unavailable
from growbin.gateway.answers import Notice, notice_of
from growbin.gateway.live_stream import LiveStream
from growbin.job import JobState
from growbin.ports import JobQueue, Outages, PartAway

LOOK_SECONDS = 2.0
SAME_OUTAGE_SECONDS = 30.0  # a part that comes back for less goes on being away
TOLD_AT_ONCE = 50  # streams; then events have their turn


@dataclass(frozen=True, slots=True)
class Outage:
    """`number` grows from each outage to the next, whatever the part."""

    number: int
    away: PartAway
    seen_at: float


class Notices:
    """All that one gateway tells of parts that are away."""

    def __init__(self, outages: Outages, queue: JobQueue) -> None:
        self._outages = outages
        self._queue = queue
        self._open: list[Outage] = []  # the longest away first
        self._last: dict[str, Outage] = {}  # of each part
        self._newest = 0
        self._looked_at = float("-inf")
        self._told: dict[LiveStream, int] = {}  # the newest outage that each has heard of
        self._looking: asyncio.Task[None] | None = None

    async def about(self, state: JobState) -> Notice | None:
        """For a job that is read: of the part that is away the longest; None when it has ended."""
        if state.entry.ends:
            return None
        if asyncio.get_running_loop().time() - self._looked_at > LOOK_SECONDS:
            await self._look()
        return notice_of(self._open[0].away, state.locale) if self._open else None

    def add(self, stream: LiveStream) -> None:
        """From now on `stream` is told of each outage once, also of one that has begun before."""
        self._told[stream] = 0
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._keep_telling(), name="notices")

    def remove(self, stream: LiveStream) -> None:
        del self._told[stream]

    async def _keep_telling(self) -> None:
        while self._told:
            await asyncio.sleep(LOOK_SECONDS)
            await self._look()
            await self._tell()
            await self._tell_places()

    async def _tell(self) -> None:
        newest = max((outage.number for outage in self._open), default=0)
        unaware = [stream for stream, told in self._told.items() if told < newest]
        for place, stream in enumerate(unaware, start=1):
            if (told := self._told.get(stream)) is not None:  # it may have left meanwhile
                news = [outage.away for outage in self._open if outage.number > told]
                if stream.tell(news):
                    self._told[stream] = newest
            if place % TOLD_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _tell_places(self) -> None:
        """From the broker's own count, which admission reads as well: no place costs a look of its own."""
        in_line = [stream for stream in self._told if stream.is_in_line]
        backlog = await self._queue.backlog() if in_line else None
        if backlog is None:
            return
        for number, stream in enumerate(in_line, start=1):
            if stream in self._told:  # it may have left meanwhile
                stream.tell_places(backlog)
            if number % TOLD_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _look(self) -> None:
        self._looked_at = asyncio.get_running_loop().time()
        try:
            away = await self._outages.away(PARTS)
        except Unavailable:
            return  # what was known stands until Redis tells otherwise
        self._open = [self._outage(part) for part in away]

    def _outage(self, away: PartAway) -> Outage:
        """The one that is known, or a new one. Consumers that find a part back at different times, or a part
        that comes and goes, make no new one."""
        known = self._last.get(away.part)
        is_known = known is not None and (
            known.away.since == away.since or self._looked_at - known.seen_at < SAME_OUTAGE_SECONDS
        )
        if known is None or not is_known:
            self._newest += 1
        number = known.number if known is not None and is_known else self._newest
        outage = self._last[away.part] = Outage(number, away, self._looked_at)
        return outage
