"""Connections that want more than their share of a gateway: of its memory, of its turns."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from contextlib import ExitStack, suppress

import aiohttp
import psutil

from tests.faults.cluster import Cluster, Servers
from tests.faults.steps import eventually
from tests.faults.test_rates import BEHIND_PROXY, an_address, visitors

CONNECTIONS = 500
MOST_BYTES = 60 * 2**20  # 50 MiB are promised, and 49 were seen
HEAD_BYTES = 16 * 1024
NOWHERE = "/nowhere"


def largest_call(path: str) -> bytes:
    """A call of many fields, with a head as long as it may be."""
    beginning = f"GET {path} HTTP/1.1\r\nHost: growbin.test\r\n".encode()
    room = (HEAD_BYTES - len(beginning) - 2) // 120 - 8
    return beginning + b"".join(b"X%03d: %b\r\n" % (number, b"p" * room) for number in range(120)) + b"\r\n"


async def read_once(port: int, path: str) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}{path}") as answer:
        assert answer.status == 200
        await answer.read()


async def test_unread_answers_cost_a_gateway_little_and_are_cut(servers: Servers) -> None:
    """Clients send one call behind the other and read none of the long answers: a gateway keeps one call of
    each and a piece of one answer, and ends them."""
    async with Cluster.running(servers, gateways=1, consumers=0, STREAM_WRITE_TIMEOUT_SECONDS="5") as cluster:
        gateway = cluster.gateways[0]
        assert gateway.part.pid is not None
        process = psutil.Process(gateway.part.pid)
        loop = asyncio.get_running_loop()
        port = gateway.links["http"].upstream_port
        calls = largest_call("/openapi.json") * 40
        await read_once(port, "/openapi.json")  # no connection is to blame for the first one
        before_bytes = most_bytes = process.memory_info().rss
        with ExitStack() as stack:
            connections: list[socket.socket] = []
            for _ in range(CONNECTIONS):
                connection = stack.enter_context(socket.socket())
                connection.setblocking(False)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                await loop.sock_connect(connection, ("127.0.0.1", port))
                connections.append(connection)

            async def send(connection: socket.socket) -> None:
                with suppress(OSError):
                    await loop.sock_sendall(connection, calls)

            sending = [asyncio.create_task(send(connection)) for connection in connections]

            async def are_ended() -> bool:
                nonlocal most_bytes
                most_bytes = max(most_bytes, process.memory_info().rss)
                held = [it for it in process.net_connections("tcp") if it.raddr and it.laddr.port == port]
                return not held

            await eventually(are_ended, "all are cut", 60)
            await asyncio.gather(*sending)
        growth = most_bytes - before_bytes
        print(f"{CONNECTIONS} connections: {growth / 2**20:.1f} MiB more")
        assert growth <= MOST_BYTES


async def test_flood_of_one_address_takes_its_turns(servers: Servers) -> None:
    """Whatever it calls, it is answered at its pace and refused nothing; who comes from elsewhere meanwhile
    is answered before it."""
    async with (
        Cluster.running(servers, gateways=1, consumers=0, READS_PER_SECOND="2", **BEHIND_PROXY) as cluster,
        visitors(cluster, an_address()) as greedy,
        visitors(cluster, an_address()) as other,
    ):
        began = time.monotonic()
        flood = [asyncio.create_task(greedy.call("GET", NOWHERE)) for _ in range(50)]
        await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
        assert [(await other.call("GET", NOWHERE))[0] for _ in range(5)] == [404] * 5
        assert not all(call.done() for call in flood)
        statuses = Counter(status for status, _, _ in await asyncio.gather(*flood))
        assert statuses == {404: 50}
        # 10 come at once, then 10 a second.
        assert time.monotonic() - began >= 3.9
