"""The fake of ports.Sessions."""

from __future__ import annotations

import hashlib
import secrets

from tests.fakes.absence import MayBeAway
from tests.fakes.clock import Clock

SESSION_MS = 7 * 24 * 3600 * 1000


class FakeSessions(MayBeAway):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.owners: dict[str, int] = {}  # each with the moment at which it is forgotten
        self._clock = clock

    async def create(self) -> str:
        self._answer()
        token = secrets.token_urlsafe(32)
        self._keep(_owner(token))
        return token

    async def owner(self, token: str) -> str | None:
        self._answer()
        owner = _owner(token)
        if self.owners.get(owner, 0) <= self._clock.now_ms():
            return None
        self._keep(owner)
        return owner

    async def end(self, owner: str) -> None:
        self._answer()
        self.owners.pop(owner, None)

    def _keep(self, owner: str) -> None:
        self.owners[owner] = self._clock.now_ms() + SESSION_MS


def _owner(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
