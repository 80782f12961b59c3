"""How far each photo is, drawn in the terminal."""

from __future__ import annotations

import asyncio
import math
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from growbin.commands.terminal_text import NAME_COLUMNS, clean, cut, padded, tail
from growbin.job import Locale
from growbin.messages import place_in_line

REDRAW_SECONDS = 0.1
BAR_COLUMNS = 20
USUAL_SECONDS = 15.0
WORDS = {
    "ko": {
        "in_line": "앞 사진을 먼저 보내고 있어요.",
        "sending": "사진을 보내고 있어요.",
        "again": "다시 시도하고 있어요 ({attempt}번째)",
        "again_of": "다시 시도하고 있어요 ({most}번 중 {attempt}번째)",
        "slow": "평소보다 오래 걸려요.",
        "more": "그 밖에 {count}장이 더 있어요.",
    },
    "en": {
        "in_line": "Waiting for the photos before it.",
        "sending": "Sending the photo.",
        "again": "Trying again ({attempt})",
        "again_of": "Trying again ({attempt} of {most})",
        "slow": "It takes longer than usual.",
        "more": "and {count} more.",
    },
}


def told(event: dict[str, Any], language: str) -> tuple[int, str]:
    """Percent and words of an event: with the place in line, where it is known and not the first, and with
    the attempt, where it is not the first."""
    words, message = WORDS[language], str(event["message"])
    attempt, most = event.get("attempt") or 1, event.get("max_attempts")
    if attempt > 1 and event["progress"] < 100:
        again = words["again_of" if most else "again"].format(attempt=attempt, most=most)
        message = f"{again}. {message}"
    if (position := event.get("position") or 1) > 1:
        locale: Locale = "ko" if language == "ko" else "en"
        message = f"{message} {place_in_line(position, event.get('wait_seconds'), locale)}"
    return event["progress"], message


class ProgressBars:
    """A bar for each photo that has not ended, redrawn in place, and above them a line for each that has.
    Where `stream` is no terminal, a line for each change instead, or nothing when `is_quiet`. What takes
    longer than `usual_seconds` is said to."""

    def __init__(
        self,
        stream: TextIO,
        language: str,
        *,
        is_quiet: bool,
        usual_seconds: float | None = USUAL_SECONDS,
    ) -> None:
        self._stream = stream
        self._words = WORDS[language]
        self._is_live = stream.isatty()
        self._is_plain = not self._is_live and not is_quiet
        self._usual_seconds = usual_seconds or math.inf
        self._bars: list[ProgressBar] = []
        self._height = 0  # lines that are drawn now

    def add(self, photo: Path) -> ProgressBar:
        """A photo that waits for its turn."""
        bar = ProgressBar(clean(str(photo)), self._words["in_line"])
        self._bars.append(bar)
        return bar

    def begin(self, bar: ProgressBar) -> None:
        bar.began_at = time.monotonic()
        bar.message = self._words["sending"]
        self._draw_if_live()

    def show(self, bar: ProgressBar, progress: int, message: str) -> None:
        bar.progress, bar.message = progress, message
        self._draw_if_live()
        self._tell(f"{bar.name}: {progress:3d} % {clean(message)}")

    def end(self, bar: ProgressBar, summary: str) -> None:
        self._bars.remove(bar)
        if self._is_live:
            self._draw(f"{summary}\n")
        self._tell(summary)

    @asynccontextmanager
    async def drawn(self) -> AsyncIterator[None]:
        """Draw until the end, and leave nothing half-drawn behind."""
        drawing = asyncio.create_task(self._keep_drawing())
        try:
            yield
        finally:
            drawing.cancel()
            with suppress(asyncio.CancelledError):
                await drawing
            self._bars.clear()
            if self._is_live:
                self._draw()

    def _tell(self, line: str) -> None:
        if self._is_plain:
            self._stream.write(f"{line}\n")
            self._stream.flush()

    def _draw_if_live(self) -> None:
        """At each change, so that even a photo that is done at once has had its bar."""
        if self._is_live:
            self._draw()

    async def _keep_drawing(self) -> None:
        """In between, so that the seconds go on, and what takes long is told."""
        while True:
            for bar in self._bars:
                if not bar.is_slow and bar.seconds > self._usual_seconds:
                    bar.is_slow = True
                    self._tell(f"{bar.name}: {self._words['slow']}")
            self._draw_if_live()
            await asyncio.sleep(REDRAW_SECONDS)

    def _draw(self, above: str = "") -> None:
        columns, rows = shutil.get_terminal_size()
        most = max(1, rows - 2)  # what does not fit could not be redrawn in place
        first = sorted(self._bars, key=lambda bar: bar.began_at is None)  # those at work, then those in line
        lines = [bar.drawn(self._words["slow"]) for bar in first[:most]]
        if len(first) > most:
            lines.append(self._words["more"].format(count=len(first) - most))
        bars = "".join(f"{cut(line, columns - 1)}\n" for line in lines)  # a full last column would wrap
        start_over = f"\x1b[{self._height}F\x1b[J" if self._height else ""
        self._stream.write(start_over + above + bars)
        self._stream.flush()
        self._height = len(lines)


@dataclass(slots=True, eq=False)
class ProgressBar:
    """One photo that has not ended; it has begun when it is its turn."""

    name: str
    message: str
    progress: int = 0
    began_at: float | None = None
    is_slow: bool = False

    @property
    def seconds(self) -> float:
        return 0.0 if self.began_at is None else time.monotonic() - self.began_at

    def drawn(self, slow: str) -> str:
        full = self.progress * BAR_COLUMNS // 100
        bar = "━" * full + "╌" * (BAR_COLUMNS - full)
        name = padded(tail(self.name, NAME_COLUMNS), NAME_COLUMNS)
        told = f"{slow} {self.message}" if self.is_slow else self.message
        return f"{name} {bar} {self.progress:3d} % {self.seconds:5.1f} s  {clean(told)}"
