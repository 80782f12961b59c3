"""The oracle sees what is wrong; an oracle that is always content proves nothing."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.faults.journal import Journal
from tests.faults.model import Call
from tests.faults.oracle import Event, Ledger, Stream, TrackedJob

PROGRESS = {"awaiting_upload": 0, "queued": 10, "fetching": 25, "analysing": 45, "advising": 90}
STORY = "awaiting_upload queued fetching analysing advising done"
DEADLINE_SECONDS = 60.0


def ledger_with(
    *stories: str, calls: int = 1, late_seconds: float = 0
) -> tuple[Ledger, TrackedJob, list[Call]]:
    """An accepted job with a stream for each story, and its paid calls."""
    ledger = Ledger()
    job = ledger.track("one", "token")
    job.accept()
    for number, story in enumerate(stories):
        stream = Stream(f"stream {number}")
        for seq, stage in enumerate(story.split(), start=1):
            stream.events.append(event_of(seq, stage, late_seconds))
        job.streams.append(stream)
    now = time.monotonic()
    return (
        ledger,
        job,
        [Call("one", "consumer-1", now + n * 10, now + n * 10 + 1, 200, True) for n in range(calls)],
    )


def event_of(seq: int, stage: str, late_seconds: float = 0) -> Event:
    moment = datetime.now(UTC) + timedelta(seconds=late_seconds)
    data = {
        "seq": seq,
        "stage": stage,
        "attempt": 1,
        "progress": PROGRESS.get(stage, 100),
        "updated_at": moment.isoformat(),
    }
    return Event(time.monotonic(), f"epoch.{seq}.{stage}", "progress" if stage in PROGRESS else stage, data)


def verdict(ledger: Ledger, calls: list[Call], journal: Journal | None = None) -> list[str]:
    """The invariants that are broken."""
    wrong = ledger.violations(
        calls, journal or Journal(), deadline_seconds=DEADLINE_SECONDS, max_paid_calls=3
    )
    return [line.split()[0] for line in wrong]


def test_perfect_job_breaks_nothing() -> None:
    """One end, seen by both clients in order, paid once."""
    ledger, job, calls = ledger_with(STORY, STORY)
    job.final = {"stage": "done"}
    assert verdict(ledger, calls) == []


@pytest.mark.parametrize(
    ("story", "broken"),
    [
        ("awaiting_upload queued fetching", ["I1", "I4"]),
        ("awaiting_upload queued done fetching", ["I2"]),
        ("awaiting_upload queued done done", ["I1", "I2"]),
        ("awaiting_upload fetching queued done", ["I4", "I4"]),
        ("awaiting_upload queued queued done", ["I4"]),
    ],
)
def test_wrong_story_is_seen(story: str, broken: list[str]) -> None:
    """No end, something after it, two ends, disorder, a repeat."""
    ledger, _, calls = ledger_with(story)
    assert verdict(ledger, calls) == broken


def test_gap_is_seen() -> None:
    """A client that missed an event saw a wrong stream, however it ended."""
    ledger, job, calls = ledger_with(STORY)
    del job.streams[0].events[2]
    assert verdict(ledger, calls) == ["I4"]


def test_late_end_is_seen() -> None:
    """Deadline and ten seconds, and not a second more."""
    ledger, _, calls = ledger_with(STORY, late_seconds=DEADLINE_SECONDS + 11)
    assert verdict(ledger, calls) == ["I1"]


def test_second_paid_call_needs_a_trouble_during_a_call() -> None:
    """It is excused by what happened to its own consumer in that moment, by nothing else."""
    ledger, _, calls = ledger_with(STORY, calls=2)
    assert verdict(ledger, calls) == ["I3"]
    journal = Journal()
    journal.note("consumer-2", "kill")
    assert verdict(ledger, calls, journal) == ["I3"]
    journal.note("model of consumer-1", "cut")
    assert verdict(ledger, calls, journal) == []


def test_reset_is_right_only_where_history_was_destroyed() -> None:
    """A client that is told to start over lost something; who destroyed nothing may not say so."""
    ledger, job, calls = ledger_with(STORY)
    snapshot = job.streams[0].events[2]
    job.streams[0].events.insert(3, Event(snapshot.at, "other.3.reset", "reset", snapshot.data))
    assert verdict(ledger, calls) == ["I4"]
    ledger.history_was_destroyed = True
    assert verdict(ledger, calls) == []
