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


class Visit:
    """Somebody at the gate, who stays inside until told to go."""

    def __init__(self, gate: SoloGate, *, alone: bool = False, patience_seconds: float = 300) -> None:
        self._inside = asyncio.Event()
        self._may_go = asyncio.Event()
        self.task = asyncio.create_task(self._stay(gate, alone, patience_seconds))

    async def _stay(self, gate: SoloGate, alone: bool, patience_seconds: float) -> None:
        async with gate.entered(alone=alone, patience_seconds=patience_seconds):
            self._inside.set()
            await self._may_go.wait()

    @property
    def is_inside(self) -> bool:
        return self._inside.is_set() and not self.task.done()

    async def goes_in(self) -> None:
        async with asyncio.timeout(30):
            await self._inside.wait()

    async def goes(self) -> None:
        self._may_go.set()
        async with asyncio.timeout(30):
            await self.task


async def nothing_moves() -> None:
    """All that is ready has run."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_solo_waits_for_the_others_and_keeps_new_ones_out() -> None:
    """Who wants to be alone waits for those inside, goes before those who come later, and is alone."""
    gate = SoloGate()
    first = Visit(gate)
    await first.goes_in()
    solo, later = Visit(gate, alone=True), Visit(gate)
    await nothing_moves()
    assert not solo.is_inside
    assert not later.is_inside
    await first.goes()
    await solo.goes_in()
    await nothing_moves()
    assert not later.is_inside
    await solo.goes()
    await later.goes_in()
    await later.goes()


async def test_solo_that_has_waited_long_enough_goes_in_beside_another() -> None:
    """Not beside the rest, which stay out until the last solo has gone."""
    gate = SoloGate()
    first = Visit(gate)
    await first.goes_in()
    impatient = Visit(gate, alone=True, patience_seconds=0.01)
    await asyncio.wait([impatient.task], timeout=0.05)
    await nothing_moves()  # it has lost its patience, and waits in the first place
    assert not impatient.is_inside
    patient = Visit(gate, alone=True)
    await nothing_moves()
    await first.goes()
    await impatient.goes_in()
    another, later = Visit(gate, alone=True, patience_seconds=0.01), Visit(gate)
    await another.goes_in()
    assert not patient.is_inside
    await impatient.goes()
    await nothing_moves()
    assert another.is_inside
    assert not patient.is_inside
    assert not later.is_inside
    await another.goes()
    await patient.goes_in()
    await patient.goes()
    await later.goes_in()
    await later.goes()


async def test_cancelled_solo_lets_the_others_in() -> None:
    """A solo waiter that gives up does not keep the gate shut."""
    gate = SoloGate()
    first = Visit(gate)
    await first.goes_in()
    solo, later = Visit(gate, alone=True), Visit(gate)
    await nothing_moves()
    solo.task.cancel()
    await asyncio.wait([solo.task])
    await later.goes_in()
    await later.goes()
    await first.goes()
