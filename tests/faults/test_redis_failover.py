"""Redis handed over to its replica behind a name that stays, the old primary alive (case 2)."""

from __future__ import annotations

import asyncio
import os
import time

import aiohttp
import pytest

from tests.faults.cluster import Cluster, Servers
from tests.faults.replica import IN_STEP_SECONDS, replicated
from tests.faults.steps import Load, begin, eventually, readiness

FAILOVERS = int(os.environ.get("FAILOVERS", "1"))  # in a row
RUNNING_JOBS = int(os.environ.get("FAILOVER_JOBS", "12"))
STREAMS_EACH = 2
NAME_LAGS_SECONDS = 1.5  # the old primary is demoted, and the name still points to it
WHOLE_AGAIN_SECONDS = 5.0  # two are promised; the machine is shared


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
