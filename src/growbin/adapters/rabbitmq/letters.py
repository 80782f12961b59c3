"""The parked dead letters on RabbitMQ: listed without being lost, taken one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import aio_pika
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

from growbin.adapters.rabbitmq.broker_link import losses_told
from growbin.adapters.rabbitmq.job_event import read_letter
from growbin.adapters.rabbitmq.topology import Topology
from growbin.errors import Unavailable
from growbin.ports import Letter

# Bounds each step, not the walk: a silent broker is a 503 within two seconds, a long queue is no fault.
STEP_TIMEOUT_SECONDS = 1.3
CLOSE_TIMEOUT_SECONDS = 0.5


class RabbitDeadLetters:
    """Implements ports.DeadLetters; every method may raise Unavailable."""

    def __init__(self, *, urls: list[str], queue_name: str) -> None:
        self._urls = urls
        self._topology = Topology(queue_name)
        self._lock = asyncio.Lock()

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
            async with self._turn(), self._connected() as connection:
                async with asyncio.timeout(STEP_TIMEOUT_SECONDS):
                    await self._topology.declare(connection)
                    channel = await connection.channel()
                    parked = await channel.get_queue(self._topology.parked, ensure=False)
                while message := await parked.get(fail=False, timeout=STEP_TIMEOUT_SECONDS):
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

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AbstractConnection]:
        connection = await self._connect()
        try:
            yield connection
        finally:
            with suppress(Unavailable), losses_told():
                async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                    await connection.close()

    async def _connect(self) -> AbstractConnection:
        """To the first node that answers."""
        for url in self._urls[:-1]:
            try:
                return await aio_pika.connect(url, timeout=STEP_TIMEOUT_SECONDS)
            except CONNECTION_EXCEPTIONS:
                continue
        return await aio_pika.connect(self._urls[-1], timeout=STEP_TIMEOUT_SECONDS)
