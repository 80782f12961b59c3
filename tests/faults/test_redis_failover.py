"""Redis handed over to its replica behind a name that stays, the old primary alive (case 2)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from redis.asyncio import Redis

from growbin.local.parts.valkey import Valkey
from tests.faults.cluster import Cluster, Servers
from tests.faults.steps import Load, begin, eventually, readiness

FAILOVERS = int(os.environ.get("FAILOVERS", "1"))  # in a row
RUNNING_JOBS = int(os.environ.get("FAILOVER_JOBS", "12"))
STREAMS_EACH = 2
NAME_LAGS_SECONDS = 1.5  # the old primary is demoted, and the name still points to it
WHOLE_AGAIN_SECONDS = 5.0  # two are promised; the machine is shared
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
        role = await operate(self.replica, "ROLE")
        assert isinstance(role, list)
        return role[0:1] == [b"slave"] and role[3:4] == [b"connected"]


async def operate(valkey: Valkey, *command: str) -> object:
    async with Redis.from_url(valkey.url) as operator:
        return await operator.execute_command(*command)  # type: ignore[no-untyped-call]


async def role_of(valkey: Valkey) -> str:
    role = await operate(valkey, "ROLE")
    assert isinstance(role, list)
    return str(role[0].decode())


@asynccontextmanager
async def replicated(cluster: Cluster) -> AsyncIterator[Name]:
    """The servers' Valkey gets a replica, and is the primary again afterwards."""
    ours, other = cluster.servers.valkey, Valkey(cluster.folder / "replica")
    other.secrets["password"] = ours.secrets["password"]
    await other.start()
    try:
        await other.ready()
        for valkey in (ours, other):
            await operate(valkey, "CONFIG", "SET", "masterauth", ours.secrets["password"])
        await operate(other, "REPLICAOF", "127.0.0.1", str(ours.port))
        name = Name(cluster, ours, other)
        await eventually(name.is_in_step, "the replica is in step", IN_STEP_SECONDS)
        yield name
    finally:
        await operate(ours, "REPLICAOF", "NO", "ONE")
        await other.kill()


@pytest.mark.timeout(120 + 40 * FAILOVERS)
async def test_planned_failover_under_load_is_over_two_seconds_after_the_name_points_right(
    servers: Servers,
) -> None:
    """The old primary lives on, keeps its connections and refuses writes: jobs in hand, open streams and
    uploads go on at the new one, nothing is lost, nothing done twice, and no process is restarted."""
    async with (
        Cluster.running(servers, gateways=2, consumers=2) as cluster,
        replicated(cluster) as name,
    ):
        load = Load(cluster, clients=4)
        pids = [process.part.pid for process in cluster.processes]
        async with load.running():
            for turn in range(FAILOVERS):
                begun = await asyncio.gather(
                    *(begin(cluster, f"turn-{turn}-{number}") for number in range(RUNNING_JOBS))
                )
                jobs, holds = [job for job, _ in begun], [hold for _, hold in begun]
                for job in jobs:
                    for place in range(1, STREAMS_EACH):
                        cluster.client.watch(job, f"stream-{place}")
                await name.hand_over()
                await asyncio.sleep(NAME_LAGS_SECONDS)
                moved = name.move()
                for hold in holds:
                    hold.release()
                ends = await asyncio.gather(*map(cluster.client.seen, jobs))
                assert {end.name for end in ends} == {"done"}
                assert [len(cluster.model.calls_of(job.marker)) for job in jobs] == [1] * RUNNING_JOBS
                await eventually(lambda: is_hearing(cluster), "every gateway hears live progress")
                heard = time.monotonic() - moved
                await asyncio.sleep(2)
                ended = max(end.at for end in ends) - moved
                times = {
                    "uploads accepted": load.published_after(moved),
                    "jobs begun": load.consumed_after(moved),
                    "all in hand ended": ended,
                    "live progress": heard,
                }
                print(", ".join(f"{what} after {seconds:.2f} s" for what, seconds in times.items()))
                assert max(times.values()) < WHOLE_AGAIN_SECONDS
                await eventually(name.is_in_step, "the two are in step again", IN_STEP_SECONDS)
        await cluster.prove()
        assert [process.part.pid for process in cluster.processes] == pids
        if name.primary is not servers.valkey:
            await name.hand_over()
            name.move()


async def is_hearing(cluster: Cluster) -> bool:
    return all([(await readiness(gateway))["live_progress"] for gateway in cluster.gateways])


async def test_demoted_redis_that_keeps_its_name_is_not_ready_and_heals_by_itself(
    servers: Servers,
) -> None:
    """Nobody is restarted for what may pass: not ready, but alive, with the reason; ready again by itself."""
    async with Cluster.running(servers) as cluster, replicated(cluster) as name:
        await name.hand_over()
        processes = [*cluster.gateways, *cluster.consumers]

        async def is_deaf() -> bool:
            return not await is_hearing(cluster)

        await eventually(is_deaf, "the gateway knows that it hears no primary", WHOLE_AGAIN_SECONDS)
        async with aiohttp.ClientSession() as http:
            for process in processes:
                async with http.get(f"{process.probe_url}/readyz") as answer:
                    assert answer.status == 503
                    assert "ReadOnlyError" in (await answer.json())["reasons"]["redis"]
                async with http.get(f"{process.probe_url}/healthz") as answer:
                    assert answer.status == 200
            name.move()
            began = time.monotonic()

            async def ready() -> bool:
                for process in processes:
                    async with http.get(f"{process.probe_url}/readyz") as answer:
                        if answer.status != 200:
                            return False
                return True

            await eventually(ready, "both are ready", WHOLE_AGAIN_SECONDS)
            print(f"ready {time.monotonic() - began:.2f} s after the name points right")
        await cluster.prove()
        await eventually(name.is_in_step, "the two are in step again", IN_STEP_SECONDS)
        await name.hand_over()
        name.move()
