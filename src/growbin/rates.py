"""How often somebody may call: buckets that fill evenly, and what is left in them. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Holder = Literal["session", "address", "everybody"]

# Less than a millisecond too early is in time: fractions of a second do not add up exactly.
TOLERANCE_MS = 1


@dataclass(frozen=True, slots=True)
class Bucket:
    """Holds `calls`; empty, it is full again after `seconds`. All that is kept of it is when that will be."""

    calls: int
    seconds: int

    def full_at_ms(self, full_at_ms: float, now_ms: float) -> float:
        """When it is full again after one more call. No bucket is emptier than empty, whatever is stored."""
        begin_ms = min(max(full_at_ms, now_ms), now_ms + self.seconds * 1000)
        return begin_ms + self.seconds * 1000 / self.calls

    def over_ms(self, full_at_ms: float, now_ms: float) -> float:
        """How much too early the call comes that leaves it full only at that moment."""
        over_ms = full_at_ms - now_ms - self.seconds * 1000
        return over_ms if over_ms >= TOLERANCE_MS else 0.0

    def left(self, full_in_ms: float) -> int:
        missing = full_in_ms * self.calls / (self.seconds * 1000)
        return max(math.floor(self.calls - missing + TOLERANCE_MS / 1000), 0)


@dataclass(frozen=True, slots=True)
class Rate:
    """How often one kind of call may come: from one session, from one address, from everybody. A call that
    only makes a session is no session's."""

    kind: str
    session: Bucket | None
    address: Bucket
    everybody: Bucket | None = None


@dataclass(frozen=True, slots=True)
class Level:
    """A bucket after a call. `full_in_ms` goes beyond its seconds where the call was refused."""

    holder: Holder
    bucket: Bucket
    full_in_ms: float

    @property
    def left(self) -> int:
        return self.bucket.left(self.full_in_ms)

    @property
    def full_in_seconds(self) -> int:
        return math.ceil(min(self.full_in_ms / 1000, self.bucket.seconds))

    @property
    def retry_after_seconds(self) -> int:
        """0: the call was not refused, or not by this one."""
        return math.ceil(self.bucket.over_ms(self.full_in_ms, 0) / 1000)


@dataclass(frozen=True, slots=True)
class LiveSession:
    """A session as a call left it: `expires_in` seconds unless it is used; kept once it has completed an
    upload."""

    owner: str
    expires_in: int
    is_kept: bool


@dataclass(frozen=True, slots=True)
class Admission:
    """What a call found: its session, if that lives, and the buckets it was counted in; one of them may have
    refused it, and then it was counted in none."""

    session: LiveSession | None
    levels: Sequence[Level] = ()

    @property
    def retry_after_seconds(self) -> int:
        """0: the call may go on."""
        return max((level.retry_after_seconds for level in self.levels), default=0)
