"""Three brokers in one cluster on this machine: the way out when one is not enough. The queue's leader and
the node growbin is connected to are killed, and cut off from the others, under load, and the promises are the
same."""

from __future__ import annotations

import asyncio
import copy
import re
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from growbin.local.parts.part import Part, write_private
from growbin.local.parts.rabbitmq import RabbitMQ
from tests.faults.cluster import DECLARED_FOR_GOOD_SECONDS, Cluster, Servers, Target
from tests.faults.inspection import Broker
from tests.faults.instruments.oracle import count_by, outcome
from tests.faults.steps import Load, eventually, rabbitmqctl

MOVED_SECONDS = 10.0
CUT_OFF_SECONDS = 12.0
CONNECTED = re.compile(r'"link": "publisher", "node": "127\.0\.0\.1:(\d+)", "event": "broker_connected"')


class Node(RabbitMQ):
    """A broker that joins the first, with whom it shares cookie, password and epmd."""

    def __init__(self, data: Path, cookie: str, first: Node | None = None) -> None:
        super().__init__(data)
        self._first = first or self
        self._epmd = self._first._epmd
        self.ports["epmd"] = self._first.ports["epmd"]
        self.secrets["password"] = self._first.secrets["password"]
        write_private(self.folder / ".erlang.cookie", cookie)

    @property
    def node_name(self) -> str:
        return self.environment()["RABBITMQ_NODENAME"]

    def command(self) -> Sequence[str]:
        command = super().command()
        lines = ["cluster_partition_handling = pause_minority"]
        if self is not self._first:
            lines += [
                "cluster_formation.peer_discovery_backend = classic_config",
                f"cluster_formation.classic_config.nodes.1 = {self._first.node_name}",
                f"cluster_formation.classic_config.nodes.2 = {self.node_name}",
            ]
        write_private(self.folder / "conf.d" / "cluster.conf", "\n".join([*lines, ""]))
        return command

    async def stop(self) -> None:
        await Part.stop(self)

    async def kill(self) -> None:
        await Part.kill(self)  # the others need its epmd

    async def stop_epmd(self) -> None:
        await self._epmd.kill()


@pytest_asyncio.fixture(scope="module")
async def nodes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Node]]:
    """Three running nodes of one cluster."""
    folder = tmp_path_factory.mktemp("nodes")
    cookie = secrets.token_hex(10).upper()
    first = Node(folder / "1", cookie)
    nodes = [first, Node(folder / "2", cookie, first), Node(folder / "3", cookie, first)]
    try:
        for together in (nodes[:1], nodes[1:]):
            await asyncio.gather(*(node.start() for node in together))
            await asyncio.gather(*(node.ready() for node in together))
        yield nodes
    finally:
        await asyncio.gather(*(node.stop() for node in nodes))
        await first.stop_epmd()


class Quorum:
    """The three nodes as one case sees them."""

    def __init__(self, cluster: Cluster, nodes: list[Node]) -> None:
        self._cluster = cluster
        self.nodes = nodes
        self.blows: list[tuple[float, str]] = []  # moments from which on the others have to do
        self._targets = {
            node: Target(f"node-{number}", node, cluster.journal) for number, node in enumerate(nodes, 1)
        }

    async def connected(self) -> Node:
        """Where the first gateway publishes."""
        port = int(CONNECTED.findall(self._cluster.gateways[0].log)[-1])
        return next(node for node in self.nodes if node.port == port)

    async def leader(self) -> Node:
        """Where the main queue is led, as the nodes that run say."""
        running = next(node for node in self.nodes if node.pid is not None)
        queues = await Broker(running, self._cluster.queue_name).queues()
        name = queues[self._cluster.queue_name]["leader"]
        return next(node for node in self.nodes if node.node_name == name)

    async def lose(self, *victims: Node) -> None:
        """Kill them at once."""
        await asyncio.gather(*(self._targets[node].kill() for node in victims))
        if len(victims) == 1:  # else nobody is left to do anything
            self._note("killed", *victims)

    async def cut_off(self, victim: Node) -> None:
        """The others and it no longer hear each other: neither knows the other's word. Clients still come to
        all of them; the minority finds itself out, and refuses."""
        self._cluster.journal.begin(self._targets[victim].name, "partition")
        # In one breath, as a line breaks: half a partition lasts longer (15.7 s without a confirm were seen).
        await self._of_others(victim, "{erlang:set_cookie(Node, nobody), erlang:disconnect_node(Node)}")
        self._note("cut off", victim)

    async def join(self, victim: Node) -> None:
        """They hear each other again, and it takes clients."""
        await self._of_others(victim, "erlang:set_cookie(Node, erlang:get_cookie())")
        await victim.ready()
        self._cluster.journal.end(self._targets[victim].name)
        self._note("joined", victim)

    async def _of_others(self, victim: Node, expression: str) -> None:
        """In the victim's own machine, whether its broker is paused or not."""
        names = ", ".join(f"'{node.node_name}'" for node in self.nodes if node is not victim)
        await rabbitmqctl(victim, "eval", f"[{expression} || Node <- [{names}]].")

    async def regain(self) -> None:
        """Start whoever is dead, and wait until they are useful."""
        dead = [node for node in self.nodes if node.pid is None]
        await asyncio.gather(*(self._targets[node].start() for node in dead))
        self._note("started", *dead)

    def _note(self, what: str, *nodes: Node) -> None:
        self.blows.append((time.monotonic(), f"{', '.join(node.node_name for node in nodes)} {what}"))

    async def in_step(self) -> None:
        """Wait until every node answers, and follows the main queue's log."""
        name = self._cluster.queue_name

        async def all_online() -> bool:
            try:
                told = [await Broker(node, name).queues() for node in self.nodes]
            except (aiohttp.ClientError, TimeoutError):
                return False  # one is paused, or comes back just now
            return all(len(queues.get(name, {}).get("online", ())) == len(self.nodes) for queues in told)

        await eventually(all_online, "all nodes are members again")


