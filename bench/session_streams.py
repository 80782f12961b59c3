"""What a session's stream costs while nothing happens: heartbeats, and the slow look at its list.

One gateway with a core to itself, each stream of a session of its own with one unfinished job.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from bench.instruments import OURS, Dose, Round, Wanted, start
from bench.streams import Delivery, connected, make_jobs, serving, system_for_streams, warm_up

PATH = "/api/v1/waste/events"
STREAMS, QUICK_STREAMS = 10_000, 1_000
IDLE_SECONDS = 45.0  # three heartbeats and three slow looks of each stream
CLOSED = "closed meanwhile"


async def measured(dose: Dose) -> AsyncIterator[Round]:
    count = QUICK_STREAMS if dose.is_quick else STREAMS
    async with system_for_streams() as system:
        jobs = await make_jobs(system.settings, count)
        for _ in range(dose.rounds):
            figures = dict[str, float]()
            async with serving(OURS, system.settings) as (server, port):
                await warm_up(jobs, port, PATH)
                async with connected(jobs, port, Delivery(), server, figures, PATH) as connections:
                    before = server.cpu()
                    await asyncio.sleep(IDLE_SECONDS)
                    figures["idle, % of a core"] = (server.cpu() - before).own / IDLE_SECONDS * 100
                    figures[CLOSED] = sum(connection.is_closing() for connection in connections)
            yield Round(f"{count:,} session streams", OURS, figures)


if __name__ == "__main__":
    start("session_streams", measured, __doc__, Wanted(CLOSED, 0, always=True))
