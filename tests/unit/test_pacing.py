"""Pacing: a refusal slows down, answers speed up, and one may run alone."""

from __future__ import annotations

import asyncio
import time

import pytest

from growbin.consumer import pacing
from growbin.consumer.pacing import SoloGate, Throttle
from growbin.errors import Throttled


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_congestion_halves_the_places_and_quiet_brings_them_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From one place to all of them in five doublings."""
    monkeypatch.setattr(pacing, "DOUBLING_SECONDS", 0.02)
    throttle = Throttle(32)
    for _ in range(5):
        throttle.slow_down(Throttled("rate", retry_after_seconds=1), now())
    assert throttle.places == 1
    async with asyncio.timeout(30):
        while throttle.places < 32:
            await asyncio.sleep(0.005)


async def test_calls_in_flight_are_one_congestion() -> None:
    """Ten refusals of one burst halve once; the next burst's first refusal halves again."""
    throttle = Throttle(32)
    begun_at = now()
    for _ in range(10):
        throttle.slow_down(Throttled("rate", retry_after_seconds=0.01), begun_at)
    assert throttle.places == 16
    throttle.slow_down(Throttled("rate", retry_after_seconds=0.01), now())
    assert throttle.places == 8


async def test_longest_retry_after_of_a_burst_is_kept() -> None:
    """Whoever is told to wait longer is believed, also in the middle of a pause."""
    throttle = Throttle(32)
    begun_at = now()
    throttle.slow_down(Throttled("rate", retry_after_seconds=0.01), begun_at)
    throttle.slow_down(Throttled("rate", retry_after_seconds=0.2), begun_at)
    async with throttle.turn() as turn:
        assert turn - begun_at >= 0.19


async def test_refusal_with_retry_after_holds_everybody_that_long() -> None:
    """Nobody calls before the model's own Retry-After has passed."""
    throttle = Throttle(8)
    throttle.slow_down(Throttled("rate", retry_after_seconds=0.1), now())
    begin = time.monotonic()
    async with throttle.turn():
        assert time.monotonic() - begin >= 0.09


async def test_who_waits_for_a_place_gets_one_that_came_back_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody has to leave for it."""
    monkeypatch.setattr(pacing, "DOUBLING_SECONDS", 0.3)
    monkeypatch.setattr(pacing, "PLACES_PAUSE_SECONDS", 0.01)
    throttle = Throttle(2)
    throttle.slow_down(Throttled("rate", retry_after_seconds=0.01), now())
    async with throttle.turn(), asyncio.timeout(30), throttle.turn():
        assert throttle.places == 2


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
        async with asyncio.timeout(30):
            await later


async def _enter(gate: SoloGate) -> None:
    async with gate.entered(alone=False):
        pass


async def _enter_alone(gate: SoloGate) -> None:
    async with gate.entered(alone=True):
        pass
