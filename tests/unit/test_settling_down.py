"""A program that has started: what it is made of is no garbage collector's business any more."""

from __future__ import annotations

import gc
import time

from growbin.wiring.parts import settle_down


def test_what_imports_have_made_is_not_looked_at_again() -> None:
    """A full collection would hold up the event loop for as long as it takes to look at all of it."""
    try:
        settle_down()
        assert gc.get_freeze_count() > 10_000
        began = time.thread_time()
        gc.collect()
        frozen_seconds = time.thread_time() - began
        gc.unfreeze()
        began = time.thread_time()
        gc.collect()
        assert frozen_seconds < (time.thread_time() - began) / 4
    finally:
        gc.unfreeze()
