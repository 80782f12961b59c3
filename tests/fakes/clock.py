"""The time of the fakes."""

from __future__ import annotations

import time


class Clock:
    """The time of the fakes, in milliseconds. It runs with the loop's clock: a wall clock that is set
    right in mid-test would make a deadline come at two times."""

    def __init__(self) -> None:
        self._ahead_ms = 0
        self._offset_seconds = time.time() - time.monotonic()

    def now_ms(self) -> int:
        return int((time.monotonic() + self._offset_seconds) * 1000) + self._ahead_ms

    def advance(self, seconds: float) -> None:
        self._ahead_ms += int(seconds * 1000)
