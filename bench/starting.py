"""What gateway and consumer cost before the first request: CPU until they are ready, and memory."""

from __future__ import annotations

import sys

from bench.instruments import OURS, Dose, Round, Wanted, in_turn, report, start
from bench.system import NAIVE, System, consumer_of, gateway_of
from growbin.local.child import draw_port

CPU, MEMORY = "CPU s", "resident MB"
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
                    figures = {CPU: program.cpu().own, MEMORY: program.resident_bytes() / 1e6}
                rounds.append(Round(role, name, figures))
                print(rounds[-1], file=sys.stderr, flush=True)
    return report("starting", rounds, WANTED, dose.folder)


if __name__ == "__main__":
    start(run, __doc__)
