"""A bare TCP connection, for what no HTTP client would do: read nothing, leave without a word."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from tests.stream_conformance.visitor import SOON_SECONDS, Visitor

SMALL_BUFFER_BYTES = 4096
READ_BYTES = 65_536


class Connection:
    def __init__(self, peer: socket.socket, visitor: Visitor) -> None:
        self._socket = peer
        self._visitor = visitor

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, visitor: Visitor, *, small: bool = False) -> AsyncIterator[Connection]:
        """`small`: with room for a few kilobytes only."""
        target = urlsplit(visitor.base_url)
        with socket.socket() as peer:
            peer.setblocking(False)
            if small:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
            address = (target.hostname, target.port or 80)
            await asyncio.get_running_loop().sock_connect(peer, address)
            yield cls(peer, visitor)

    async def ask(self, job_id: str, *, version: str = "1.1", times: int = 1) -> None:
        """Send the request for a stream, `times` in a row without waiting for an answer."""
        target = urlsplit(self._visitor.events_url(job_id))
        lines = [
            f"GET {target.path} HTTP/{version}",
            f"Host: {target.netloc}",
            "Accept: text/event-stream",
            f"Authorization: Bearer {self._visitor.token}",
        ]
        request = "\r\n".join([*lines, "", ""]).encode()
        await asyncio.get_running_loop().sock_sendall(self._socket, request * times)

    async def read(self) -> bytes:
        """Something that has arrived; empty at the end."""
        async with asyncio.timeout(SOON_SECONDS):
            return await asyncio.get_running_loop().sock_recv(self._socket, READ_BYTES)

    async def read_until(self, word: bytes) -> bytes:
        heard = b""
        while word not in heard:
            piece = await self.read()
            assert piece, heard
            heard += piece
        return heard

    async def read_until_closed(self) -> bytes:
        heard = b""
        while piece := await self.read():
            heard += piece
        return heard

    def half_close(self) -> None:
        """Say that nothing more will be asked (FIN), and keep listening."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()

    def reset(self) -> None:
        """Vanish with RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()
