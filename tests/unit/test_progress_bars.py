"""What a terminal shows while photos are at work."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest

from growbin.commands.progress_bars import ProgressBars, told


class Terminal(io.StringIO):
    """What is written to one, of 80 columns and some rows."""

    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> list[str]:
        """The lines that were drawn last."""
        return self.getvalue().split("\x1b[J")[-1].splitlines()


@pytest.fixture(autouse=True)
def rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "12")


def event(**more: Any) -> dict[str, Any]:
    return {"progress": 10, "message": "Waiting.", "attempt": 1, **more}


@pytest.mark.parametrize(
    ("more", "language", "words"),
    [
        ({}, "en", "Waiting."),
        ({"position": 1, "wait_seconds": 1}, "en", "Waiting."),
        ({"position": 3, "wait_seconds": 8}, "en", "Waiting. 3rd in line, about 8 s."),
        ({"position": 3, "wait_seconds": 8}, "ko", "Waiting. 3번째 차례예요, 약 8초."),
        ({"position": 12}, "en", "Waiting. 12th in line."),
        ({"attempt": 2, "max_attempts": 4}, "en", "Trying again (2 of 4). Waiting."),
        ({"attempt": 2, "max_attempts": 4}, "ko", "다시 시도하고 있어요 (4번 중 2번째). Waiting."),
        ({"attempt": 5}, "en", "Trying again (5). Waiting."),
        ({"attempt": 2, "max_attempts": 4, "progress": 100}, "en", "Waiting."),
    ],
)
def test_place_in_line_and_attempt_are_told(more: dict[str, Any], language: str, words: str) -> None:
    """Where they are known and say something; an end is no attempt."""
    assert told(event(**more), language)[1] == words


def test_each_photo_has_a_line_before_its_turn() -> None:
    """Those at work first, then those in line."""
    screen = Terminal()
    bars = ProgressBars(screen, "en", is_quiet=False)
    added = [bars.add(Path(f"photo-{number}.jpg")) for number in range(10)]
    bars.begin(added[7])
    assert [line.split()[0] for line in screen.screen] == [
        f"photo-{number}.jpg" for number in (7, 0, 1, 2, 3, 4, 5, 6, 8, 9)
    ]
    assert "Sending" in screen.screen[0]
    assert "before it" in screen.screen[1]


def test_more_photos_than_the_terminal_has_rows_are_counted() -> None:
    """What scrolled out of sight could not be drawn again."""
    screen = Terminal()
    bars = ProgressBars(screen, "en", is_quiet=False)
    added = [bars.add(Path(f"photo-{number}.jpg")) for number in range(45)]
    bars.begin(added[0])
    assert len(screen.screen) == 11
    assert screen.screen[-1] == "and 35 more."
    bars.end(added[0], "✓ photo-0.jpg: cup")
    assert "✓ photo-0.jpg: cup" in screen.screen
    assert screen.screen[-1] == "and 34 more."


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
async def test_what_takes_long_is_told(stream: type[io.StringIO]) -> None:
    """Once in a file, and as long as it lasts on a terminal."""
    written = stream()
    bars = ProgressBars(written, "en", is_quiet=False, usual_seconds=0.05)
    async with bars.drawn():
        slow, waiting = bars.add(Path("slow.jpg")), bars.add(Path("waiting.jpg"))
        bars.begin(slow)
        async with asyncio.timeout(30):
            while not slow.is_slow:
                await asyncio.sleep(0.01)
        bars.show(slow, 45, "Looking.")
    assert "slow.jpg" in written.getvalue()
    assert "It takes longer than usual." in written.getvalue()
    assert not waiting.is_slow


async def test_machine_is_told_nothing() -> None:
    """It reads the objects."""
    written = io.StringIO()
    bars = ProgressBars(written, "en", is_quiet=True, usual_seconds=0.01)
    async with bars.drawn():
        bar = bars.add(Path("photo.jpg"))
        bars.begin(bar)
        bars.show(bar, 45, "Looking.")
        await asyncio.sleep(0.3)
        bars.end(bar, "done")
    assert written.getvalue() == ""
