"""The fake of ports.Sessions."""

from __future__ import annotations

import hashlib
import secrets

from tests.fakes.absence import MayBeAway


class FakeSessions(MayBeAway):
    def __init__(self) -> None:
        super().__init__()
        self.owners: set[str] = set()

    async def create(self) -> str:
        self._answer()
        token = secrets.token_urlsafe(32)
        self.owners.add(hashlib.sha256(token.encode()).hexdigest())
        return token

    async def owner(self, token: str) -> str | None:
        self._answer()
        owner = hashlib.sha256(token.encode()).hexdigest()
        return owner if owner in self.owners else None
