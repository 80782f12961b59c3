"""What bad connections cost a gateway with its default limits: memory, everybody else's wait, and how long.

    python -m bench.connections    about five minutes; Linux (each address has its share of the connections)

The good client asks for the page's description all the while, first in quiet.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from growbin.local.child import draw_port
from growbin.local.parts.valkey import Valkey

HOST = "127.0.0.1"
GOOD_ADDRESS = "127.0.0.9"
ADDRESSES = [f"127.0.0.{number}" for number in range(20, 25)]
CONNECTIONS = 500
HEAD_BYTES = 16 * 1024
LONGEST_SECONDS = 150
START_SECONDS = 60
QUIET_SECONDS = 10
BEGINNING = b"GET /openapi.json HTTP/1.1\r\nHost: growbin.test\r\n"
BODY = b"POST /api/v1/waste/analyze HTTP/1.1\r\nHost: growbin.test\r\nContent-Type: application/json\r\n"


def largest_head(fields: int) -> bytes:
    """As much as a head may be, in so many fields, and without its end."""
    room = (HEAD_BYTES - len(BEGINNING)) // fields - 8
    return BEGINNING + b"".join(b"X%03d: %b\r\n" % (number, b"p" * room) for number in range(fields))


# What each connection sends; what drips, drips after that.
KINDS: Mapping[str, tuple[bytes, bytes]] = {
    "silent": (b"", b""),
    "half a head": (BEGINNING, b""),
    "largest head, 2 fields": (largest_head(2), b""),
    "largest head, 120 fields": (largest_head(120), b""),
    "dripping head": (BEGINNING, b"X"),
    "endless head": (BEGINNING + b"X: " + b"p" * 1_000_000, b""),
    "largest heads, 40 at once, unread": ((largest_head(120) + b"\r\n") * 40, b""),
    "body that does not come": (BODY + b"Content-Length: 1000\r\n\r\n", b""),
    "dripping body": (BODY + b"Content-Length: 1000\r\n\r\n", b" "),
    "trailers": (
        BODY + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + b"X: %b\r\n" % (b"p" * 8000) * 125,
        b"",
    ),
    "idle after a call": (BEGINNING + b"\r\n", b""),
}


async def hold(address: str, port: int, sent: bytes, drip: bytes) -> None:
    """One bad connection; returns when the gateway has ended it."""
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setblocking(False)
        connection.bind((address, 0))
        with suppress(OSError):
            await loop.sock_connect(connection, (HOST, port))
            await asyncio.wait_for(loop.sock_sendall(connection, sent), LONGEST_SECONDS)
            while True:
                with suppress(TimeoutError):
                    if not await asyncio.wait_for(loop.sock_recv(connection, 65536), 1):
                        return
                if drip:
                    await loop.sock_sendall(connection, drip)


async def ask(port: int, waits: list[float]) -> None:
    """A good client: one call after the other, each on a connection of its own."""
    while True:
        began = time.monotonic()
        reader, writer = await asyncio.open_connection(HOST, port, local_addr=(GOOD_ADDRESS, 0))
        writer.write(BEGINNING + b"Connection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        waits.append(time.monotonic() - began)
        await asyncio.sleep(0.05)


async def watch_memory(process: psutil.Process, seen: list[int]) -> None:
    while True:
        seen.append(process.memory_info().rss)
        await asyncio.sleep(0.05)


def p95_ms(waits: list[float]) -> float:
    return statistics.quantiles(waits, n=20)[-1] * 1000


async def measure(kind: str, port: int, process: psutil.Process) -> str:
    """One row: 500 connections of one kind."""
    sent, drip = KINDS[kind]
    seen = [process.memory_info().rss]
    waits: list[float] = []
    beside = [asyncio.create_task(watch_memory(process, seen)), asyncio.create_task(ask(port, waits))]
    began = time.monotonic()
    holding = [
        asyncio.create_task(hold(ADDRESSES[number % len(ADDRESSES)], port, sent, drip))
        for number in range(CONNECTIONS)
    ]
    _, still = await asyncio.wait(holding, timeout=LONGEST_SECONDS)
    seconds = time.monotonic() - began
    await asyncio.sleep(1)
    for task in [*beside, *still]:
        task.cancel()
    growth_mib = (max(seen) - seen[0]) / 2**20
    return f"| {kind} | {growth_mib:.0f} | {seconds:.0f} | {len(still)} | {p95_ms(waits):.0f} |"


async def run() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        valkey = Valkey(Path(folder))
        await valkey.start()
        port, probe_port = draw_port(), draw_port()
        settings = {"REDIS_URL": valkey.url, "PORT": str(port), "PROBE_PORT": str(probe_port)}
        settings |= {"RABBITMQ_URL": "amqp://127.0.0.1:1/", "LOG_LEVEL": "error"}
        gateway = None
        try:
            await valkey.ready()
            gateway = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "growbin", "gateway"), env=settings
            )
            process = psutil.Process(gateway.pid)
            waits: list[float] = []
            async with asyncio.timeout(START_SECONDS):
                while not waits:
                    with suppress(OSError, TimeoutError):
                        await asyncio.wait_for(ask(port, waits), 1)
            waits.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(ask(port, waits), QUIET_SECONDS)
            print("| 500 connections | RSS + MiB | all ended after s | still open | a good client's p95 ms |")
            print("|---|---|---|---|---|")
            print(f"| none | 0 | 0 | 0 | {p95_ms(waits):.0f} |")
            for kind in sys.argv[1:] or KINDS:
                print(await measure(kind, port, process), flush=True)
        finally:
            if gateway is not None:
                gateway.kill()
                await gateway.wait()
            await valkey.stop()


if __name__ == "__main__":
    asyncio.run(run())
