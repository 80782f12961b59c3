"""What bad connections cost a gateway with its default limits: memory, everybody else's wait, and how long.

    python -m bench.connections [WORD...]    a quarter of an hour, or the rows with such a word; Linux

Each row: a good client's waits in quiet, then again from the moment that 500 bad connections come, for half a
minute at least. The bad ones have a process of their own, and five addresses; a flood has one address and 100
connections, which call as fast as they are answered.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import socket
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

import psutil

from bench.instruments import program
from bench.system import HOST, System
from growbin.local.child import draw_port
from tests.processes import command

GOOD_ADDRESS = "127.0.0.9"
ADDRESSES = [f"127.0.0.{number}" for number in range(20, 25)]
CONNECTIONS = 500
FLOODING = 100
HEAD_BYTES = 16 * 1024
SMALL_BUFFER_BYTES = 4096  # of a client that reads nothing: the rest stays where it comes from
LONGEST_SECONDS = 150
QUIET_SECONDS = 10
ROW_SECONDS = 30
GOOD_PAUSE_SECONDS = 0.07  # within the rate of reads
LOOK_SECONDS = 0.25
BEGINNING = b"GET /openapi.json HTTP/1.1\r\nHost: growbin.test\r\n"
BODY = b"POST /api/v1/waste/analyze HTTP/1.1\r\nHost: growbin.test\r\nContent-Type: application/json\r\n"
CHUNKED = BODY + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"


def largest_head(fields: int) -> bytes:
    """As much as a head may be, in so many fields, and without its end."""
    room = (HEAD_BYTES - len(BEGINNING) - 2) // fields - 8
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
    "small heads, 4,000 at once, unread": ((BEGINNING + b"\r\n") * 4000, b""),
    "body that does not come": (BODY + b"Content-Length: 1000\r\n\r\n", b""),
    "dripping body": (BODY + b"Content-Length: 1000\r\n\r\n", b" "),
    "dripping trailers": (CHUNKED, b"X: p\r\n"),
    "endless trailers": (CHUNKED + b"X: %b\r\n" % (b"p" * 8000) * 125, b""),
    "idle after a call": (BEGINNING + b"\r\n", b""),
}
FLOODS: Mapping[str, bytes] = {
    "flood: tickets": BODY + b"Content-Length: 0\r\n\r\n",
    "flood: reads": b"GET /api/v1/waste/jobs HTTP/1.1\r\nHost: a\r\nCookie: growbin_session=unknown\r\n\r\n",
    "flood: nothing there": b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n",
}


# --- the bad ones, in a process of their own -----------------------------------------------------


def held_ports(gateway: psutil.Process) -> set[int]:
    """Whose connections the gateway has not closed, by the clients' ports."""
    return {it.raddr.port for it in gateway.net_connections("tcp") if it.raddr}


async def hold(address: str, port: int, sent: bytes, drip: bytes, held: set[int]) -> None:
    """One bad connection, which reads nothing; returns when the gateway has ended it."""
    loop = asyncio.get_running_loop()
    with socket.socket() as connection, suppress(OSError):
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        connection.bind((address, 0))
        await loop.sock_connect(connection, (HOST, port))
        sending = asyncio.create_task(loop.sock_sendall(connection, sent))
        try:
            await asyncio.sleep(4 * LOOK_SECONDS)  # until it is seen for the first time
            while connection.getsockname()[1] in held:
                await asyncio.sleep(LOOK_SECONDS)
                if drip and sending.done():
                    await loop.sock_sendall(connection, drip)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


async def flood(port: int, call: bytes, until: float) -> int:
    """One connection of a flood; returns how many answers it had."""
    answers = 0
    while time.monotonic() < until:
        with suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(HOST, port, local_addr=(ADDRESSES[0], 0))
            while time.monotonic() < until:
                writer.write(call)
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length or 0))
                answers += 1
            writer.close()
    return answers


