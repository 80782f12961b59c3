"""How long a person waits beyond the model, at 80 % of what growbin can do here: jobs come when they come,
not when the last one has gone (an open loop), to all designs at the same rate.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from bench.instruments import OURS, Dose, Round, Wanted, in_turn, start
from bench.system import DESIGNS, SMALL, Client, Design, System

MODEL_SECONDS = 4.0
SHARE_OF_CAPACITY = 0.8
CAPACITY_JOBS, CAPACITY_IN_FLIGHT = 400, 96
OPEN_SECONDS, QUICK_SECONDS = 60.0, 20.0
P95 = "p95, of the model's time"


async def measured(dose: Dose) -> AsyncIterator[Round]:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        system = await enter(System.running(model_seconds=MODEL_SECONDS, CONSUMER_CONCURRENCY="256"))
        designs = [await enter(system.design(name)) for name in DESIGNS]
        photo = SMALL.drawn()
        capacities = {one.name: await capacity_of(one, photo) for one in designs}  # which warms them up
        rate = SHARE_OF_CAPACITY * capacities[OURS]
        print(f"jobs/s they can do here: {capacities}; they come at {rate:.1f} a second", file=sys.stderr)
        for design in in_turn(designs, dose.rounds):
            seconds = await waits(
                design.client, photo, rate, QUICK_SECONDS if dose.is_quick else OPEN_SECONDS
            )
            cuts = statistics.quantiles(seconds, n=100)
            added = {f"added p{cut} ms": (cuts[cut - 1] - MODEL_SECONDS) * 1000 for cut in (50, 95, 99)}
            yield Round("open loop", design.name, {P95: cuts[94] / MODEL_SECONDS, **added})


async def capacity_of(design: Design, photo: bytes) -> float:
    """Jobs a second with more of them in flight than can be worked on."""
    tokens = [await design.client.session() for _ in range(CAPACITY_JOBS)]
    began = time.monotonic()
    await design.client.do_many(tokens, photo, CAPACITY_IN_FLIGHT)
    return CAPACITY_JOBS / (time.monotonic() - began - MODEL_SECONDS)


async def waits(client: Client, photo: bytes, rate: float, seconds: float) -> list[float]:
    """From the call of upload-complete to the end on the stream, each job's."""
    chance = random.Random(1)  # noqa: S311  # chance is for arrivals
    jobs = int(rate * seconds)
    tokens = [await client.session() for _ in range(jobs)]
    waited = list[float]()

    async def one(token: str) -> None:
        ticket = await client.ticket(token)
        await client.upload(ticket, photo)
        began = time.monotonic()
        await client.complete(ticket, token)
        await client.follow(ticket, token)
        waited.append(time.monotonic() - began)

    comes_at = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for token in tokens:
            group.create_task(one(token))
            comes_at += chance.expovariate(rate)
            await asyncio.sleep(comes_at - time.monotonic())
    return waited


if __name__ == "__main__":
    start("latency", measured, __doc__, Wanted(P95, 1.1))
