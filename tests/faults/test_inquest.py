"""An inquest names what befell each attempt, and says so when nothing is known."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from tests.faults.inquest import Inquest, hits_of, holdings_of, overcounted
from tests.faults.instruments.journal import Journal
from tests.faults.instruments.oracle import Event, Stream, TrackedJob
from tests.faults.model import Call


def said(event: str, job_id: str, seconds_ago: float, **more: object) -> str:
    """One line of a consumer's log."""
    moment = (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat()
    return json.dumps({"event": event, "job_id": job_id, "timestamp": moment, **more})


def inquest_on(
    logs: dict[str, list[str]],
    journal: Journal,
    end: str = "failed: crashed",
    *,
    is_forgotten: bool = False,
    starts: int = 4,
    counted: int = 0,
    calls: Sequence[str] = (),
) -> Inquest:
    """On a job that has ended just now."""
    job = TrackedJob("one", "token", "id-1")
    job.accept()
    name, _, code = end.partition(": ")
    data = {"failure": {"code": code}} if code else {}
    job.streams.append(Stream("stream", events=[Event(time.monotonic(), "e.4.end", name, data)]))
    if is_forgotten:
        job.destroyed.append((time.monotonic() - 62, time.monotonic() - 50))
    job, held = holdings_of({"id-1": job}, logs, journal)[0]
    return Inquest(job, held, starts, counted, list(calls))


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
    assert inquest.cause == "all its holders lost"
    assert "attempt 1 on consumer-1: kill of consumer-1 after 1.0 s" in str(inquest)
    assert "attempt 2 on consumer-2: job_postponed: model: timed out" in str(inquest)


def test_attempt_that_nothing_befell_has_no_cause() -> None:
    """A holder that was killed before it began the job, and was hurt no more, explains nothing."""
    journal = Journal()
    kill = journal.begin("consumer-1", "kill")
    kill.began, kill.ended = time.monotonic() - 30, time.monotonic() - 9.5
    inquest = inquest_on({"consumer-1": [said("job_begun", "id-1", 10, attempt=1)]}, journal)
    assert inquest.cause is None
    assert "attempt 1 on consumer-1: nothing is known (4 starts" in str(inquest)


@pytest.mark.parametrize(
    ("begun_ago_seconds", "end", "has_cause"),
    [(1, "expired", True), (8, "expired", False), (1, "failed: crashed", False)],
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
    assert (inquest_on(logs, journal, end).cause is not None) == has_cause
    del logs["consumer-1"]
    assert inquest_on(logs, journal, end).cause is None


@pytest.mark.parametrize(
    ("starts", "counted", "calls", "cause"),
    [
        (4, 1, ["kill of consumer-1"], "all its holders lost"),
        (3, 3, ["kill of consumer-1", "status 500", "kill of consumer-1"], "all its calls hit"),
        (3, 3, ["kill of consumer-1", "status 500"], "all its calls hit"),  # killed before it was made
        (3, 3, ["status 500"], None),
        (3, 3, ["kill of consumer-1", "", "status 500"], None),
        (3, 2, ["kill of consumer-1", "status 500"], None),
    ],
)
def test_failed_job_must_have_lost_all_its_starts_or_all_its_calls(
    starts: int, counted: int, calls: list[str], cause: str | None
) -> None:
    """Fewer starts, a call that was answered in peace, or one that was counted and never made: no cause."""
    journal = Journal()
    kill = journal.note("consumer-1", "kill")
    kill.began = kill.ended = time.monotonic() - 19
    logs = {"consumer-1": [said("job_begun", "id-1", 20, attempt=1)]}
    assert inquest_on(logs, journal, starts=starts, counted=counted, calls=calls).cause == cause


def test_call_is_hit_by_a_blow_or_by_the_model_s_own_error() -> None:
    """The blow of its own consumer, a status that is no answer, both, or nothing."""
    now, journal = time.monotonic(), Journal()
    blow = journal.note("consumer-1", "kill")
    blow.began = blow.ended = now - 10
    calls = [
        Call("one", "consumer-1", now - 11, now - 10, None),
        Call("one", "consumer-2", now - 11, now - 10, 500),
        Call("one", "consumer-1", now - 11, now - 10, 500),
        Call("one", "consumer-2", now - 11, now - 10, 200, paid=True),
    ]
    assert hits_of(calls, journal) == [
        "kill of consumer-1",
        "status 500",
        "kill of consumer-1 and status 500",
        "",
    ]


@pytest.mark.parametrize(
    ("counted", "target", "is_called"),
    [
        (2, "", True),
        (1, "", False),
        (2, "consumer-1", False),
        (2, "model of consumer-1", False),
        (2, "consumer-3", True),  # not one of its queue's
    ],
)
def test_call_that_is_counted_and_was_never_made_is_called(
    counted: int, target: str, is_called: bool
) -> None:
    """Unless its consumer or the link to the model was hit meanwhile."""
    journal, job = Journal(), TrackedJob("one", "token", "id-1", ticketed_at=time.monotonic())
    if target:
        journal.note(target, "kill")
    wrong = list(overcounted(job, counted, 1, journal, ["consumer-1", "consumer-2"]))
    assert bool(wrong) == is_called


def test_job_that_nobody_began_has_no_cause() -> None:
    """It was accepted, and no consumer ever spoke of it."""
    assert inquest_on({}, Journal()).cause is None


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
    found = inquest_on(logs, journal, "expired", is_forgotten=True).cause
    assert (found is not None) == has_cause
