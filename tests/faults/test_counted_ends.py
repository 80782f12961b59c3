"""Ends that were not counted, or not logged as people saw them, are found."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from tests.faults.counted_ends import (
    End,
    Life,
    began_at,
    calls_unanswered,
    differences,
    ends_counted,
    ends_logged,
    ends_seen,
    ends_written_again,
    mislogged,
)
from tests.faults.instruments.journal import Journal
from tests.faults.instruments.oracle import Event, Stream, TrackedJob

METRICS = """# TYPE growbin_jobs_ended_total counter
growbin_jobs_ended_total{outcome="done"} 3.0
growbin_jobs_ended_total{outcome="expired"} 0.0
# TYPE growbin_open_streams gauge
growbin_open_streams 7.0
"""
LOG = """{"event": "job_begun", "job_id": "one", "timestamp": "2026-01-01T00:00:00Z"}
{"event": "job_ended", "job_id": "one", "outcome": "done", "timestamp": "2026-01-01T00:00:02Z"}
"""
AGO_SECONDS = 60.0
TICK_SECONDS = 0.02  # Linux counts a process' beginning in hundredths


def told(stage: str, seconds_ago: float = AGO_SECONDS) -> dict[str, Any]:
    """An end, or what a read answers of it; "failed: code"."""
    name, _, code = stage.partition(": ")
    at = datetime.fromtimestamp(time.time() - seconds_ago, UTC).isoformat()
    return {"stage": name, "updated_at": at} | ({"failure": {"code": code}} if code else {})


def job_of(name: str, *ends: dict[str, Any]) -> TrackedJob:
    """One that was accepted, with an end for each of its runs, of which two clients heard."""
    job = TrackedJob(name, "token", name, run=max(1, len(ends)))
    job.accept()
    for run, data in enumerate(ends, start=1):
        events = [Event(time.monotonic(), "id", str(data["stage"]), data)]
        job.streams += [Stream(f"stream {number}", run=run, events=list(events)) for number in range(2)]
    return job


def logged(*outcomes: tuple[str, str]) -> dict[str, list[End]]:
    """By one consumer: each job and how it ended."""
    return {"consumer-1": [End(job_id, outcome, time.time()) for job_id, outcome in outcomes]}


def deleted(job: TrackedJob) -> TrackedJob:
    job.delete_asked_at = job.deleted_at = time.monotonic()
    return job


def named(wrong: list[str]) -> list[str]:
    return [line.partition(" ")[0] for line in wrong]


def test_ends_are_read_from_metrics_and_log() -> None:
    """By outcome; what never happened is not there."""
    assert ends_counted(METRICS) == Counter(done=3)
    assert ends_logged(LOG) == [End("one", "done", 1767225602.0)]


def test_life_knows_its_own_ends_until_a_moment() -> None:
    """Not those of the process that had its name before, nor what came later."""
    life = Life(began=10, asked=20, answered=21, counted=Counter())
    ends = [End("before", "done", 9), End("own", "done", 15), End("late", "expired", 20.5)]
    assert life.known(ends, life.asked) == Counter(done=1)
    assert life.known(ends, life.answered) == Counter(done=1, expired=1)


def test_life_begins_when_its_process_does() -> None:
    """To the clock's tick: a consumer that is started again at once ends nothing of its predecessor's."""
    before = time.time()
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        began, after = began_at(child.pid), time.time()
    assert before - TICK_SECONDS <= began <= after + TICK_SECONDS


def test_each_end_is_logged_once_and_as_it_was_seen() -> None:
    """Nothing to say of one that is; twice, otherwise, unseen, unlogged and nobody's are told."""
    names = ("right", "twice", "otherwise", "unlogged")
    jobs = [*(job_of(name, told("done")) for name in names), job_of("unseen")]
    lines = logged(
        ("right", "done"),
        ("twice", "done"),
        ("twice", "done"),
        ("otherwise", "expired"),
        ("unseen", "done"),
        ("nobody's", "done"),
    )
    assert named(mislogged(jobs, lines, Journal())) == [*names[1:], "unseen", "nobody's"]


def test_end_may_be_unlogged_where_redis_answered_too_late() -> None:
    """Whoever asked for it gave up waiting, said so, and never heard that it was written."""
    log = '{"part": "redis", "event": "part_unavailable", "job_id": "left"}\n'
    log += '{"part": "s3", "event": "part_unavailable", "job_id": "other"}\n'
    assert calls_unanswered(log) == {"left"}
    jobs = [job_of(name, told("cancelled")) for name in ("left", "other")]
    assert named(mislogged(jobs, logged(), Journal(), calls_unanswered(log))) == ["other"]
    twice = logged(("left", "cancelled"), ("left", "cancelled"), ("other", "cancelled"))
    assert named(mislogged(jobs, twice, Journal(), calls_unanswered(log))) == ["left"]


