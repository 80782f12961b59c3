"""The fake of ports.Agenda."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

from growbin.ports import Erasure
from tests.fakes.absence import MayBeAway
from tests.fakes.clock import Clock

AGAIN = " again"


class FakeAgenda(MayBeAway):
    """`entries` are the passes that are still to come, each with the moment at which it is due."""

    def __init__(self, clock: Clock, wipe: Callable[[UUID], None], claim_seconds: float = 20) -> None:
        super().__init__()
        self.clock = clock
        self.entries: dict[str, int] = {}
        self._wipe = wipe
        self._claim_ms = int(claim_seconds * 1000)

    def add(self, job_id: UUID, after_seconds: Sequence[float]) -> None:
        for number, seconds in enumerate(after_seconds, start=1):
            self.entries.setdefault(f"{job_id} {number}", self.clock.now_ms() + int(seconds * 1000))

    async def claim(self, most: int) -> Sequence[Erasure]:
        self._answer()
        by_time = sorted(self.entries.items(), key=lambda item: item[1])
        due = [entry for entry, due_ms in by_time if due_ms <= self.clock.now_ms()][:most]
        for entry in due:
            del self.entries[entry]
            self.entries[entry.removesuffix(AGAIN) + AGAIN] = self.clock.now_ms() + self._claim_ms
        return [
            Erasure(UUID(entry[:36]), entry.removesuffix(AGAIN) + AGAIN, is_repeated=entry.endswith(AGAIN))
            for entry in due
        ]

    async def wipe(self, job_id: UUID) -> None:
        self._answer()
        self._wipe(job_id)

    async def done(self, erasure: Erasure) -> None:
        self._answer()
        self.entries.pop(erasure.entry, None)
