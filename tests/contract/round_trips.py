"""Round trips to Redis, counted from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def counting(url: str) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A way to the server, and what was sent on it between two answers: one item is one round trip."""
    host, _, port = url.removeprefix("redis://").partition("@")[2].partition("/")[0].partition(":")
    sent: list[bytes] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        is_asking = False

        async def answers() -> None:
            nonlocal is_asking
            while data := await there.read(65536):
                is_asking = False
                writer.write(data)

        task = asyncio.create_task(answers())
        try:
            while data := await reader.read(65536):
                if is_asking:
                    sent[-1] += data
                else:
                    sent.append(data)
                is_asking = True
                back.write(data)
        finally:
            task.cancel()
            back.close()
            writer.close()

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        yield url.replace(f"{host}:{port}", f"127.0.0.1:{server.sockets[0].getsockname()[1]}"), sent
    finally:
        server.close()
