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
from pathlib import Path

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
        self._targets = {
            node: Target(f"node-{number}", node, cluster.journal) for number, node in enumerate(nodes, 1)
        }

    def connected(self) -> Node:
        """Where the first gateway publishes."""
        port = int(CONNECTED.findall(self._cluster.gateways[0].log)[-1])
        return next(node for node in self.nodes if node.port == port)

    async def leader(self) -> Node:
        """Where the main queue is led, as the nodes that run say."""
        running = next(node for node in self.nodes if node.pid is not None)
        queues = await Broker(running, self._cluster.queue_name).queues()
        name = queues[self._cluster.queue_name]["leader"]
        return next(node for node in self.nodes if node.node_name == name)

    async def lose(self, *victims: Node) -> float:
        """Kill them at once; returns the moment."""
        await asyncio.gather(*(self._targets[node].kill() for node in dict.fromkeys(victims)))
        return time.monotonic()

    async def cut_off(self, victim: Node) -> float:
        """The others and it no longer hear each other: neither knows the other's word. Clients still come to
        all of them; the minority finds itself out, and refuses. Returns the moment."""
        self._cluster.journal.begin(self._targets[victim].name, "partition")
        for other in self.nodes:
            if other is not victim:
                await _say(victim, f"erlang:set_cookie({_atom(other)}, nobody)")
                await _say(victim, f"erlang:disconnect_node({_atom(other)})")
        return time.monotonic()

    async def join(self, victim: Node) -> float:
        """They hear each other again; returns the moment when it takes clients."""
        for other in self.nodes:
            if other is not victim:
                await _say(victim, f"erlang:set_cookie({_atom(other)}, erlang:get_cookie())")
        await victim.ready()
        self._cluster.journal.end(self._targets[victim].name)
        return time.monotonic()

    async def regain(self) -> float:
        """Start whoever is dead; returns the moment when all are useful."""
        dead = [node for node in self.nodes if node.pid is None]
        await asyncio.gather(*(self._targets[node].start() for node in dead))
        return time.monotonic()

    async def in_step(self) -> None:
        """Wait until every node follows the main queue's log."""

        async def all_online() -> bool:
            queues = await Broker(self.nodes[0], self._cluster.queue_name).queues()
            return len(queues[self._cluster.queue_name].get("online", ())) == len(self.nodes)

        await eventually(all_online, "all nodes are members again")


def _atom(node: Node) -> str:
    return f'list_to_atom("{node.node_name}")'


async def _say(node: Node, expression: str) -> None:
    """In the node's own machine, whether its broker is paused or not."""
    await rabbitmqctl(node, "eval", f"{expression}.")


def running_on(servers: Servers, nodes: list[Node]) -> Servers:
    """The other servers as they are, with a cluster for a broker."""
    clustered = copy.copy(servers)
    clustered.rabbitmq = nodes[0]
    return clustered


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_nodes_killed_under_load_lose_nothing(servers: Servers, nodes: list[Node]) -> None:
    """First the node growbin is connected to, then the queue's leader, then two nodes at once, which
    leaves no majority: every 202 ends done with one model call, and every other answer was a polite 503."""
    async with Cluster.running(
        running_on(servers, nodes),
        gateways=2,
        consumers=2,
        RABBITMQ_URL=",".join(node.url for node in nodes),
        JOB_DEADLINE_SECONDS="240",
    ) as cluster:
        quorum = Quorum(cluster, nodes)
        await asyncio.sleep(DECLARED_FOR_GOOD_SECONDS)
        load = Load(cluster)
        moved = []
        async with load.running():
            for role in ("connected", "leader"):
                await asyncio.sleep(2)
                victim = quorum.connected() if role == "connected" else await quorum.leader()
                moved.append((await quorum.lose(victim), f"{role} {victim.node_name} lost"))
                await asyncio.sleep(MOVED_SECONDS / 2)
                await quorum.regain()
                await quorum.in_step()
            await asyncio.sleep(2)
            leader, connected = await quorum.leader(), quorum.connected()
            other = next(node for node in nodes if node is not leader)
            await quorum.lose(leader, connected if connected is not leader else other)
            await asyncio.sleep(3)
            moved.append((await quorum.regain(), "majority back"))
            await asyncio.sleep(MOVED_SECONDS / 2)
        for moment, what in moved:
            published, consumed = load.published_after(moment), load.consumed_after(moment)
            print(f"{what} -> confirmed {published:.2f} s, consumed {consumed:.2f} s")
            assert max(published, consumed) <= MOVED_SECONDS
        print(f"{len(load.jobs)} jobs, {load.refusals} refusals")
        await cluster.prove()
        assert count_by(load.jobs, outcome) == {"done": len(load.jobs)}
        assert {len(cluster.model.calls_of(job.marker)) for job in load.jobs} == {1}


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_nodes_cut_off_under_load_lose_nothing(servers: Servers, nodes: list[Node]) -> None:
    """First the node growbin is connected to, then the queue's leader, hears nothing of the other two and
    pauses: every 202 ends done with one model call, and all three are of one mind again."""
    async with Cluster.running(
        running_on(servers, nodes),
        gateways=2,
        consumers=2,
        RABBITMQ_URL=",".join(node.url for node in nodes),
        JOB_DEADLINE_SECONDS="240",
    ) as cluster:
        quorum = Quorum(cluster, nodes)
        await asyncio.sleep(DECLARED_FOR_GOOD_SECONDS)
        load = Load(cluster)
        moved = []
        async with load.running():
            for role in ("connected", "leader"):
                await asyncio.sleep(2)
                victim = quorum.connected() if role == "connected" else await quorum.leader()
                moved.append((await quorum.cut_off(victim), f"{role} {victim.node_name} cut off"))
                await asyncio.sleep(CUT_OFF_SECONDS)
                moved.append((await quorum.join(victim), "together again"))
                await quorum.in_step()
                await asyncio.sleep(MOVED_SECONDS / 2)
        for moment, what in moved:
            published, consumed = load.published_after(moment), load.consumed_after(moment)
            print(f"{what} -> confirmed {published:.2f} s, consumed {consumed:.2f} s")
        print(f"{len(load.jobs)} jobs, {load.refusals} refusals")
        await cluster.prove()
        assert count_by(load.jobs, outcome) == {"done": len(load.jobs)}
        assert {len(cluster.model.calls_of(job.marker)) for job in load.jobs} == {1}
