"""One connection for all calls of a client: each is sent at once, and the answers come in their order.

With a pool each call checks a connection out, sends, waits on that socket alone and gives it back: most of
what a call costs. Here concurrent calls share writes, reads and wake-ups, and a caller that is cancelled
leaves the connection whole: its answer comes, and nobody takes it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection, DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

_INCOMPLETE = object()


class SharedLink(asyncio.Protocol):
    """A connection that the library has opened, with its address, TLS, password and database, and that is
    ours to read from then on."""

    def __init__(
        self, connection: AbstractConnection, patience_seconds: float, on_loss: Callable[[], object]
    ) -> None:
        self._on_loss = on_loss
        self._writer = _taken_over(connection)  # kept: a writer that is collected closes its transport
        self._transport = self._writer.transport
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=DefaultParser.parse_error,
            encoding="utf-8",
            errors="replace",  # bytes that are no text make a value unreadable, not the connection
            notEnoughData=_INCOMPLETE,
        )
        self._loop = asyncio.get_running_loop()
        self._patience_seconds = patience_seconds
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._unsent: list[bytes] = []  # of this turn of the loop
        self._silent_since = 0.0  # while somebody waits
        self._is_left = False
        self._transport.set_protocol(self)

    @classmethod
    async def open(
        cls, pool: ConnectionPool, patience_seconds: float, on_loss: Callable[[], object]
    ) -> SharedLink:
        """Like a connection of `pool`, but not one of them. A server that says nothing for
        `patience_seconds`, though it was asked, is asked no more. `on_loss` is told when it is closed, by
        either side."""
        connection: AbstractConnection = pool.connection_class(**pool.connection_kwargs)
        await connection.connect()  # type: ignore[no-untyped-call]
        return cls(connection, patience_seconds, on_loss)

    @property
    def is_usable(self) -> bool:
        if self._waiting and self._loop.time() - self._silent_since > self._patience_seconds:
            self._transport.abort()  # half open, or frozen: whoever waits tries elsewhere
            return False
        return not (self._is_left or self._transport.is_closing())

    def call(self, command: tuple[Any, ...]) -> asyncio.Future[Any]:
        """Send it, and return what its answer comes to."""
        answer = self._loop.create_future()
        if not self._waiting:
            self._silent_since = self._loop.time()
        self._waiting.append(answer)
        name, *arguments = command
        self._unsent.append(hiredis.pack_command((*name.split(), *arguments)))  # "SCRIPT LOAD" is two words
        if len(self._unsent) == 1:
            self._loop.call_soon(self._send)
        return answer

    def _send(self) -> None:
        """One call of the kernel for all that is asked in one turn: thousands may come back at once."""
        if not self._transport.is_closing():
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def leave(self) -> None:
        """Close it once those who wait have their answers."""
        self._is_left = True
        if self._waiting:
            self._loop.call_later(self._patience_seconds, self._transport.abort)
        else:
            self._transport.close()

    # --- called by the event loop

    def data_received(self, data: bytes) -> None:
        self._silent_since = self._loop.time()
        self._reader.feed(data)
        try:
            while (answer := self._reader.gets()) is not _INCOMPLETE:
                if not isinstance(answer, hiredis.PushNotification):
                    _hand_over(self._waiting.popleft(), answer)
        except (InvalidResponse, IndexError):  # no order is left in which answers could be told apart
            self._transport.abort()
        if self._is_left and not self._waiting:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        while self._waiting:
            _hand_over(self._waiting.popleft(), RedisConnectionError(f"connection lost: {error}"))
        self._on_loss()


def _taken_over(connection: AbstractConnection) -> asyncio.StreamWriter:
    """What the library has opened; it has no way of its own to hand it on."""
    writer = connection._writer  # noqa: SLF001
    assert writer is not None
    connection._reader = connection._writer = None  # noqa: SLF001
    return writer


def _hand_over(waiting: asyncio.Future[Any], answer: Any) -> None:
    if waiting.done():  # who asked was cancelled
        return
    if isinstance(answer, Exception):
        waiting.set_exception(answer)
    else:
        waiting.set_result(answer)
