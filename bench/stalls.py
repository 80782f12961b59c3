"""How long the loops of gateway and consumer serve nobody else: the CPU of each turn while jobs are done."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from bench.instruments import OURS, Dose, Round, Wanted, growbin, start
from bench.system import HOST, LARGE, SMALL, Client, System
from growbin.local.child import draw_port

JOBS, QUICK_JOBS, WARM_UP_JOBS = 300, 60, 24
SETTLE_SECONDS = 5.0
LONGEST_SECONDS = 0.008
SHOWN = 5
OVER, LONGEST = "turns over 8 ms", "longest turn, CPU ms"


async def measured(dose: Dose) -> AsyncIterator[Round]:
    """Each round starts them anew."""
    async with System.running() as system:
        for _ in range(dose.rounds):
            with tempfile.TemporaryDirectory() as folder:
                began, ended = await watched(system, Path(folder), QUICK_JOBS if dose.is_quick else JOBS)
                for role in ("gateway", "consumer"):
                    turns = json.loads((Path(folder) / role).read_text())
                    turns = [one for one in turns if began <= one["at"] <= ended]
                    turns.sort(key=lambda one: -one["seconds"])
                    for one in turns[:SHOWN]:
                        print(f"{role}: {one['seconds'] * 1000:.1f} ms, {one['longest']}", file=sys.stderr)
                    over = sum(one["seconds"] > LONGEST_SECONDS for one in turns)
                    longest = turns[0]["seconds"] * 1000 if turns else 0.0
                    yield Round(role, OURS, {OVER: over, LONGEST: longest})


async def watched(system: System, folder: Path, jobs: int) -> tuple[float, float]:
    """Jobs of both sizes; returns when they began and ended, warm-up apart."""
    port = draw_port()
    words = (sys.executable, "-m", "bench.turns")
    gateway = growbin(
        "gateway", {**system.settings, "PORT": str(port)}, (*words, str(folder / "gateway"), "gateway")
    )
    consumer = growbin("consumer", system.settings, (*words, str(folder / "consumer"), "consumer"))
    async with gateway, consumer:
        client = Client(system.http, f"http://{HOST}:{port}")
        began = 0.0
        for kind, count in ((SMALL, WARM_UP_JOBS), (SMALL, jobs), (LARGE, jobs // 4)):
            tokens = [await client.session() for _ in range(count)]
            photo = kind.drawn()
            await client.do_many(tokens, photo)
            began = began or time.monotonic()
        await asyncio.sleep(SETTLE_SECONDS)
        return began, time.monotonic()


if __name__ == "__main__":
    start("stalls", measured, __doc__, Wanted(OVER, 0, always=True))
