"""What may be spent on the model: so many calls, so many dollars, in a minute or a day, by everybody, by one
session, by one address. Windows are those of the clock (UTC), so that one can say when it opens again.

A text says it: `20000 calls/day, $5/day, 600 calls/minute`. Dollars are counted in millionths, rounded up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

Scope = Literal["everybody", "session", "address"]
Unit = Literal["calls", "micros"]
Window = Literal["minute", "day"]

_CALLS = re.compile(r"(\d{1,12}) calls?/(minute|day)")
_DOLLARS = re.compile(r"\$(\d{1,7}(?:\.\d{1,6})?)/(minute|day)")
MICROS_OF_A_DOLLAR = 1_000_000


@dataclass(frozen=True, slots=True)
class Limit:
    """At most so many in each window."""

    scope: Scope
    unit: Unit
    window: Window
    most: int


@dataclass(frozen=True, slots=True)
class Budget:
    """All limits. `first_share` of each of everybody's is kept for first photos: a session's first of the
    day, at most `firsts_per_address` of one address. A call reserves `call_micros`, what it may cost at most,
    and one that nobody has settled after `call_seconds` was a dead process's: it counts as spent."""

    limits: tuple[Limit, ...] = ()
    first_share: float = 0.2
    firsts_per_address: int = 3
    call_micros: int = 0
    call_seconds: float = 65

    def in_calls_alone(self) -> Budget:
        """For a model without a price."""
        return replace(self, limits=tuple(limit for limit in self.limits if limit.unit == "calls"))


def parse_limits(scope: Scope, text: str) -> tuple[Limit, ...]:
    """Raises ValueError."""
    return tuple(_limit(scope, part.strip()) for part in text.split(",") if part.strip())


def _limit(scope: Scope, text: str) -> Limit:
    if found := _CALLS.fullmatch(text):
        return Limit(scope, "calls", _window(found[2]), int(found[1]))
    if found := _DOLLARS.fullmatch(text):
        return Limit(scope, "micros", _window(found[2]), micros(Decimal(found[1])))
    raise ValueError(f"{text!r} is no limit like `500 calls/day`, `60 calls/minute` or `$2.50/day`")


def _window(text: str) -> Window:
    return "minute" if text == "minute" else "day"


def micros(dollars: Decimal | float) -> int:
    """Millionths, rounded up; what a float has too much beyond a billionth is none."""
    return math.ceil(round(Decimal(dollars) * MICROS_OF_A_DOLLAR, 3))


def has_dollars(limits: Iterable[Limit]) -> bool:
    return any(limit.unit == "micros" for limit in limits)
