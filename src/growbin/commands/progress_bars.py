"""How far each photo is, drawn in the terminal."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from growbin.commands.terminal_text import NAME_COLUMNS, clean, cut, padded, tail

REDRAW_SECONDS = 0.1
BAR_COLUMNS = 20


class ProgressBars:
    """A bar for each photo at work, redrawn in place, and above them a line for each that has ended.
    Where `stream` is no terminal, a line for each change instead, or nothing when `is_quiet`."""

    def __init__(self, stream: TextIO, *, is_quiet: bool) -> None:
        self._stream = stream
        self._is_live = stream.isatty()
        self._is_plain = not self._is_live and not is_quiet
        self._bars: list[ProgressBar] = []
        self._height = 0  # lines that are drawn now

    def begin(self, photo: Path) -> ProgressBar:
        bar = ProgressBar(clean(str(photo)))
        self._bars.append(bar)
        self._draw_if_live()
        return bar

    def show(self, bar: ProgressBar, progress: int, message: str) -> None:
        bar.progress, bar.message = progress, message
        self._draw_if_live()
        if self._is_plain:
            self._stream.write(f"{bar.name}: {progress:3d} % {clean(message)}\n")

    def end(self, bar: ProgressBar, summary: str) -> None:
        self._bars.remove(bar)
        if self._is_live:
            self._draw(f"{summary}\n")
        elif self._is_plain:
            self._stream.write(f"{summary}\n")

    @asynccontextmanager
    async def drawn(self) -> AsyncIterator[None]:
        """Draw until the end, and leave nothing half-drawn behind."""
        drawing = asyncio.create_task(self._keep_drawing()) if self._is_live else None
        try:
            yield
        finally:
            if drawing is not None:
                drawing.cancel()
                self._bars.clear()
                self._draw()

    def _draw_if_live(self) -> None:
        """At each change, so that even a photo that is done at once has had its bar."""
        if self._is_live:
            self._draw()

    async def _keep_drawing(self) -> None:
        """In between, so that the seconds go on."""
        while True:
            self._draw()
            await asyncio.sleep(REDRAW_SECONDS)

    def _draw(self, above: str = "") -> None:
        columns = shutil.get_terminal_size().columns - 1  # a full last column would wrap
        bars = "".join(f"{cut(bar.drawn(), columns)}\n" for bar in self._bars)
        start_over = f"\x1b[{self._height}F\x1b[J" if self._height else ""
        self._stream.write(start_over + above + bars)
        self._stream.flush()
        self._height = len(self._bars)


@dataclass(slots=True, eq=False)
class ProgressBar:
    """One photo at work."""

    name: str
    progress: int = 0
    message: str = ""
    began_at: float = field(default_factory=time.monotonic)

    def drawn(self) -> str:
        full = self.progress * BAR_COLUMNS // 100
        bar = "━" * full + "╌" * (BAR_COLUMNS - full)
        seconds = time.monotonic() - self.began_at
        name = padded(tail(self.name, NAME_COLUMNS), NAME_COLUMNS)
        return f"{name} {bar} {self.progress:3d} % {seconds:5.1f} s  {clean(self.message)}"
