"""An inquest names what befell each attempt, and says so when nothing is known."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.faults.inquest import Inquest, holdings_of
from tests.faults.instruments.journal import Journal
from tests.faults.instruments.oracle import Event, Stream, TrackedJob


def said(event: str, job_id: str, seconds_ago: float, **more: object) -> str:
    """One line of a consumer's log."""
    moment = (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat()
    return json.dumps({"event": event, "job_id": job_id, "timestamp": moment, **more})


def inquest_on(
    logs: dict[str, list[str]], journal: Journal, end: str = "", *, is_forgotten: bool = False
) -> Inquest:
    """On a job that has ended just now, if at all."""
    job = TrackedJob("one", "token", "id-1")
    job.accept()
    if end:
        job.streams.append(Stream("stream", events=[Event(time.monotonic(), "e.4.end", end, {})]))
    if is_forgotten:
        job.destroyed.append((time.monotonic() - 62, time.monotonic() - 50))
    return Inquest(*holdings_of({"id-1": job}, logs, journal)[0])


def test_each_attempt_is_given_what_befell_its_holder() -> None:
    """The kill of the first holder, the reason that the second gave; not the kill of a bystander."""
    journal = Journal()
    kill = journal.note("consumer-1", "kill")
    kill.began = kill.ended = time.monotonic() - 19
    journal.note("consumer-3", "kill")
    inquest = inquest_on(
        {
            "consumer-1": [said("job_begun", "id-1", 20, attempt=1)],
            "consumer-2": [
                said("job_begun", "id-1", 10, attempt=2),
                said("job_postponed", "id-1", 9, reason="model: timed out"),
                said("job_begun", "another", 8, attempt=1),
            ],
        },
        journal,
    )
    assert inquest.has_cause
    assert "attempt 1 on consumer-1: kill of consumer-1 after 1.0 s" in str(inquest)
    assert "attempt 2 on consumer-2: job_postponed: model: timed out" in str(inquest)


def test_attempt_that_nothing_befell_has_no_cause() -> None:
    """A holder that was killed before it began the job, and was hurt no more, explains nothing."""
    journal = Journal()
    kill = journal.begin("consumer-1", "kill")
    kill.began, kill.ended = time.monotonic() - 30, time.monotonic() - 9.5
    inquest = inquest_on({"consumer-1": [said("job_begun", "id-1", 10, attempt=1)]}, journal)
    assert not inquest.has_cause
    assert str(inquest).endswith("attempt 1 on consumer-1: nothing is known")


@pytest.mark.parametrize(
    ("begun_ago_seconds", "end", "has_cause"),
    [(1, "expired", True), (8, "expired", False), (1, "failed", False)],
)
def test_attempt_that_began_at_the_deadline_has_it_for_a_cause(
    begun_ago_seconds: float, end: str, has_cause: bool
) -> None:
    """Where the holder before was hurt. An attempt that had time, or ended otherwise, is a riddle."""
    journal = Journal()
    kill = journal.note("consumer-1", "kill")
    kill.began = kill.ended = time.monotonic() - 19
    logs = {
        "consumer-1": [said("job_begun", "id-1", 20, attempt=1)],
        "consumer-2": [said("job_begun", "id-1", begun_ago_seconds, attempt=2)],
    }
    assert inquest_on(logs, journal, end).has_cause == has_cause
    del logs["consumer-1"]
    assert not inquest_on(logs, journal, end).has_cause


def test_job_that_nobody_began_has_no_cause() -> None:
    """It was accepted, and no consumer ever spoke of it."""
    assert not inquest_on({}, Journal()).has_cause


@pytest.mark.parametrize(
    ("kind", "after_seconds", "has_cause"),
    [("kill", 3, True), ("freeze", 3, False), ("kill", 30, False)],
)
def test_job_that_was_done_expires_only_if_its_consumer_was_killed_after_it(
    kind: str, after_seconds: float, has_cause: bool
) -> None:
    """Redis had forgotten its end: whoever wrote it still knew it, for a while."""
    journal = Journal()
    blow = journal.note("consumer-1", kind)
    blow.began = blow.ended = time.monotonic() - 60 + after_seconds
    logs = {
        "consumer-1": [
            said("job_begun", "id-1", 62, attempt=1),
            said("job_ended", "id-1", 60, outcome="done"),
        ]
    }
    assert inquest_on(logs, journal, "expired", is_forgotten=True).has_cause == has_cause
