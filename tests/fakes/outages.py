"""The fake of ports.OutageReports and ports.Outages."""

from __future__ import annotations

from collections.abc import Sequence

from growbin.job import rfc3339
from growbin.ports import PartAway
from tests.fakes.absence import MayBeAway
from tests.fakes.clock import Clock

HOLDS_MS = 30_000


class FakeOutages(MayBeAway):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.looks = 0
        self._clock = clock
        self._told: dict[str, tuple[str, int]] = {}  # since when, and until when it holds

    async def tell_away(self, part: str, away_seconds: float) -> None:
        self._answer()
        now_ms = self._clock.now_ms()
        since, until_ms = self._told.get(part, ("", 0))
        if until_ms <= now_ms:
            since = rfc3339(now_ms - int(away_seconds * 1000))
        self._told[part] = (since, now_ms + HOLDS_MS)

    async def tell_back(self, part: str) -> None:
        self._answer()
        self._told.pop(part, None)

    async def away(self, parts: Sequence[str]) -> Sequence[PartAway]:
        self._answer()
        self.looks += 1
        now_ms = self._clock.now_ms()
        told = [(part, *self._told.get(part, ("", 0))) for part in parts]
        away = [PartAway(part, since) for part, since, until_ms in told if until_ms > now_ms]
        return sorted(away, key=lambda known: known.since)
