"""One AMQP connection that is replaced whenever it is lost, over the nodes in turn.

The library's robust connection stays with one address for ever and restores what it remembers;
here every connection is set up from nothing, so there is one path to a working state.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import cycle
from typing import Self

import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection
from yarl import URL

from growbin.adapters.rabbitmq.connection import connected, losses_told
from growbin.errors import Unavailable

log = structlog.get_logger()

CONNECT_TIMEOUT_SECONDS = 5.0
SET_UP_TIMEOUT_SECONDS = 30.0
HEARTBEAT_SECONDS = 9  # the library gives up after 3 x (9 + 1) s and looks every 4 s: 34 s at the latest
PAUSE_SECONDS = (0.2, 0.6)
CANCEL_AGAIN_SECONDS = 1.0  # longer than a connection takes to close

SetUp = Callable[[AbstractConnection], Awaitable[None]]


class BrokerLink:
    """`set_up` opens channels and consumers on each new connection; `ready` is set while it stands."""

    def __init__(self, urls: list[str], name: str, set_up: SetUp, heartbeat_seconds: int) -> None:
        self._urls = urls
        self._name = name
        self._heartbeat_seconds = heartbeat_seconds
        self._set_up = set_up
        self._lost = asyncio.Event()
        self._reason = ""
        self.ready = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, urls: list[str], name: str, set_up: SetUp, heartbeat_seconds: int = HEARTBEAT_SECONDS
    ) -> AsyncIterator[Self]:
        link = cls(urls, name, set_up, heartbeat_seconds)
        keeper = asyncio.create_task(link._keep(), name=f"broker-link-{name}")
        try:
            yield link
        finally:
            while not keeper.done():  # the library may lose a cancellation that comes just as it is answered
                keeper.cancel()
                await asyncio.wait([keeper], timeout=CANCEL_AGAIN_SECONDS)

    def replace(self, *told: object) -> None:
        """The present connection is no good; also called by the library, which tells why."""
        # The first to speak knows best: what closes afterwards closes because of it.
        self._reason = self._reason or next((str(it) for it in told if isinstance(it, BaseException)), "")
        self._lost.set()

    async def watch(self, channel: AbstractChannel) -> None:
        """A channel that closes, or whose consumer the broker cancels, takes the connection with it."""
        channel.close_callbacks.add(self.replace)
        underlying = await channel.get_underlay_channel()
        underlying.on_consumer_cancel_callbacks.add(self.replace)

    async def _keep(self) -> None:
        for url in cycle(self._urls):
            try:
                with losses_told():
                    await self._stand(url)
            except Unavailable as error:
                log.warning(
                    "broker_connection_failed",
                    link=self._name,
                    node=URL(url).authority.rpartition("@")[2],
                    reason=error.reason,
                )
            except Exception:
                log.exception("broker_link_hit_a_bug", link=self._name)  # without it nothing would go on
            await asyncio.sleep(random.uniform(*PAUSE_SECONDS))  # noqa: S311 - jitter, not a secret

    async def _stand(self, url: str) -> None:
        """Connect, set up, and hold until the connection is lost."""
        address = URL(url).update_query(heartbeat=str(self._heartbeat_seconds))
        self._lost.clear()
        self._reason = ""
        async with connected([str(address)], self._name, CONNECT_TIMEOUT_SECONDS) as connection:
            try:
                connection.close_callbacks.add(self.replace)
                async with asyncio.timeout(SET_UP_TIMEOUT_SECONDS):
                    await self._set_up(connection)
                if not self._lost.is_set():
                    self.ready.set()
                    log.info("broker_connected", link=self._name, node=address.authority.rpartition("@")[2])
                await self._lost.wait()
                log.warning("broker_connection_lost", link=self._name, reason=self._reason)
            finally:
                self.ready.clear()
