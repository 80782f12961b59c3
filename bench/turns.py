"""Runs growbin with a watch on its event loop, and writes down at the end which turns cost CPU:

    python -m bench.turns FILE gateway

A turn is one pass of the loop over what is ready. While it lasts, nobody else is served.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from growbin.cli import main

KEPT_FROM_SECONDS = 0.002


@dataclass(slots=True)
class Turn:
    at: float  # on the monotonic clock, which all processes share
    seconds: float  # of CPU
    longest: str  # what cost most in it


def watch() -> list[Turn]:
    """The costly ones of all turns from now on."""
    turns = list[Turn]()
    loop_turn: Any = asyncio.BaseEventLoop._run_once  # type: ignore[attr-defined]  # noqa: SLF001
    callback: Any = asyncio.Handle._run  # noqa: SLF001
    longest_seconds, longest = 0.0, None

    def watched_callback(handle: asyncio.Handle) -> None:
        nonlocal longest_seconds, longest
        before = time.thread_time()
        callback(handle)
        spent = time.thread_time() - before
        if spent > longest_seconds:
            longest_seconds, longest = spent, handle

    def watched_turn(loop: asyncio.BaseEventLoop) -> None:
        nonlocal longest_seconds, longest
        longest_seconds, longest = 0.0, None
        before = time.thread_time()
        loop_turn(loop)
        spent = time.thread_time() - before
        if spent >= KEPT_FROM_SECONDS:
            turns.append(Turn(time.monotonic(), spent, f"{longest_seconds * 1000:.1f} ms of {longest!r}"))

    asyncio.BaseEventLoop._run_once = watched_turn  # type: ignore[attr-defined]  # noqa: SLF001
    asyncio.Handle._run = watched_callback  # type: ignore[method-assign,assignment]  # noqa: SLF001
    return turns


if __name__ == "__main__":
    _, file, *sys.argv[1:] = sys.argv
    seen = watch()
    try:
        main()
    finally:
        Path(file).write_text(json.dumps([asdict(turn) for turn in seen]))