def running_on(servers: Servers, nodes: list[Node]) -> Servers:
    """The other servers as they are, with a cluster for a broker."""
    clustered = copy.copy(servers)
    clustered.rabbitmq = nodes[0]
    return clustered


@asynccontextmanager
async def under_load(servers: Servers, nodes: list[Node]) -> AsyncIterator[Quorum]:
    """People send photos while the block hurts the nodes; afterwards each 202 is done with one model call."""
    async with Cluster.running(
        running_on(servers, nodes),
        gateways=2,
        consumers=2,
        RABBITMQ_URL=",".join(node.url for node in nodes),
        JOB_DEADLINE_SECONDS="240",
    ) as cluster:
        await asyncio.sleep(DECLARED_FOR_GOOD_SECONDS)
        load = Load(cluster)
        async with load.running():
            yield (quorum := Quorum(cluster, nodes))
            await asyncio.sleep(MOVED_SECONDS / 2)
        for moment, what in quorum.blows:
            published, consumed = load.published_after(moment), load.consumed_after(moment)
            print(f"{what} -> confirmed {published:.2f} s, consumed {consumed:.2f} s")
            assert max(published, consumed) <= MOVED_SECONDS
        print(f"{len(load.jobs)} jobs, {load.refusals} refusals")
        await cluster.prove()
        assert count_by(load.jobs, outcome) == {"done": len(load.jobs)}
        assert {len(cluster.model.calls_of(job.marker)) for job in load.jobs} == {1}


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_nodes_killed_under_load_lose_nothing(servers: Servers, nodes: list[Node]) -> None:
    """First the node growbin is connected to, then the queue's leader, then two nodes at once, which
    leaves no majority: every 202 ends done with one model call, and every other answer was a polite 503."""
    async with under_load(servers, nodes) as quorum:
        for victim in (quorum.connected, quorum.leader):
            await asyncio.sleep(2)
            await quorum.lose(await victim())
            await asyncio.sleep(MOVED_SECONDS / 2)
            await quorum.regain()
            await quorum.in_step()
        await asyncio.sleep(2)
        leader, connected = await quorum.leader(), await quorum.connected()
        other = next(node for node in nodes if node is not leader)
        await quorum.lose(leader, connected if connected is not leader else other)
        await asyncio.sleep(3)
        await quorum.regain()


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_nodes_cut_off_under_load_lose_nothing(servers: Servers, nodes: list[Node]) -> None:
    """First the node growbin is connected to, then the queue's leader, hears nothing of the other two and
    pauses: every 202 ends done with one model call, and all three are of one mind again."""
    async with under_load(servers, nodes) as quorum:
        for victim in (quorum.connected, quorum.leader):
            await asyncio.sleep(2)
            await quorum.cut_off(node := await victim())
            await asyncio.sleep(CUT_OFF_SECONDS)
            await quorum.join(node)
            await quorum.in_step()
