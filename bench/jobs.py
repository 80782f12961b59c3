"""What a whole job costs, beside two references that promise nothing: from upload to the end of its stream.

All three designs (bench/system.py) run side by side and take turns, in a closed loop. CPU is user and system
of gateway and consumer; preparation is what the photo children cost, in the naive consumer its threads but
the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from bench.instruments import Cpu, Dose, Round, Wanted, in_turn, start
from bench.system import DESIGNS, FLOOR, IN_FLIGHT, LARGE, NAIVE, SMALL, Design, Photo, System

JOBS, QUICK_JOBS = {SMALL: 200, LARGE: 80}, 40
WARM_UP_JOBS = 24
SETTLE_SECONDS = 1.0  # for what comes after the end of a stream

TOTAL, PREPARED, VALKEY = "CPU ms a job", "with preparation", "Valkey"
WANTED = (
    Wanted(TOTAL, 1.0, NAIVE),
    Wanted(TOTAL, 2.5, FLOOR),
    Wanted(VALKEY, 1.3, NAIVE),
)


async def measured(dose: Dose) -> AsyncIterator[Round]:
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(System.running())
        designs = [await stack.enter_async_context(system.design(name)) for name in DESIGNS]
        for kind, jobs in JOBS.items():
            photo = kind.drawn()
            for design in designs:
                await measure(design, system, kind, photo, WARM_UP_JOBS)
            for design in in_turn(designs, dose.rounds):
                count = QUICK_JOBS if dose.is_quick else jobs
                yield await measure(design, system, kind, photo, count)


async def measure(
    design: Design, system: System, kind: Photo, photo: bytes, jobs: int, in_flight: int = IN_FLIGHT
) -> Round:
    assert design.consumer is not None
    tokens = [await design.client.session() for _ in range(jobs)]
    await asyncio.sleep(SETTLE_SECONDS)
    commands = await system.valkey_commands()
    programs = (design.gateway, design.consumer, system.valkey, system.rabbitmq)
    before = [one.cpu() for one in programs]
    await design.client.do_many(tokens, photo, in_flight)
    await asyncio.sleep(SETTLE_SECONDS)
    spent = [one.cpu() - earlier for one, earlier in zip(programs, before, strict=True)]
    gateway, consumer, valkey, rabbitmq = spent
    work, preparation = split(design.name, consumer)

    def ms(seconds: float) -> float:
        return seconds / jobs * 1000

    return Round(
        kind.name,
        design.name,
        {
            TOTAL: ms(gateway.own + work),
            PREPARED: ms(gateway.own + work + preparation),
            "gateway": ms(gateway.own),
            "consumer": ms(work),
            "preparation": ms(preparation),
            VALKEY: ms(valkey.own),
            "its commands": (await system.valkey_commands() - commands) / jobs,
            "RabbitMQ": ms(rabbitmq.own + rabbitmq.children),
        },
    )


def split(design: str, consumer: Cpu) -> tuple[float, float]:
    """A consumer's own work, and the preparation of photos."""
    if design == NAIVE:
        return consumer.own - consumer.other_threads, consumer.other_threads
    return consumer.own, consumer.children


if __name__ == "__main__":
    start("jobs", measured, __doc__, *WANTED)
