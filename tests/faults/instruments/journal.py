"""What was done to the system and when: the faults that excuse a second paid call or a late end."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class Trouble:
    """One fault on one `target` (a process, a link, a server); `ended` is None while it lasts.
    Times are `time.monotonic()`."""

    target: str
    kind: str
    began: float
    ended: float | None = None

    @property
    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.began

    def overlaps(self, began: float, ended: float) -> bool:
        return self.began <= ended and (self.ended is None or self.ended >= began)


class Journal:
    """Every trouble of one case, in the order in which they began."""

    def __init__(self) -> None:
        self.troubles: list[Trouble] = []

    def begin(self, target: str, kind: str) -> Trouble:
        trouble = Trouble(target, kind, time.monotonic())
        self.troubles.append(trouble)
        return trouble

    def end(self, target: str) -> None:
        """Whatever troubled `target` is over."""
        for trouble in self.troubles:
            if trouble.target == target and trouble.ended is None:
                trouble.ended = time.monotonic()

    def note(self, target: str, kind: str) -> Trouble:
        """A trouble without length, like a cut."""
        trouble = self.begin(target, kind)
        trouble.ended = trouble.began
        return trouble

    def during(self, targets: Iterable[str], began: float, ended: float) -> list[Trouble]:
        """The troubles of any of `targets` that touch the time from `began` to `ended`."""
        wanted = set(targets)
        return [
            trouble
            for trouble in self.troubles
            if trouble.target in wanted and trouble.overlaps(began, ended)
        ]

    def on_the_way(self, began: float, ended: float) -> list[Trouble]:
        """The troubles between Redis and a client of a stream."""
        return [
            trouble
            for trouble in self.troubles
            if (trouble.target == "valkey" or "gateway" in trouble.target) and trouble.overlaps(began, ended)
        ]
