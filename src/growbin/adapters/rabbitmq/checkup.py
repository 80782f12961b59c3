"""What `growbin doctor` measures of the broker: each node used once. Every function may raise Unavailable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelNotFoundEntity, ChannelPreconditionFailed

from growbin.adapters.rabbitmq.connection import connected
from growbin.adapters.rabbitmq.management import ask_management
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
    async with _using([url], ROUND_TRIP_SECONDS) as connection:
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
    async with _using(urls, TOPOLOGY_SECONDS) as connection:
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
    nodes = await ask_management(management_url, "nodes", MANAGEMENT_SECONDS)
    alarms = (("memory", "mem_alarm"), ("disk", "disk_free_alarm"))
    return [f"{node['name']}: {what}" for node in nodes for what, field in alarms if node.get(field)]


@asynccontextmanager
async def _using(urls: list[str], work_seconds: float) -> AsyncIterator[AbstractConnection]:
    silence = f"not connected within {CONNECT_SECONDS:.0f} s"
    try:
        async with connected(urls, "doctor", CONNECT_SECONDS) as connection:
            silence = f"connected, but nothing was confirmed in {work_seconds:.0f} s"
            async with asyncio.timeout(work_seconds):
                yield connection
    except TimeoutError as error:
        raise Unavailable("rabbitmq", silence) from error
    except CONNECTION_EXCEPTIONS as error:
        raise Unavailable("rabbitmq", f"{type(error).__name__}: {error}") from error
