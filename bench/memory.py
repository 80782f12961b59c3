"""What a job in flight holds in the consumer's memory while the model thinks, at two sizes of photo."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from bench.instruments import OURS, Dose, Round, Wanted, in_turn, start
from bench.system import LARGE, NAIVE, SMALL, Design, Photo, System

FEW_JOBS, MORE_JOBS, QUICK_JOBS = 10, 100, 30
SETTLE_SECONDS = 1.0
HELD = "KB a job in flight"
WANTED = (Wanted(HELD, 400),)


async def measured(dose: Dose) -> AsyncIterator[Round]:
    """Each round starts them anew: memory that was freed is seldom given back."""
    more = QUICK_JOBS if dose.is_quick else MORE_JOBS
    async with System.running(CONSUMER_CONCURRENCY=str(FEW_JOBS + MORE_JOBS)) as system:
        for kind in (SMALL, LARGE):
            photo = kind.drawn()
            for name in in_turn((OURS, NAIVE), dose.rounds):
                async with system.design(name) as design:
                    yield await measure(design, system, kind, photo, more)


async def measure(design: Design, system: System, kind: Photo, photo: bytes, more: int) -> Round:
    """By what each of some more jobs adds, when the first have opened whatever is opened once."""
    assert design.consumer is not None
    calls = int(await system.tell_model("hold"))
    async with asyncio.TaskGroup() as group:
        few_bytes = more_bytes = 0
        for jobs in (FEW_JOBS, more):
            tokens = [await design.client.session() for _ in range(jobs)]
            group.create_task(design.client.do_many(tokens, photo, jobs))
            calls += jobs
            while int(await system.tell_model("calls")) < calls:
                await asyncio.sleep(0.1)
            await asyncio.sleep(SETTLE_SECONDS)
            few_bytes, more_bytes = more_bytes, design.consumer.resident_bytes()
        await system.tell_model("release")
    return Round(kind.name, design.name, {HELD: (more_bytes - few_bytes) / more / 1024})


if __name__ == "__main__":
    start("memory", measured, __doc__, *WANTED)
