"""The letters on RabbitMQ: listed without being lost, taken one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Self

from growbin.adapters.rabbitmq.connection import connected, losses_told
from growbin.adapters.rabbitmq.job_event import read_letter
from growbin.adapters.rabbitmq.topology import Topology
from growbin.ports import Letter

# Bounds each step, not the walk: a silent broker is a 503 within two seconds, a long queue is no fault.
STEP_TIMEOUT_SECONDS = 1.3


class RabbitDeadLetters:
    """Implements ports.DeadLetters; every method may raise Unavailable."""

    def __init__(self, urls: list[str], topology: Topology) -> None:
        self._urls = urls
        self._topology = topology
        self._lock = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls, *, urls: list[str], queue_name: str) -> AsyncIterator[Self]:
        """Each walk has a connection of its own: nothing is held open between them."""
        yield cls(urls, Topology(queue_name))

    async def list(self) -> Sequence[Letter]:
        found: list[Letter] = []

        async def note(letter: Letter) -> bool:
            found.append(letter)
            return False

        await self.walk(note)
        return found

    async def walk(self, act: Callable[[Letter], Awaitable[bool]]) -> None:
        # Letters that stay are held until the end and return when the connection closes. Each return
        # counts as a delivery: the queue's delivery limit is far above any number of listings.
        with losses_told():
            async with self._turn(), connected(self._urls, "letters", STEP_TIMEOUT_SECONDS) as connection:
                async with asyncio.timeout(STEP_TIMEOUT_SECONDS):
                    await self._topology.declare(connection)
                    channel = await connection.channel()
                for name in (self._topology.letters, self._topology.parked):
                    queue = await channel.get_queue(name, ensure=False)
                    while message := await queue.get(fail=False, timeout=STEP_TIMEOUT_SECONDS):
                        if await act(read_letter(message)):
                            await message.ack()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One walk at a time: a letter that another walk holds would not be seen."""
        async with asyncio.timeout(STEP_TIMEOUT_SECONDS):
            await self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()
