"""Everything is restarted, one part after the other in random order, while people use it (row 32).

ROLLING_SECONDS is the dose, ROLLING_SEED the order; both are printed.
"""

from __future__ import annotations

import asyncio
import os
import random
import time

import pytest

from tests.faults.cluster import Cluster, Process, Servers, Target
from tests.faults.instruments.oracle import count_by, outcome
from tests.faults.steps import SETTLE_SECONDS, use

ROLLING_SECONDS = float(os.environ.get("ROLLING_SECONDS", "20"))
SEED = int(os.environ.get("ROLLING_SEED", "0")) or random.SystemRandom().randrange(1, 10_000)
JOBS_EACH_SECOND = 2.0
MODEL_SECONDS = 0.8
PAUSE_SECONDS = 0.5
ROUND_SECONDS = 120  # every part once, on a slow machine


@pytest.mark.long
@pytest.mark.timeout(ROLLING_SECONDS + ROUND_SECONDS + SETTLE_SECONDS)
async def test_everything_restarted_in_turn_loses_nothing(servers: Servers) -> None:
    """Each part is told to stop and started again, all of them at least once: every job ends done."""
    async with Cluster.running(servers, gateways=2, consumers=2) as cluster:
        cluster.model.delay_seconds = lambda _marker: MODEL_SECONDS
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(use(cluster, over, JOBS_EACH_SECOND))
            restarts = await roll(cluster)
            over.set()
        print(f"seed {SEED}: {', '.join(restarts)}; {count_by(cluster.ledger.jobs.values(), outcome)}")
        await cluster.prove(SETTLE_SECONDS)
        assert {outcome(job) for job in cluster.ledger.jobs.values()} == {"done"}


async def roll(cluster: Cluster) -> list[str]:
    """Restart everything in one random order after the other until the time is up; returns what was
    restarted, and the seconds that each took."""
    choice = random.Random(SEED)
    ends_at = time.monotonic() + ROLLING_SECONDS
    restarted: list[str] = []
    done: set[Target] = set()
    while not restarted or time.monotonic() < ends_at:
        for target in choice.sample(cluster.targets, len(cluster.targets)):
            if time.monotonic() > ends_at and target in done:
                continue
            restarted.append(f"{target.name} {await restart(target):.0f} s")
            done.add(target)
            await asyncio.sleep(choice.uniform(0, PAUSE_SECONDS))
    return restarted


async def restart(target: Target) -> float:
    began = time.monotonic()
    code = await target.stop()
    if isinstance(target, Process):
        assert code == 0, f"{target.name} ended with {code}"
    await target.start()
    return time.monotonic() - began
