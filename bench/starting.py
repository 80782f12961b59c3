"""What gateway and consumer cost without a request: CPU until they are ready, memory, and CPU while idle."""

from __future__ import annotations

import asyncio
import sys

from bench.instruments import OURS, Dose, Round, Wanted, in_turn, report, start
from bench.system import NAIVE, System, consumer_of, gateway_of
from growbin.local.child import draw_port

CPU, MEMORY, IDLE = "CPU s", "resident MB", "idle, % of a core"
IDLE_SECONDS = 20.0
WANTED = (Wanted(CPU, 1.0, case="gateway"), Wanted(MEMORY, 90.0, case="gateway"))


async def run(dose: Dose) -> bool:
    rounds = list[Round]()
    async with System.running() as system:
        for name in in_turn((OURS, NAIVE), dose.rounds):
            starting = {
                "gateway": gateway_of(name, system.settings, draw_port()),
                "consumer": consumer_of(name, system.settings),
            }
            for role, started in starting.items():
                async with started as program:
                    ready, resident_bytes = program.cpu().own, program.resident_bytes()
                    await asyncio.sleep(IDLE_SECONDS)
                    idle = (program.cpu().own - ready) / IDLE_SECONDS
                figures = {CPU: ready, MEMORY: resident_bytes / 1e6, IDLE: idle * 100}
                rounds.append(Round(role, name, figures))
                print(rounds[-1], file=sys.stderr, flush=True)
    return report("starting", rounds, WANTED, dose.folder)


if __name__ == "__main__":
    start(run, __doc__)
