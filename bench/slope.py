"""Whether growbin's consumer grows over very many jobs, of which photo and model cost nothing: one round in
six steps.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from bench.consumers import PREFETCH, all_done, consuming, settings_for
from bench.instruments import OURS, Dose, Round, Wanted, start
from bench.system import System

STEP_JOBS, QUICK_STEP_JOBS, STEPS = 50_000, 1_000, 6
AT_ONCE_JOBS = 500
GROWN = "resident MB, beyond the first third"
MOST_MEGABYTES = 3.0  # nothing, but for what a heap breathes


async def measured(dose: Dose) -> AsyncIterator[Round]:
    step, first_third = QUICK_STEP_JOBS if dose.is_quick else STEP_JOBS, 0
    async with System.running() as system:
        settings = settings_for(system, PREFETCH, 0.0)
        async with consuming(OURS, settings) as consumer:
            for number in range(1, STEPS + 1):
                for _ in range(step // AT_ONCE_JOBS):
                    await all_done(consumer, settings, AT_ONCE_JOBS)
                resident = consumer.program.resident_bytes()
                if number <= STEPS // 3:
                    first_third = resident
                figures = {"resident MB": resident / 1e6, GROWN: (resident - first_third) / 1e6}
                yield Round(f"{number * step:,} jobs", OURS, figures)


if __name__ == "__main__":
    start("slope", measured, __doc__, Wanted(GROWN, MOST_MEGABYTES))
