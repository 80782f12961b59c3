"""What each call of a job costs a gateway, beside the same references: so many tickets, then as many
upload-completes, then as many streams, each read up to its first event. No consumer runs, so that nothing but
the calls is counted.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from bench.instruments import Dose, Round, Wanted, in_turn, report, start
from bench.system import DESIGNS, IN_FLIGHT, NAIVE, Design, Photo, System

PHOTO = Photo("tiny", 320, 240, 10_000)
CALLS, QUICK_CALLS, WARM_UP_CALLS = 300, 60, 30
SETTLE_SECONDS = 1.0
ANALYZE, COMPLETE, STREAM = "analyze ms", "upload-complete ms", "opening a stream ms"
WANTED = (Wanted(ANALYZE, 1.0, NAIVE), Wanted(COMPLETE, 1.0, NAIVE), Wanted(STREAM, 0.75, NAIVE))


async def run(dose: Dose) -> bool:
    rounds = list[Round]()
    calls, photo = QUICK_CALLS if dose.is_quick else CALLS, PHOTO.drawn()
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(System.running())
        designs = [await stack.enter_async_context(system.design(name, consumes=False)) for name in DESIGNS]
        for design in designs:
            await measure(design, photo, WARM_UP_CALLS)
        for design in in_turn(designs, dose.rounds):
            rounds.append(await measure(design, photo, calls))
            print(rounds[-1], file=sys.stderr, flush=True)
    return report("routes", rounds, WANTED, dose.folder)


async def measure(design: Design, photo: bytes, calls: int) -> Round:
    client = design.client
    tokens = [await client.session() for _ in range(calls)]
    figures = dict[str, float]()
    tickets = list[Any]()

    async def ticket(token: str) -> None:
        tickets.append((await client.ticket(token), token))

    figures[ANALYZE] = await cost_ms(design, ticket, [(token,) for token in tokens])
    await each(lambda ticket, _token: client.upload(ticket, photo), tickets)
    figures[COMPLETE] = await cost_ms(design, client.complete, tickets)
    figures[STREAM] = await cost_ms(
        design, lambda ticket, token: client.follow(ticket, token, until=b"progress"), tickets
    )
    return Round("a call", design.name, figures)


async def cost_ms(
    design: Design, call: Callable[..., Awaitable[None]], given: Sequence[tuple[Any, ...]]
) -> float:
    await asyncio.sleep(SETTLE_SECONDS)
    before = design.gateway.cpu()
    await each(call, given)
    await asyncio.sleep(SETTLE_SECONDS)
    return (design.gateway.cpu() - before).own / len(given) * 1000


async def each(call: Callable[..., Awaitable[None]], given: Sequence[tuple[Any, ...]]) -> None:
    left = iter(given)

    async def one_after_the_other() -> None:
        for arguments in left:
            await call(*arguments)

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(one_after_the_other())


if __name__ == "__main__":
    start(run, __doc__)
