"""The fake of ports.Sessions."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from growbin.rates import Admission, Bucket, Holder, Level, LiveSession, Rate
from tests.fakes.absence import MayBeAway
from tests.fakes.clock import Clock

KEPT_SECONDS = 7 * 24 * 3600
LONGEST_SECONDS = 30 * 24 * 3600


@dataclass(slots=True)
class Kept:
    expires_at_ms: float
    ends_at_ms: float
    is_kept: bool = False


class FakeSessions(MayBeAway):
    def __init__(self, clock: Clock, new_session_seconds: int = 3600) -> None:
        super().__init__()
        self.owners: dict[str, Kept] = {}
        self.on_new_job: Callable[[str, UUID], None] = lambda owner, job_id: None  # their lists are elsewhere
        self._clock = clock
        self._new_session_seconds = new_session_seconds
        self._full_at_ms: dict[tuple[str, str], float] = {}

    async def create(
        self, address: str, rate: Rate, *, at_least_seconds: int = 0, new_job: UUID | None = None
    ) -> tuple[str, Admission]:
        self._answer()
        token = secrets.token_urlsafe(32)
        owner = _owner(token)
        levels = self._count(owner, address, rate)
        if any(level.retry_after_seconds for level in levels):
            return token, Admission(None, levels)
        now_ms = self._clock.now_ms()
        self.owners[owner] = Kept(now_ms, now_ms + LONGEST_SECONDS * 1000)
        return token, Admission(self._slide(owner, at_least_seconds, new_job), levels)

    async def look(
        self,
        token: str,
        address: str,
        rate: Rate,
        *,
        at_least_seconds: int = 0,
        new_job: UUID | None = None,
    ) -> Admission:
        self._answer()
        owner = _owner(token)
        session = self._live(owner)
        levels = self._count(owner if session else None, address, rate)
        if session is None:
            return Admission(None, levels)
        if any(level.retry_after_seconds for level in levels):
            return Admission(self._as_told(owner, session), levels)
        return Admission(self._slide(owner, at_least_seconds, new_job), levels)

    async def keep(self, owner: str) -> bool:
        self._answer()
        session = self._live(owner)
        if session is not None:
            session.is_kept = True
            self._slide(owner, 0)
        return session is not None

    async def end(self, owner: str) -> None:
        self._answer()
        self.owners.pop(owner, None)

    def _live(self, owner: str) -> Kept | None:
        session = self.owners.get(owner)
        return session if session and session.expires_at_ms > self._clock.now_ms() else None

    def _slide(self, owner: str, at_least_seconds: int, new_job: UUID | None = None) -> LiveSession:
        session = self.owners[owner]
        if new_job is not None:
            self.on_new_job(owner, new_job)
        slides = KEPT_SECONDS if session.is_kept else self._new_session_seconds
        until_ms = self._clock.now_ms() + max(slides, at_least_seconds) * 1000
        session.expires_at_ms = min(max(until_ms, session.expires_at_ms), session.ends_at_ms)
        return self._as_told(owner, session)

    def _as_told(self, owner: str, session: Kept) -> LiveSession:
        left_ms = session.expires_at_ms - self._clock.now_ms()
        return LiveSession(owner, math.ceil(left_ms / 1000), session.is_kept)

    def _count(self, owner: str | None, address: str, rate: Rate) -> list[Level]:
        now_ms = self._clock.now_ms()
        holders: list[tuple[str, Holder, Bucket]] = [(address, "address", rate.address)]
        if rate.everybody:
            holders.append(("everybody", "everybody", rate.everybody))
        if owner and rate.session:
            holders.append((owner, "session", rate.session))
        full_at_ms = {
            (name, rate.kind): bucket.full_at_ms(self._full_at_ms.get((name, rate.kind), 0.0), now_ms)
            for name, _, bucket in holders
        }
        levels = [
            Level(holder, bucket, full_at_ms[name, rate.kind] - now_ms) for name, holder, bucket in holders
        ]
        if not any(level.retry_after_seconds for level in levels):
            self._full_at_ms |= full_at_ms
        return levels


def _owner(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
