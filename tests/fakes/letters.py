"""The fake of ports.DeadLetters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from growbin.ports import Letter
from tests.fakes.absence import MayBeAway


class FakeDeadLetters(MayBeAway):
    part = "rabbitmq"

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Letter] = []
        self._turn = asyncio.Lock()

    async def list(self) -> Sequence[Letter]:
        self._answer()
        return tuple(self.kept)

    async def walk(self, act: Callable[[Letter], Awaitable[bool]]) -> None:
        self._answer()
        async with self._turn:
            stay = 0
            while stay < len(self.kept):
                if await act(self.kept[stay]):
                    del self.kept[stay]
                else:
                    stay += 1
