"""The fault proxy does what it says; otherwise the fault tests prove nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from growbin.local.child import draw_port
from tests.faults.instruments.journal import Journal
from tests.faults.instruments.proxy import Proxy

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest_asyncio.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """A proxy in front of a server that sends back what it gets."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    port = draw_port()
    server = await asyncio.start_server(echo, "127.0.0.1", port)
    async with Proxy("echo", port, Journal()) as proxy:
        yield proxy
    server.close()


@contextlib.asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ask(streams: Streams, data: bytes, timeout_seconds: float = 30) -> bytes:
    reader, writer = streams
    writer.write(data)
    async with asyncio.timeout(timeout_seconds):
        return await reader.readexactly(len(data))


async def test_passing_carries_a_megabyte_both_ways_and_the_end(proxy: Proxy) -> None:
    """Bytes and the end of the stream arrive as they were sent."""
    data = bytes(range(256)) * 4096
    async with connected(proxy) as (reader, writer):
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(30):
            assert await reader.read(-1) == data
    async with asyncio.timeout(30):
        while proxy.connections:
            await asyncio.sleep(0.01)


async def test_down_refuses_and_resets_until_passing(proxy: Proxy) -> None:
    """While it is down nobody gets in and nobody stays; then its port is the same."""
    async with connected(proxy) as (reader, writer):
        assert await ask((reader, writer), b"hello") == b"hello"
        await proxy.down()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), 30)
    with pytest.raises(ConnectionRefusedError):
        async with connected(proxy):
            pass
    await proxy.passing()
    async with connected(proxy) as streams:
        assert await ask(streams, b"again") == b"again"


async def test_cut_resets_what_is_open_and_nothing_else(proxy: Proxy) -> None:
    """A cut is felt once, as RST; the next connection works."""
    async with connected(proxy) as (reader, writer):
        assert await ask((reader, writer), b"hello") == b"hello"
        assert await proxy.cut() == 1
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), 30)
    async with connected(proxy) as streams:
        assert await ask(streams, b"again") == b"again"


async def test_half_open_is_silence_and_forgets(proxy: Proxy) -> None:
    """Old and new connections are accepted, read and left without an answer, and reset afterwards."""
    async with connected(proxy) as old:
        assert await ask(old, b"hello") == b"hello"
        await proxy.half_open()
        async with connected(proxy) as new:
            for streams in (old, new):
                with pytest.raises(TimeoutError):
                    await ask(streams, b"anybody?", timeout_seconds=0.2)
            await proxy.passing()
            for reader, _ in (old, new):
                with pytest.raises(ConnectionResetError):
                    await asyncio.wait_for(reader.read(1), 30)


async def test_slow_delays_each_way_and_keeps_order(proxy: Proxy) -> None:
    """Every chunk arrives later, there and back."""
    await proxy.slow(0.1)
    async with connected(proxy) as streams:
        began = time.monotonic()
        assert await ask(streams, b"1") == b"1"
        assert time.monotonic() - began >= 0.2
        streams[1].write(b"23")
        assert await ask(streams, b"45") == b"23"


async def test_throttled_bounds_the_rate(proxy: Proxy) -> None:
    """40 kB at 100 kB a second take at least 0.4 seconds."""
    await proxy.throttled(100_000)
    async with connected(proxy) as streams:
        began = time.monotonic()
        assert len(await ask(streams, b"x" * 40_000)) == 40_000
        assert time.monotonic() - began >= 0.4


async def test_modes_are_written_into_the_journal(proxy: Proxy) -> None:
    """What was done to a link, and for how long, is known afterwards."""
    journal = proxy._journal
    await proxy.down()
    await proxy.passing()
    await proxy.cut()
    assert [(trouble.kind, trouble.ended is None) for trouble in journal.troubles] == [
        ("down", False),
        ("cut", False),
    ]