def test_each_run_has_an_end_of_its_own() -> None:
    """Told by several streams or by the last read, and counted once; one that was left out is missed."""
    first, second = told("failed: model_answer_invalid", 60), told("done", 30)
    both, read, one = job_of("both", first, second), job_of("read", first), job_of("one", first, second)
    read.run, read.final = 2, second
    for job in (both, read):
        assert [end.outcome for end in ends_seen(job)] == ["model_answer_invalid", "done"]
    lines = logged(*[(name, end) for name in ("both", "read") for end in ("done", "model_answer_invalid")])
    lines["gateway-1"] = [End("one", "done", time.time())]
    assert named(mislogged([both, read, one], lines, Journal())) == ["one"]


def test_cancelled_job_is_logged_as_it_was_seen() -> None:
    """A cancel that came too late has changed nothing."""
    jobs = [job_of(name, told(stage)) for name, stage in (("in time", "cancelled"), ("too late", "done"))]
    for job in jobs:
        job.cancel_asked_at = time.monotonic()
    assert mislogged(jobs, logged(("in time", "cancelled"), ("too late", "done")), Journal()) == []
    assert named(mislogged(jobs, logged(("in time", "done"), ("too late", "done")), Journal())) == ["in"]


def test_deleted_job_has_one_end_of_which_nobody_need_know() -> None:
    """Whichever it was; none, or two, are told."""
    names = ("cancelled", "done", "unlogged", "twice")
    lines = logged(("cancelled", "cancelled"), ("done", "done"), ("twice", "done"), ("twice", "cancelled"))
    jobs = [deleted(job_of(name)) for name in names]
    assert named(mislogged(jobs, lines, Journal())) == ["unlogged", "twice"]
    journal = Journal()
    journal.note("redis of consumer-1", "cut")
    assert named(mislogged(jobs, lines, journal)) == ["twice"]


def test_deleted_job_that_was_seen_to_end_has_no_other_end() -> None:
    """Its deletion came after it."""
    jobs = [deleted(job_of("right", told("done"))), deleted(job_of("twice", told("done")))]
    lines = logged(("right", "done"), ("twice", "done"), ("twice", "cancelled"))
    assert named(mislogged(jobs, lines, Journal())) == ["twice"]


def test_job_that_redis_forgot_may_end_again() -> None:
    """Once for each time that it was forgotten."""
    jobs = [job_of("right", told("done")), job_of("thrice", told("done"))]
    for job in jobs:
        job.destroyed.append((0, time.monotonic()))
    lines = logged(*[("right", "done")] * 2, *[("thrice", "done")] * 3)
    assert named(mislogged(jobs, lines, Journal())) == ["thrice"]


def test_end_that_was_written_again_is_logged_once() -> None:
    """One for each time that a process says so."""
    log = json.dumps({"event": "end_written_again", "job_id": "right"})
    jobs = [job_of(name, told("done"), told("done", 7)) for name in ("right", "wrong")]
    lines = logged(("right", "done"), ("wrong", "done"))
    assert named(mislogged(jobs, lines, Journal(), (), ends_written_again(log))) == ["wrong"]


def test_ticket_that_ran_out_is_counted_as_not_uploaded() -> None:
    """Its owner reads that it expired, as of a job that was accepted; there it is not the same."""
    ticket, job = job_of("ticket", told("expired")), job_of("job", told("expired"))
    ticket.accepted_at = None
    lines = logged(("ticket", "not_uploaded"), ("job", "not_uploaded"))
    assert named(mislogged([ticket, job], lines, Journal())) == ["job"]
    assert differences(ticket, lines["consumer-1"][:1]) == ([], [])


def test_only_an_end_whose_writer_was_hurt_at_that_moment_may_be_unlogged() -> None:
    """Not one of long before, and a trouble excuses no second line."""
    journal = Journal()
    journal.note("redis of consumer-1", "cut")
    jobs = [job_of("hurt", told("done", 0)), job_of("well", told("done")), job_of("twice", told("done", 0))]
    lines = logged(("twice", "done"), ("twice", "done")) | {"gateway-1": []}
    assert named(mislogged(jobs, lines, journal)) == ["well", "twice"]
