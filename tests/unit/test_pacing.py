"""Pacing: a refusal slows down, answers speed up, and one may run alone."""

from __future__ import annotations

import asyncio
import time

from growbin.consumer.pacing import SoloGate, Throttle
from growbin.errors import Throttled


async def test_refusal_halves_the_places_and_answers_bring_them_back() -> None:
    """Concurrency falls by half with each refusal and grows slowly with answers."""
    throttle = Throttle(8)
    throttle.slow_down(Throttled("rate", retry_after_seconds=0.001))
    throttle.slow_down(Throttled("rate", retry_after_seconds=0.001))
    assert throttle.places == 2
    for _ in range(100):
        throttle.speed_up()
    assert throttle.places == 8


async def test_refusal_with_retry_after_holds_everybody_that_long() -> None:
    """Nobody calls before the model's own Retry-After has passed."""
    throttle = Throttle(8)
    throttle.slow_down(Throttled("rate", retry_after_seconds=0.1))
    begin = time.monotonic()
    async with throttle.turn():
        assert time.monotonic() - begin >= 0.09


async def test_broken_key_lets_one_call_probe() -> None:
    """While key or quota is broken there is one place, until an answer comes."""
    throttle = Throttle(8)
    throttle.slow_down(Throttled("key", retry_after_seconds=0.001, broken=True))
    assert (throttle.places, throttle.is_broken) == (1, True)
    throttle.speed_up()
    assert not throttle.is_broken


async def test_turns_never_exceed_the_places() -> None:
    """As many calls at once as there are places, and no more."""
    throttle = Throttle(3)
    inside = most = 0

    async def call() -> None:
        nonlocal inside, most
        async with throttle.turn():
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.005)
            inside -= 1

    await asyncio.gather(*(call() for _ in range(20)))
    assert most == 3


async def test_solo_waits_for_the_others_and_keeps_new_ones_out() -> None:
    """Who wants to be alone waits for those inside, goes before those who come later, and is alone."""
    gate = SoloGate()
    order: list[str] = []
    first_may_leave = asyncio.Event()

    async def enter(name: str, *, alone: bool, until: asyncio.Event | None = None) -> None:
        async with gate.entered(alone=alone):
            order.append(f"+{name}")
            await (until.wait() if until else asyncio.sleep(0.01))
            order.append(f"-{name}")

    first = asyncio.create_task(enter("first", alone=False, until=first_may_leave))
    await asyncio.sleep(0.01)
    solo = asyncio.create_task(enter("solo", alone=True))
    await asyncio.sleep(0.01)
    later = asyncio.create_task(enter("later", alone=False))
    await asyncio.sleep(0.01)
    first_may_leave.set()
    await asyncio.gather(first, solo, later)
    assert order == ["+first", "-first", "+solo", "-solo", "+later", "-later"]


async def test_cancelled_solo_lets_the_others_in() -> None:
    """A solo waiter that gives up does not keep the gate shut."""
    gate = SoloGate()
    async with gate.entered(alone=False):
        solo = asyncio.create_task(_enter_alone(gate))
        await asyncio.sleep(0.01)
        later = asyncio.create_task(_enter(gate))
        await asyncio.sleep(0.01)
        solo.cancel()
        await asyncio.wait([solo])
        async with asyncio.timeout(1):
            await later


async def _enter(gate: SoloGate) -> None:
    async with gate.entered(alone=False):
        pass


async def _enter_alone(gate: SoloGate) -> None:
    async with gate.entered(alone=True):
        pass
