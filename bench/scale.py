"""How the cost of a job grows with the jobs in flight."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from bench import jobs
from bench.instruments import OURS, Dose, Round, in_turn, start
from bench.system import SMALL, System

IN_FLIGHT, QUICK_IN_FLIGHT = (4, 16, 64, 256), (4, 32)
JOBS, QUICK_JOBS = 300, 60


async def measured(dose: Dose) -> AsyncIterator[Round]:
    photo = SMALL.drawn()
    async with (
        System.running(CONSUMER_CONCURRENCY=str(max(IN_FLIGHT))) as system,
        system.design(OURS) as design,
    ):
        await jobs.measure(design, system, SMALL, photo, jobs.WARM_UP_JOBS)
        for number in in_turn(QUICK_IN_FLIGHT if dose.is_quick else IN_FLIGHT, dose.rounds):
            count = max(QUICK_JOBS if dose.is_quick else JOBS, 2 * number)
            one = await jobs.measure(design, system, SMALL, photo, count, number)
            yield replace(one, case=f"{number} in flight")


if __name__ == "__main__":
    start("scale", measured, __doc__)