async def harm(kind: str, port: int, gateway: psutil.Process) -> tuple[float, int, int]:
    """How many seconds all took, how many are still open, how many answers they had."""
    began = time.monotonic()
    if kind in FLOODS:
        until = began + ROW_SECONDS
        answers = await asyncio.gather(*(flood(port, FLOODS[kind], until) for _ in range(FLOODING)))
        return ROW_SECONDS, 0, sum(answers)
    held: set[int] = set()

    async def look() -> None:
        while True:
            now = held_ports(gateway)
            held.intersection_update(now)
            held.update(now)
            await asyncio.sleep(LOOK_SECONDS)

    looking = asyncio.create_task(look())
    holding = [
        asyncio.create_task(hold(ADDRESSES[number % len(ADDRESSES)], port, *KINDS[kind], held))
        for number in range(CONNECTIONS)
    ]
    _, still = await asyncio.wait(holding, timeout=LONGEST_SECONDS)
    seconds = time.monotonic() - began
    for task in (looking, *still):
        task.cancel()
    return seconds, len(still), 0


def be_bad(kind: str, port: int, pid: int, told: Connection) -> None:
    told.send(asyncio.run(harm(kind, port, psutil.Process(pid))))


# --- the good one ----------------------------------------------------------------------------------


@dataclass
class Gateway:
    port: int
    process: psutil.Process

    async def call(self, line: str, *fields: str) -> bytes:
        """One call on a connection of its own."""
        reader, writer = await asyncio.open_connection(HOST, self.port, local_addr=(GOOD_ADDRESS, 0))
        head = [f"{line} HTTP/1.1", "Host: growbin.test", "Connection: close", *fields, "", ""]
        writer.write("\r\n".join(head).encode())
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 20"), answer
        return answer.partition(b"\r\n\r\n")[2]

    async def waits_ms(self, token: str, end: asyncio.Event) -> list[float]:
        """How long a good client waits for its list of jobs, each time until the `end`."""
        waits = []
        while not end.is_set():
            began = time.monotonic()
            await self.call("GET /api/v1/waste/jobs", f"Authorization: Bearer {token}")
            waits.append((time.monotonic() - began) * 1000)
            await asyncio.sleep(GOOD_PAUSE_SECONDS)
        return waits

    async def most_bytes(self, end: asyncio.Event) -> int:
        most = 0
        while not end.is_set():
            most = max(most, self.process.memory_info().rss)
            await asyncio.sleep(0.05)
        return most


def p95(waits: list[float]) -> float:
    return statistics.quantiles(waits, n=20)[-1]


async def measure(kind: str, gateway: Gateway, token: str) -> str:
    """One row."""
    end = asyncio.Event()
    asyncio.get_running_loop().call_later(QUIET_SECONDS, end.set)
    quiet = await gateway.waits_ms(token, end)
    before_bytes = gateway.process.memory_info().rss
    end = asyncio.Event()
    receiving, sending = multiprocessing.Pipe(duplex=False)
    arguments = (kind, gateway.port, gateway.process.pid, sending)
    bad = multiprocessing.get_context("spawn").Process(target=be_bad, args=arguments)
    async with asyncio.TaskGroup() as group:
        waits = group.create_task(gateway.waits_ms(token, end))
        most_bytes = group.create_task(gateway.most_bytes(end))
        bad.start()
        await asyncio.sleep(ROW_SECONDS)
        seconds, still, answers = await asyncio.to_thread(receiving.recv)
        end.set()
    bad.join()
    busy = waits.result()
    growth_mib = (most_bytes.result() - before_bytes) / 2**20
    ended = f"{seconds:.0f} | {still}" if kind in KINDS else f"{answers / seconds:.0f} answers a second | "
    return f"| {kind} | {growth_mib:.0f} | {ended} | {p95(quiet):.1f} | {p95(busy):.1f} | {max(busy):.0f} |"


async def run(words: Sequence[str]) -> None:
    """Print the table."""
    port, probe_port = draw_port(), draw_port()
    async with System.running(PORT=str(port), PROBE_PORT=str(probe_port), LOG_LEVEL="error") as system:
        ready_url = f"http://{HOST}:{probe_port}/readyz"
        async with program(command("gateway"), system.settings, ready_url) as running:
            gateway = Gateway(port, running.process)
            token = json.loads(await gateway.call("POST /api/v1/sessions"))["token"]
            print("| connections | RSS + MiB | all ended after s | still open | p95 before | p95 | longest |")
            print("|---|---|---|---|---|---|---|")
            for kind in (*KINDS, *FLOODS):
                if not words or any(word in kind for word in words):
                    print(await measure(kind, gateway, token), flush=True)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1:]))
