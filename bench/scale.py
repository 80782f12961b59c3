"""How growbin's cost grows: CPU with few and many jobs in flight, and its memory over very many."""

from __future__ import annotations

import sys
from dataclasses import replace

from bench import jobs
from bench.consumers import PREFETCH, all_done, consuming, settings_for
from bench.instruments import OURS, Dose, Round, Wanted, report, start
from bench.system import SMALL, System

IN_FLIGHT, QUICK_IN_FLIGHT = (4, 16, 64, 256), (4, 32)
JOBS, QUICK_JOBS, WARM_UP_JOBS = 300, 60, 24
STEP_JOBS, QUICK_STEP_JOBS, STEPS = 50_000, 1_000, 6
AT_ONCE_JOBS = 500
GROWN = "resident MB, beyond the first third"
WANTED = (Wanted(GROWN, 3.0),)  # nothing, but for what a heap breathes


async def run(dose: Dose) -> bool:
    async with System.running(CONSUMER_CONCURRENCY=str(max(IN_FLIGHT))) as system:
        is_reached = report("scale", await in_flight(system, dose), (), dose.folder)
        return report("slope", await slope(system, dose), WANTED, dose.folder) and is_reached


async def in_flight(system: System, dose: Dose) -> list[Round]:
    rounds, photo = list[Round](), SMALL.drawn()
    async with system.design(OURS) as design:
        await jobs.measure(design, system, SMALL, photo, WARM_UP_JOBS)
        for _ in range(dose.rounds):
            for number in QUICK_IN_FLIGHT if dose.is_quick else IN_FLIGHT:
                count = max(QUICK_JOBS if dose.is_quick else JOBS, 2 * number)
                measured = await jobs.measure(design, system, SMALL, photo, count, number)
                rounds.append(replace(measured, case=f"{number} in flight"))
                print(rounds[-1], file=sys.stderr, flush=True)
    return rounds


async def slope(system: System, dose: Dose) -> list[Round]:
    """Photo and model cost nothing, so that there can be so many jobs."""
    settings = settings_for(system, PREFETCH, 0.0)
    step = QUICK_STEP_JOBS if dose.is_quick else STEP_JOBS
    rounds, first_third = list[Round](), 0
    async with consuming(OURS, settings) as consumer:
        for number in range(1, STEPS + 1):
            for _ in range(step // AT_ONCE_JOBS):
                await all_done(consumer, settings, AT_ONCE_JOBS)
            resident = consumer.program.resident_bytes()
            if number <= STEPS // 3:
                first_third = resident
            figures = {"resident MB": resident / 1e6, GROWN: (resident - first_third) / 1e6}
            rounds.append(Round(f"{number * step:,} jobs", OURS, figures))
            print(rounds[-1], file=sys.stderr, flush=True)
    return rounds


if __name__ == "__main__":
    start(run, __doc__)
