"""Ends that were not counted, or not logged as people saw them, are found."""

from __future__ import annotations

import time
from collections import Counter

from tests.faults.counted_ends import End, Life, ends_counted, ends_logged, mislogged
from tests.faults.instruments.journal import Journal

METRICS = """# TYPE growbin_jobs_ended_total counter
growbin_jobs_ended_total{outcome="done"} 3.0
growbin_jobs_ended_total{outcome="expired"} 0.0
# TYPE growbin_open_streams gauge
growbin_open_streams 7.0
"""
LOG = """{"event": "job_begun", "job_id": "one", "timestamp": "2026-01-01T00:00:00Z"}
{"event": "job_ended", "job_id": "one", "outcome": "done", "timestamp": "2026-01-01T00:00:02Z"}
"""


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


def test_each_end_is_logged_once_and_as_it_was_seen() -> None:
    """Nothing to say of one that is; twice, otherwise, unseen and unlogged are told."""
    now = time.time()
    seen = [End(name, "done", now) for name in ("right", "twice", "otherwise", "unlogged")]
    logged = {
        "consumer-1": [End("right", "done", now), End("twice", "done", now), End("unseen", "done", now)],
        "gateway-1": [End("twice", "done", now), End("otherwise", "expired", now)],
    }
    wrong = mislogged(seen, logged, Journal())
    assert [line.partition(" ")[0] for line in wrong] == ["twice", "otherwise", "unlogged", "unseen"]


def test_only_an_end_whose_writer_was_hurt_at_that_moment_may_be_unlogged() -> None:
    """Not one of long before, and a trouble excuses no second line."""
    journal, now = Journal(), time.time()
    journal.note("redis of consumer-1", "cut")
    seen = [End("hurt", "done", now), End("well", "done", now - 60), End("twice", "done", now)]
    logged = {"consumer-1": [End("twice", "done", now), End("twice", "done", now)], "gateway-1": []}
    assert [line.partition(" ")[0] for line in mislogged(seen, logged, journal)] == ["well", "twice"]
