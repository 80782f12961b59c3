"""What `growbin doctor` measures of the broker: each node used once. Every function may raise Unavailable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aio_pika
import aiohttp
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelNotFoundEntity, ChannelPreconditionFailed
from yarl import URL

from growbin.adapters.rabbitmq.topology import Topology, refusal
from growbin.errors import Unavailable
from growbin.measurements import BrokerFacts, TopologyFacts, since_ms

CONNECT_SECONDS = 4.0
ROUND_TRIP_SECONDS = 4.0
TOPOLOGY_SECONDS = 15.0
MANAGEMENT_SECONDS = 4.0


async def use_broker(url: str) -> BrokerFacts:
    """Publish, await the confirm, and get it back."""
    began = time.perf_counter()
    async with _connected(url, ROUND_TRIP_SECONDS) as connection:
        connect_ms = since_ms(began)
        assert connection.transport is not None
        version = connection.transport.connection.server_properties.get("version", "unknown")
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        queue = await channel.declare_queue(exclusive=True, auto_delete=True)
        arrived = asyncio.Event()

        async def note(_message: AbstractIncomingMessage) -> None:
            arrived.set()

        await queue.consume(note, no_ack=True)
        began = time.perf_counter()
        await channel.default_exchange.publish(aio_pika.Message(b"doctor"), queue.name, mandatory=True)
        await arrived.wait()
        return BrokerFacts(str(version), connect_ms, since_ms(began))


async def compare_topology(urls: list[str], queue_name: str) -> TopologyFacts:
    """Ask for everything that growbin declares, on the first node that answers; create nothing."""
    topology = Topology(queue_name)
    missing: list[str] = []
    different: list[str] = []
    async with _connected(await _first_that_answers(urls), TOPOLOGY_SECONDS) as connection:
        for name in topology.names():
            channel = await connection.channel()
            try:
                await topology.find_one(name, channel)
                # It exists: to declare it anew creates nothing, and compares the arguments.
                await topology.declare_one(name, channel)
            except ChannelNotFoundEntity:
                missing.append(name)
            except ChannelPreconditionFailed as error:
                different.append(refusal(error))
    return TopologyFacts(len(topology.names()), missing, different)


async def read_alarms(management_url: str) -> list[str]:
    """`node: memory` or `node: disk` of each node that blocks its publishers."""
    base = URL(management_url)
    headers = {"Authorization": aiohttp.encode_basic_auth(base.user or "", base.password or "")}
    timeout = aiohttp.ClientTimeout(total=MANAGEMENT_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(base.with_user(None) / "api/nodes", headers=headers) as answer,
        ):
            answer.raise_for_status()
            nodes = await answer.json()
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise Unavailable("rabbitmq management", f"{type(error).__name__}: {error}") from error
    alarms = (("memory", "mem_alarm"), ("disk", "disk_free_alarm"))
    return [f"{node['name']}: {what}" for node in nodes for what, field in alarms if node.get(field)]


@asynccontextmanager
async def _connected(url: str, work_seconds: float) -> AsyncIterator[AbstractConnection]:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            connection = await aio_pika.connect(url, client_properties={"connection_name": "growbin-doctor"})
    except TimeoutError as error:
        raise Unavailable("rabbitmq", f"not connected within {CONNECT_SECONDS:.0f} s") from error
    except CONNECTION_EXCEPTIONS as error:
        raise Unavailable("rabbitmq", f"{type(error).__name__}: {error}") from error
    try:
        async with asyncio.timeout(work_seconds):
            yield connection
    except TimeoutError as error:
        raise Unavailable(
            "rabbitmq", f"connected, but nothing was confirmed in {work_seconds:.0f} s"
        ) from error
    except CONNECTION_EXCEPTIONS as error:
        raise Unavailable("rabbitmq", f"{type(error).__name__}: {error}") from error
    finally:
        with suppress(*CONNECTION_EXCEPTIONS, TimeoutError):
            async with asyncio.timeout(1):
                await connection.close()


async def _first_that_answers(urls: list[str]) -> str:
    for url in urls[:-1]:
        with suppress(Unavailable):
            async with _connected(url, CONNECT_SECONDS):
                return url
    return urls[-1]
