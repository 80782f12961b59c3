"""The fake of ports.DeadLetters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from growbin.ports import Letter
from tests.fakes.absence import MayBeAway


class FakeDeadLetters(MayBeAway):
    part = "rabbitmq"

    def __init__(self) -> None:
        super().__init__()
        self.parked: list[Letter] = []

    async def list(self) -> Sequence[Letter]:
        self._answer()
        return tuple(self.parked)

    async def walk(self, act: Callable[[Letter], Awaitable[bool]]) -> None:
        self._answer()
        self.parked = [letter for letter in self.parked if not await act(letter)]
