"""A TCP proxy between client and service: it cuts the server's words into pieces, or the line itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

CHUNK_BYTES = 65_536


def some_bytes(chance: random.Random) -> int:
    """200 to 20,000: mostly too few for a whole answer, now and then enough for the longest event."""
    return int(200 * 100 ** chance.random())


class Proxy:
    """`piece_bytes` goes towards the client at a time; after `line_bytes()` bytes a connection is cut,
    in mid-word and without a farewell."""

    def __init__(
        self, upstream: str, *, piece_bytes: int | None = None, line_bytes: Callable[[], int] | None = None
    ) -> None:
        target = urlsplit(upstream)
        self._host, self._port = target.hostname, target.port
        self._piece_bytes = piece_bytes or CHUNK_BYTES
        self._line_bytes = line_bytes
        self._open: set[asyncio.StreamWriter] = set()
        self.cuts = 0

    def cut_all(self) -> None:
        for writer in self._open:
            writer.transport.abort()
            self.cuts += 1

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Yields the address to be used in place of the service's own."""
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.close()
            self.cut_all()
            await server.wait_closed()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        line = {writer, far_writer}
        self._open |= line
        up = asyncio.create_task(_pass_on(reader, far_writer, CHUNK_BYTES, None))
        left = self._line_bytes() if self._line_bytes else None
        try:
            await _pass_on(far_reader, writer, self._piece_bytes, left)
            self.cuts += 1
            writer.transport.abort()
        except EOFError:
            writer.close()  # the server's own end: everything it said arrives
        except OSError:
            pass  # the client left, or cut_all
        finally:
            up.cancel()
            await asyncio.wait([up])
            far_writer.transport.abort()
            self._open -= line


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, piece_bytes: int, left: int | None
) -> None:
    """Returns when `left` bytes have passed. EOFError at the reader's end, OSError on a broken line."""
    while left is None or left > 0:
        piece = await reader.read(min(piece_bytes, left or piece_bytes))
        if not piece:
            if writer.can_write_eof():
                writer.write_eof()
            raise EOFError
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)  # so that it leaves as it is, and not together with the next piece
        if left is not None:
            left -= len(piece)
