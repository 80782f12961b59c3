"""A TCP proxy that misbehaves on demand, to be put in front of any part.

    proxy = Proxy("redis of consumer-1", upstream_port=6379)
    await proxy.start()          # listens on proxy.port, which never changes
    await proxy.half_open()      # and back: await proxy.passing()

passing     bytes go through
down        connections are refused, the open ones are reset
slow        every chunk arrives later; order is kept
throttled   at most so many bytes a second, in each direction of each connection
silenced    like half open, for those present connections whose client has said a certain word
half open   connections are accepted and read, nothing is forwarded, nobody is told
cut         every open connection is reset, once; new ones are as before
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, cast

from growbin.local.child import draw_port
from tests.faults.instruments.journal import Journal

Mode = Literal["passing", "down", "slow", "throttled", "half open"]
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close() sends RST
GREETING_BYTES = 1024
STALL_BYTES = 256 * 1024  # held back in one direction before the sender is no longer read


class Proxy:
    """Runs in the test's event loop. Each mode lasts until the next; each is written into `journal`."""

    def __init__(self, name: str, upstream_port: int, journal: Journal | None = None) -> None:
        self.name = name
        self.port = draw_port()
        self.upstream_port = upstream_port
        self.mode: Mode = "passing"
        self.delay_seconds = 0.0
        self.bytes_per_second = float("inf")
        self.overhear: Callable[[bytes], None] | None = None  # is given all that clients send
        self.connections: set[Connection] = set()
        self._journal = journal or Journal()
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        if self.mode != "down" and self._listener is None:
            loop = asyncio.get_running_loop()
            self._listener = await loop.create_server(
                lambda: Connection(self), "127.0.0.1", self.port, backlog=1024
            )

    async def stop(self) -> None:
        """Reset what is open and listen no more."""
        self._close_listener()
        self._reset_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.sleep(0)

    async def __aenter__(self) -> Proxy:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # --- modes

    async def passing(self) -> None:
        """All is well again. Connections that lost bytes while half open are reset, as by a peer that
        has forgotten them."""
        self.recover()
        await self.start()

    async def down(self) -> None:
        self.change("down")
        self._close_listener()
        self._reset_all()

    async def slow(self, delay_seconds: float) -> None:
        self.change("slow", delay_seconds=delay_seconds)
        await self.start()

    async def throttled(self, bytes_per_second: float) -> None:
        self.change("throttled", bytes_per_second=bytes_per_second)
        await self.start()

    async def half_open(self) -> None:
        self.change("half open")
        await self.start()

    async def cut(self) -> int:
        """Reset every open connection; returns how many there were."""
        self._journal.note(self.name, "cut")
        return self._reset_all()

    def silence(self, word: bytes) -> None:
        """Half open for the connections whose first bytes held `word`; others, also new ones, are not."""
        self._journal.note(self.name, "silence")
        for connection in self.connections:
            connection.is_silent = connection.is_silent or word in connection.greeting

    def recover(self) -> None:
        """`passing` for a proxy that was not down."""
        for connection in list(self.connections):
            if connection.lost_bytes:
                connection.reset()
        self.change("passing")

    def change(
        self, mode: Mode, *, delay_seconds: float = 0.0, bytes_per_second: float = float("inf")
    ) -> None:
        """Without opening the door again, should it have been down."""
        self._journal.end(self.name)
        if mode != "passing":
            self._journal.begin(self.name, mode)
        self.mode = mode
        self.delay_seconds = delay_seconds
        self.bytes_per_second = bytes_per_second

    def _reset_all(self) -> int:
        connections = list(self.connections)
        for connection in connections:
            connection.reset()
        return len(connections)

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def spawn(self, connection: Connection) -> None:
        task = asyncio.get_running_loop().create_task(connection.connect(), name=f"proxy {self.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Direction:
    """Bytes on their way to `target`; held back as the proxy's mode demands."""

    def __init__(self, proxy: Proxy, ended: Callable[[], None]) -> None:
        self._proxy = proxy
        self._ended = ended
        self._held: deque[tuple[float, bytes]] = deque()  # when due; b"" is the end of the stream
        self._held_bytes = 0
        self._free_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.has_ended = False
        self.source: asyncio.Transport | None = None
        self.target: asyncio.Transport | None = None

    def send(self, data: bytes) -> None:
        proxy = self._proxy
        if self.target is not None and not self._held and proxy.mode == "passing":
            return self._write(data)
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now) + len(data) / proxy.bytes_per_second
        self._held.append((self._free_at + proxy.delay_seconds, data))
        self._held_bytes += len(data)
        if self._held_bytes > STALL_BYTES and self.source is not None:
            self.source.pause_reading()
        self._schedule()
        return None

    def connected(self, target: asyncio.Transport) -> None:
        self.target = target
        self._schedule()

    def forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._held.clear()

    def _schedule(self) -> None:
        if self.target is not None and self._timer is None and self._held:
            self._timer = asyncio.get_running_loop().call_at(self._held[0][0], self._flush)

    def _flush(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._held and self._held[0][0] <= now + 0.0005:
            _, data = self._held.popleft()
            self._held_bytes -= len(data)
            self._write(data)
        if self._held_bytes <= STALL_BYTES and self.source is not None and not self.source.is_closing():
            self.source.resume_reading()
        self._schedule()

    def _write(self, data: bytes) -> None:
        assert self.target is not None
        if self.target.is_closing():
            return
        if data:
            self.target.write(data)
        else:
            self.has_ended = True
            with suppress(OSError):
                self.target.write_eof()
            self._ended()


class Connection(asyncio.Protocol):
    """The client's side of one proxied connection; `Upstream` is the other."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.lost_bytes = False
        self.is_silent = False
        self.greeting = b""
        self.to_upstream = Direction(proxy, self.one_side_ended)
        self.to_client = Direction(proxy, self.one_side_ended)
        self._is_over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        client = cast("asyncio.Transport", transport)
        no_delay(client)
        self.to_client.connected(client)
        self.to_upstream.source = client
        self.proxy.connections.add(self)
        if self.proxy.mode == "half open":
            self.lost_bytes = True
        else:
            self.proxy.spawn(self)

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            upstream, _ = await loop.create_connection(
                lambda: Upstream(self), "127.0.0.1", self.proxy.upstream_port
            )
        except OSError:
            self.reset()
            return
        if self._is_over:
            reset(upstream)
            return
        no_delay(upstream)
        self.to_client.source = upstream
        self.to_upstream.connected(upstream)

    def data_received(self, data: bytes) -> None:
        if self.proxy.overhear is not None:
            self.proxy.overhear(data)
        if len(self.greeting) < GREETING_BYTES:
            self.greeting += data
        self.forward(self.to_upstream, data)

    def eof_received(self) -> bool:
        self.forward(self.to_upstream, b"")
        return True  # the other direction may go on

    @property
    def is_half_open(self) -> bool:
        return self.is_silent or self.proxy.mode == "half open"

    def forward(self, direction: Direction, data: bytes) -> None:
        if self.is_half_open:
            self.lost_bytes = True
        else:
            direction.send(data)

    def one_side_ended(self) -> None:
        if self.to_upstream.has_ended and self.to_client.has_ended:
            self.over(broken=False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.over(broken=exc is not None)

    def pause_writing(self) -> None:
        if self.to_client.source is not None:
            self.to_client.source.pause_reading()

    def resume_writing(self) -> None:
        if self.to_client.source is not None:
            self.to_client.source.resume_reading()

    def reset(self) -> None:
        """RST to both sides."""
        self.over(broken=True, silent=False)

    def over(self, *, broken: bool, silent: bool | None = None) -> None:
        """One side has gone: so goes the other, unless nobody is to be told."""
        if self._is_over:
            return
        if silent is None and self.is_half_open:
            self.lost_bytes = True  # kept open for whoever remains; reset when all is well again
            return
        self._is_over = True
        self.proxy.connections.discard(self)
        for direction in (self.to_upstream, self.to_client):
            transport = direction.target
            if transport is not None and not transport.is_closing():
                if broken:
                    reset(transport)
                else:
                    transport.close()
            direction.forget()


class Upstream(asyncio.Protocol):
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def data_received(self, data: bytes) -> None:
        self._connection.forward(self._connection.to_client, data)

    def eof_received(self) -> bool:
        self._connection.forward(self._connection.to_client, b"")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.over(broken=exc is not None)

    def pause_writing(self) -> None:
        if self._connection.to_upstream.source is not None:
            self._connection.to_upstream.source.pause_reading()

    def resume_writing(self) -> None:
        if self._connection.to_upstream.source is not None:
            self._connection.to_upstream.source.resume_reading()


def no_delay(transport: asyncio.Transport) -> None:
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def reset(transport: asyncio.Transport) -> None:
    """Close so that the peer sees RST, not FIN."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    transport.abort()
