"""What one client must have seen of one job: the promise of the stream, checked on what arrived."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from tests.stream_conformance.wire import Event

STAGES = ("awaiting_upload", "queued", "fetching", "analysing", "advising")
FIELDS = {"job_id", "seq", "stage", "progress", "message", "attempt", "updated_at"}


def stages(events: Sequence[Event]) -> list[str]:
    return [event.data["stage"] for event in events]


def check_whole_story(events: Sequence[Event], job_id: str) -> None:
    """Every event from the first to the end: no gap, no repeat, no disorder, one terminal."""
    assert [event.data["seq"] for event in events] == list(range(1, len(events) + 1)), list(map(str, events))
    assert len({event.id for event in events}) == len(events), "an id was given twice"
    assert [event.ends for event in events] == [False] * (len(events) - 1) + [True]
    check_telling(events, job_id)


def check_telling(events: Sequence[Event], job_id: str) -> None:
    """True of any unbroken piece of a story, also of one that begins with a reset's snapshot."""
    for event in events:
        check_event(event, job_id)
    told = [event.data for event in events]
    for before, after in pairwise(told):
        assert after["seq"] == before["seq"] + 1, (before, after)
        assert after["progress"] >= before["progress"], (before, after)
        assert after["attempt"] >= before["attempt"], (before, after)
        is_ahead = after["stage"] not in STAGES or _rank(after) > _rank(before)
        assert is_ahead or after["attempt"] > before["attempt"], (before, after)


def check_event(event: Event, job_id: str) -> None:
    data = event.data
    assert data.keys() >= FIELDS, FIELDS - data.keys()
    assert data["job_id"] == job_id
    assert isinstance(data["progress"], int)
    assert 0 <= data["progress"] <= 100
    assert isinstance(data["attempt"], int)
    assert data["attempt"] >= 1
    assert isinstance(data["message"], str)
    assert data["message"]
    assert data["updated_at"].endswith("Z")
    datetime.fromisoformat(data["updated_at"])
    if event.name == "progress":
        assert data["stage"] in STAGES
    if event.ends:
        assert data["stage"] == event.name
    if event.name == "done":
        assert data["progress"] == 100
        assert data["result"]["job_id"] == job_id
    if event.name == "failed":
        assert {"code", "detail", "retryable"} <= data["failure"].keys()


def _rank(data: dict[str, Any]) -> int:
    return STAGES.index(data["stage"])
