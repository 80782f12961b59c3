"""What each call of a job costs a gateway, beside the same references: so many tickets, then as many
upload-completes, then as many streams, each read up to its first event. No consumer runs, so that nothing but
the calls is counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

from bench.instruments import Dose, Round, Wanted, in_turn, start
from bench.system import DESIGNS, IN_FLIGHT, NAIVE, Design, Photo, System, Ticket

PHOTO = Photo("tiny", 320, 240, 10_000)
CALLS, QUICK_CALLS, WARM_UP_CALLS = 300, 60, 30
SETTLE_SECONDS = 1.0
ANALYZE, COMPLETE, STREAM = "analyze ms", "upload-complete ms", "opening a stream ms"
WANTED = (Wanted(ANALYZE, 1.0, NAIVE), Wanted(COMPLETE, 1.0, NAIVE), Wanted(STREAM, 0.75, NAIVE))


async def measured(dose: Dose) -> AsyncIterator[Round]:
    calls, photo = QUICK_CALLS if dose.is_quick else CALLS, PHOTO.drawn()
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(System.running())
        designs = [await stack.enter_async_context(system.design(name, consumes=False)) for name in DESIGNS]
        for design in designs:
            await measure(design, photo, WARM_UP_CALLS)
        for design in in_turn(designs, dose.rounds):
            yield await measure(design, photo, calls)


async def measure(design: Design, photo: bytes, calls: int) -> Round:
    client = design.client
    tokens = [await client.session() for _ in range(calls)]
    tickets = dict[str, Ticket]()

    async def ticket(token: str) -> None:
        tickets[token] = await client.ticket(token)

    async def upload(token: str) -> None:
        await client.upload(tickets[token], photo)

    async def complete(token: str) -> None:
        await client.complete(tickets[token], token)

    async def follow(token: str) -> None:
        await client.follow(tickets[token], token, until=b"progress")

    figures = {ANALYZE: await cost_ms(design, ticket, tokens)}
    await each(upload, tokens)
    figures[COMPLETE] = await cost_ms(design, complete, tokens)
    figures[STREAM] = await cost_ms(design, follow, tokens)
    return Round("a call", design.name, figures)


async def cost_ms(design: Design, call: Callable[[str], Awaitable[None]], tokens: Sequence[str]) -> float:
    await asyncio.sleep(SETTLE_SECONDS)
    before = design.gateway.cpu()
    await each(call, tokens)
    await asyncio.sleep(SETTLE_SECONDS)
    return (design.gateway.cpu() - before).own / len(tokens) * 1000


async def each(call: Callable[[str], Awaitable[None]], tokens: Sequence[str]) -> None:
    left = iter(tokens)

    async def one_after_the_other() -> None:
        for token in left:
            await call(token)

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(one_after_the_other())


if __name__ == "__main__":
    start("routes", measured, __doc__, *WANTED)
