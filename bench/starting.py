"""What gateway and consumer cost without a request: CPU until they are ready, memory, and CPU while idle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from bench.instruments import OURS, Dose, Round, Wanted, in_turn, start
from bench.system import NAIVE, System, started
from growbin.local.child import draw_port

CPU, MEMORY, IDLE = "CPU s", "resident MB", "idle, % of a core"
IDLE_SECONDS = 20.0
WANTED = (Wanted(CPU, 1.0, case="gateway"), Wanted(MEMORY, 90.0, case="gateway"))


async def measured(dose: Dose) -> AsyncIterator[Round]:
    async with System.running() as system:
        for name in in_turn((OURS, NAIVE), dose.rounds):
            for role in ("gateway", "consumer"):
                async with started(name, role, system.settings, draw_port()) as program:
                    ready, resident_bytes = program.cpu().own, program.resident_bytes()
                    await asyncio.sleep(IDLE_SECONDS)
                    idle = (program.cpu().own - ready) / IDLE_SECONDS
                yield Round(role, name, {CPU: ready, MEMORY: resident_bytes / 1e6, IDLE: idle * 100})


if __name__ == "__main__":
    start("starting", measured, __doc__, *WANTED)
