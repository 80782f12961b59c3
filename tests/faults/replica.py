"""A replica beside the servers' Valkey, and a name that points to one of the two."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from redis.asyncio import Redis

from growbin.local.parts.valkey import Valkey
from tests.faults.cluster import Cluster
from tests.faults.steps import eventually

IN_STEP_SECONDS = 20.0


class Name:
    """What every process' address of Redis points to; connections that are open stay where they are."""

    def __init__(self, cluster: Cluster, primary: Valkey, replica: Valkey) -> None:
        self._cluster = cluster
        self.primary, self.replica = primary, replica

    async def hand_over(self) -> None:
        """As the operator of a managed Redis does: once the replica is in step the two change their parts."""
        await operate(self.primary, "FAILOVER", "TO", "127.0.0.1", str(self.replica.port))
        await eventually(self._is_demoted, "the old primary is a replica", IN_STEP_SECONDS)

    def move(self) -> float:
        for link in self._cluster.links("redis"):
            link.upstream_port = self.replica.port
        self.primary, self.replica = self.replica, self.primary
        return time.monotonic()

    async def _is_demoted(self) -> bool:
        return await role_of(self.primary) == "slave" and await role_of(self.replica) == "master"

    async def is_in_step(self) -> bool:
        return await is_in_step(self.replica)


async def operate(valkey: Valkey, *command: str) -> object:
    async with Redis.from_url(valkey.url) as operator:
        return await operator.execute_command(*command)  # type: ignore[no-untyped-call]


async def role_of(valkey: Valkey) -> str:
    role = await operate(valkey, "ROLE")
    assert isinstance(role, list)
    return str(role[0].decode())


async def is_in_step(replica: Valkey) -> bool:
    role = await operate(replica, "ROLE")
    assert isinstance(role, list)
    return role[0:1] == [b"slave"] and role[3:4] == [b"connected"]


@asynccontextmanager
async def replica_of(ours: Valkey, folder: Path, replicated_port: int | None = None) -> AsyncIterator[Valkey]:
    """A replica of the servers' Valkey, in step; ours is the primary again afterwards."""
    other = Valkey(folder)
    other.secrets["password"] = ours.secrets["password"]
    await other.start()
    try:
        await other.ready()
        for valkey in (ours, other):
            await operate(valkey, "CONFIG", "SET", "masterauth", ours.secrets["password"])
        await operate(other, "REPLICAOF", "127.0.0.1", str(replicated_port or ours.port))
        # A primary that hands over serves no first copy: both would wait until it gives up.
        await eventually(partial(is_in_step, other), "the replica is in step", IN_STEP_SECONDS)
        yield other
    finally:
        await other.kill()
        await operate(ours, "REPLICAOF", "NO", "ONE")


@asynccontextmanager
async def replicated(cluster: Cluster, replicated_port: int | None = None) -> AsyncIterator[Name]:
    ours = cluster.servers.valkey
    async with replica_of(ours, cluster.folder / "replica", replicated_port) as other:
        yield Name(cluster, ours, other)
