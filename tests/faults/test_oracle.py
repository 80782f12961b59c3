"""The oracle sees what is wrong; an oracle that is always content proves nothing.

Each lie is planted into what would be a perfect case, and is called by the invariant that it breaks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from tests.faults.instruments.journal import Journal, Trouble
from tests.faults.instruments.oracle import SESSION_STREAM, Event, Ledger, Read, Stream, TrackedJob
from tests.faults.instruments.promises import LATE_SECONDS, answer_for, feedback_miscounted
from tests.faults.model import Call

PROGRESS = {"awaiting_upload": 0, "queued": 10, "fetching": 25, "analysing": 45, "advising": 90}
STORY = "awaiting_upload queued fetching analysing advising done"
DEADLINE_SECONDS = 60.0
JOB_ID, OTHER_ID = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


@dataclass
class Case:
    """One job of which everything is known and nothing is wrong, to be lied about."""

    ledger: Ledger
    job: TrackedJob
    calls: list[Call]
    journal: Journal

    @property
    def events(self) -> list[Event]:
        return self.job.streams[0].events

    def verdict(self) -> list[str]:
        return self.ledger.violations(
            self.calls, self.journal, deadline_seconds=DEADLINE_SECONDS, max_paid_calls=3
        )

    def broken(self) -> list[str]:
        """The invariants, one for each violation."""
        return [line.split()[0] for line in self.verdict()]

    def rewrite(self, number: int, **changes: Any) -> None:
        """Other data in one event of both streams, which go on agreeing."""
        for stream in self.job.streams:
            event = stream.events[number]
            stream.events[number] = replace(event, data=event.data | changes)

    def retell(self, stories: str, attempts: str = "") -> None:
        """Another story in all streams."""
        stages = stories.split()
        given = [int(attempt) for attempt in attempts] or [1] * len(stages)
        told = [event_of(seq, stage, given[seq - 1]) for seq, stage in enumerate(stages, start=1)]
        for before, after in pairwise(told):
            after.data["progress"] = max(before.data["progress"], after.data["progress"])
        for stream in self.job.streams:
            stream.events = list(told)


def case_of(*, streams: int = 2, calls: int = 1) -> Case:
    """An accepted job that is done, heard by two clients and by its session, read, and paid once."""
    ledger = Ledger()
    job = ledger.track("one", "token")
    job.job_id, job.ticket = JOB_ID, {"image_url": "https://cdn/one.jpg"}
    ledger.know(job)
    job.ticketed_at, job.asked_time = time.monotonic(), time.time()
    job.accept()
    ledger.sessions_heard["token"] = job.ticketed_at - 1
    told = [event_of(seq, stage) for seq, stage in enumerate(STORY.split(), start=1)]
    job.streams = [Stream(f"stream {number}", events=list(told)) for number in range(streams)]
    heard = [replace(event, id=f"vector-{seq}") for seq, event in enumerate(told)]
    job.streams.append(Stream(SESSION_STREAM, events=heard))
    for stream in job.streams:
        stream.tried_at.append(job.ticketed_at)
    job.final = {
        "stage": "done",
        "result": told[-1].data["result"],
        "updated_at": told[-1].data["updated_at"],
    }
    job.reads.append(Read("read", time.monotonic(), 200, job.final))
    began = time.monotonic() - 40
    paid = [Call("one", "consumer-1", began + n * 10, began + n * 10 + 1, 200, True) for n in range(calls)]
    return Case(ledger, job, paid, Journal())


def event_of(seq: int, stage: str, attempt: int = 1, *, ago_seconds: float = 0.0) -> Event:
    moment = datetime.fromtimestamp(time.time() - ago_seconds, UTC)
    data: dict[str, Any] = {
        "job_id": JOB_ID,
        "seq": seq,
        "stage": stage,
        "attempt": attempt,
        "progress": PROGRESS.get(stage, 100),
        "updated_at": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    if stage == "done":
        answer = answer_for("one")
        data["result"] = {"job_id": JOB_ID, "image_url": "https://cdn/one.jpg", "answer": answer}
    nonce = stage.replace("_", "")
    return Event(
        time.monotonic(), f"e.{seq}.{nonce}{attempt}", "progress" if stage in PROGRESS else stage, data
    )


def test_perfect_case_breaks_nothing() -> None:
    """One end, seen by everybody in order, paid once."""
    assert case_of().verdict() == []


# --- stories ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("story", "attempts", "called"),
    [
        ("awaiting_upload queued fetching analysing fetching analysing advising done", "11112222", ""),
        ("awaiting_upload queued cancelled", "", "nobody asked"),
        ("awaiting_upload queued fetching", "", "never ended"),
        ("awaiting_upload queued fetching analysing advising done fetching", "", "fetching after done"),
        ("awaiting_upload fetching analysing advising done", "", "fetching right after awaiting_upload"),
        ("awaiting_upload queued fetching advising done", "", "advising right after fetching"),
        ("awaiting_upload queued fetching analysing done", "", "done right after analysing"),
        ("awaiting_upload queued queued fetching analysing advising done", "", "queued after queued"),
        ("awaiting_upload queued fetching analysing advising done", "111112", "done right after advising"),
        (
            "awaiting_upload queued fetching analysing advising done",
            "111222",
            "attempt 2 began with analysing",
        ),
        ("awaiting_upload queued fetching fetching analysing advising done", "1121111", "attempt 1 after 2"),
    ],
)
def test_story_that_leaves_out_or_repeats_a_stage_is_called(story: str, attempts: str, called: str) -> None:
    """In one attempt each stage comes once, in order, and none is left out; a retry tells them again."""
    case = case_of()
    case.retell(story, attempts)
    case.job.final = None
    case.job.reads.clear()
    wrong = case.verdict()
    assert any(called in line for line in wrong) if called else not wrong, wrong


# --- lies, each planted into the perfect case -----------------------------------------------------


def duplicate_id(case: Case) -> None:
    case.events[3] = replace(case.events[3], id=case.events[2].id)


def number_going_back(case: Case) -> None:
    case.rewrite(3, seq=2)


def id_of_another_number(case: Case) -> None:
    for stream in case.job.streams[:2]:
        stream.events[3] = replace(stream.events[3], id="e.9.analysing1")


def missing_first_event(case: Case) -> None:
    for stream in case.job.streams:
        del stream.events[0]


def gap_after_resume(case: Case) -> None:
    del case.events[2]


def stream_without_an_end(case: Case) -> None:
    del case.events[-1]


def end_twice(case: Case) -> None:
    case.events.append(event_of(7, "done"))


def two_different_ends(case: Case) -> None:
    case.events[-1] = event_of(6, "failed")


def other_bytes(case: Case) -> None:
    case.events[2] = replace(case.events[2], text=json.dumps(case.events[2].data | {"message": "otherwise"}))


def other_id(case: Case) -> None:
    case.events[2] = replace(case.events[2], id="e.3.anothernonce")


def others_event(case: Case) -> None:
    case.events[2] = replace(case.events[2], data=case.events[2].data | {"job_id": OTHER_ID})


def unknown_event(case: Case) -> None:
    case.events.insert(2, Event(time.monotonic(), "e.3.x", "surprise", {}))


def notice_in_the_log(case: Case) -> None:
    case.events.insert(2, Event(time.monotonic(), "e.3.x", "notice", {"part": "model", "job_id": JOB_ID}))


def wrong_name(case: Case) -> None:
    for stream in case.job.streams:
        stream.events[-1] = replace(stream.events[-1], name="progress")


def progress_falling(case: Case) -> None:
    case.rewrite(3, progress=5)


def time_going_back(case: Case) -> None:
    case.rewrite(3, updated_at="2020-01-01T00:00:00.000Z")


def reset_without_loss(case: Case) -> None:
    snapshot = case.events[2]
    case.events.insert(3, Event(snapshot.at, "f.3.x", "reset", snapshot.data))


def reset_of_a_job_that_lost_nothing(case: Case) -> None:
    """Another one's history was destroyed."""
    case.ledger.jobs["two"] = TrackedJob("two", "token", OTHER_ID, destroyed=[(float("-inf"), 0.0)])
    reset_without_loss(case)


def reset_in_the_sessions_stream(case: Case) -> None:
    end = case.job.streams[-1].events[-1]
    case.job.streams[-1].events += [replace(end, id="vector-7", name="reset"), replace(end, id="vector-8")]


def session_without_the_job(case: Case) -> None:
    del case.job.streams[-1]


def session_without_its_end(case: Case) -> None:
    del case.job.streams[-1].events[-1]


def session_telling_of_nobody(case: Case) -> None:
    stranger = event_of(2, "queued")
    stranger.data["job_id"] = OTHER_ID
    case.ledger.hear_in_session(stranger, time.monotonic())


def no_result(case: Case) -> None:
    case.rewrite(-1, result=None)
    case.job.final = None


def result_of_another_job(case: Case) -> None:
    case.rewrite(-1, result=case.events[-1].data["result"] | {"job_id": OTHER_ID})
    case.job.final = None


def photo_of_another_job(case: Case) -> None:
    case.rewrite(-1, result=case.events[-1].data["result"] | {"image_url": "https://cdn/two.jpg"})
    case.job.final = None


def answer_of_another_job(case: Case) -> None:
    case.rewrite(-1, result=case.events[-1].data["result"] | {"answer": answer_for("two")})
    case.job.final = None


def done_without_a_call(case: Case) -> None:
    case.calls.clear()


def done_after_a_refusal_only(case: Case) -> None:
    case.calls[0].status, case.calls[0].paid = 500, False


def kept_answer_that_nobody_paid(case: Case) -> None:
    case.rewrite(-1, result=case.events[-1].data["result"] | {"answered_by": "kept"})
    case.job.final = None
    case.calls.clear()


def late_end(case: Case) -> None:
    moment = datetime.fromtimestamp(time.time() + DEADLINE_SECONDS + 11, UTC)
    case.rewrite(-1, updated_at=moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"))
    case.job.reads.clear()


def end_seen_late(case: Case) -> None:
    case.events[-1] = replace(case.events[-1], at=time.monotonic() + 11)


def early_expiry(case: Case) -> None:
    case.retell("awaiting_upload queued fetching analysing advising expired")
    case.job.final = {"stage": "expired"}
    case.job.reads.clear()


def never_ended(case: Case) -> None:
    for stream in case.job.streams:
        stream.events.clear()


def reads_otherwise(case: Case) -> None:
    case.job.final = {"stage": "analysing"}


def reads_another_result(case: Case) -> None:
    case.job.final = {"stage": "done", "result": {"job_id": JOB_ID}}


def wait_older_than_the_stream(case: Case) -> None:
    case.rewrite(1, updated_at=event_of(2, "queued", ago_seconds=5).data["updated_at"])
    case.rewrite(0, updated_at=event_of(1, "awaiting_upload", ago_seconds=6).data["updated_at"])
    old = {"stage": "queued", "updated_at": case.events[1].data["updated_at"]}
    case.job.reads.append(Read("wait", time.monotonic(), 200, old))


def answer_after_cancel(case: Case) -> None:
    case.job.cancel_asked_at, case.job.cancelled_time = time.monotonic() - 5, time.time() - 5


def deleted_and_answering(case: Case) -> None:
    path = f"/api/v1/waste/jobs/{JOB_ID}"
    case.ledger.note("DELETE", path, "token", time.monotonic(), 204)
    case.job.reads.append(Read("read", time.monotonic() + 1, 200, case.job.final or {}))


def deleted_with_its_session_and_answering(case: Case) -> None:
    case.ledger.note("DELETE", "/api/v1/sessions/current?erase=true", "token", time.monotonic(), 204)
    case.job.reads.append(Read("stream", time.monotonic() + 1, 200))


def paid_twice(case: Case) -> None:
    case.calls += case_of(calls=2).calls[1:]


def paid_twice_beside_a_blow_to_another(case: Case) -> None:
    paid_twice(case)
    case.journal.troubles.append(Trouble("consumer-2", "kill", case.calls[0].began, case.calls[1].began))


def paid_three_times_with_one_blow(case: Case) -> None:
    case.calls += case_of(calls=3).calls[1:]
    case.journal.troubles.append(Trouble("consumer-1", "kill", case.calls[0].began, case.calls[0].began))


def paid_twice_after_a_restart(case: Case) -> None:
    """Its consumer was killed before both calls: they were made by the process that came after."""
    paid_twice(case)
    before = case.calls[0].began - 5
    case.journal.troubles.append(Trouble("consumer-1", "kill", before, case.calls[0].began + 1))


def called_for_nobody(case: Case) -> None:
    case.calls.append(replace(case.calls[0], marker="nobody"))


def called_after_the_end(case: Case) -> None:
    late = time.monotonic() + 3
    case.calls.append(Call("one", "consumer-1", late, late + 1, 500))


LIES: dict[Callable[[Case], None], set[str]] = {
    duplicate_id: {"I4"},
    number_going_back: {"I4"},
    id_of_another_number: {"I4"},
    missing_first_event: {"I4"},
    gap_after_resume: {"I4"},
    stream_without_an_end: {"I4"},
    end_twice: {"I1", "I2"},
    two_different_ends: {"I1", "I4"},
    other_bytes: {"I4"},
    other_id: {"I4"},
    others_event: {"I4"},
    unknown_event: {"I4"},
    notice_in_the_log: {"I4"},
    wrong_name: {"I1", "I4"},
    progress_falling: {"I4"},
    time_going_back: {"I4"},
    reset_without_loss: {"I4"},
    reset_of_a_job_that_lost_nothing: {"I4"},
    reset_in_the_sessions_stream: {"I4"},
    session_without_the_job: {"I4"},
    session_without_its_end: {"I4"},
    session_telling_of_nobody: {"I4"},
    no_result: {"I1"},
    result_of_another_job: {"I1"},
    photo_of_another_job: {"I1"},
    answer_of_another_job: {"I1"},
    done_without_a_call: {"I1"},
    done_after_a_refusal_only: {"I1"},
    kept_answer_that_nobody_paid: {"I1"},
    late_end: {"I1"},
    end_seen_late: {"I1"},
    early_expiry: {"I1"},
    never_ended: {"I1", "I4"},
    reads_otherwise: {"I1"},
    reads_another_result: {"I1"},
    wait_older_than_the_stream: {"I4"},
    answer_after_cancel: {"I1"},
    deleted_and_answering: {"I1"},
    deleted_with_its_session_and_answering: {"I1"},
    paid_twice: {"I3"},
    paid_twice_beside_a_blow_to_another: {"I3"},
    paid_three_times_with_one_blow: {"I3"},
    paid_twice_after_a_restart: {"I3"},
    called_for_nobody: {"I3"},
    called_after_the_end: {"I3"},
}


@pytest.mark.parametrize(("lie", "broken"), LIES.items(), ids=[lie.__name__ for lie in LIES])
def test_lie_is_called_by_the_invariant_that_it_breaks(lie: Callable[[Case], None], broken: set[str]) -> None:
    """Planted into a case of which nothing else is wrong."""
    case = case_of()
    lie(case)
    assert set(case.broken()) == broken, case.verdict()


# --- what is no lie -------------------------------------------------------------------------------


def test_second_paid_call_is_excused_by_the_blow_to_the_first_alone() -> None:
    """It is named with the call: one answer needs no excuse, each other one needs its own."""
    case = case_of(calls=2)
    blow = Trouble("model of consumer-1", "cut", case.calls[0].ended or 0, case.calls[0].ended)
    case.journal.troubles.append(blow)
    assert case.verdict() == []


def test_reset_is_right_for_the_job_whose_history_was_destroyed() -> None:
    """A client that is told to start over lost something; so may its end come twice, and be another."""
    case = case_of(streams=1)
    snapshot = case.events[2]
    case.ledger.destroy_history()
    case.events.insert(3, Event(time.monotonic(), "f.3.x", "reset", snapshot.data))
    assert case.verdict() == []


def test_destruction_leaves_what_was_written_long_before_as_it_was() -> None:
    """A Redis that comes back older than an hour ago knows the job that ended two hours ago."""
    case = case_of()
    case.ledger.destroy_history(since=time.monotonic() + 60)
    assert not case.job.was_destroyed
    reset_without_loss(case)
    assert set(case.broken()) == {"I4"}


def test_job_that_was_set_back_after_its_end_may_be_set_back_again() -> None:
    """It goes on, unheard of; once an end was heard anew, that one is safe as any."""
    case = case_of()
    later = time.monotonic() + 30
    case.ledger.destroy_history()
    case.ledger.destroy_history(since=later)
    assert len(case.job.destroyed) == 2
    case.events.append(replace(case.events[-1], at=later - 10))
    case.ledger.destroy_history(since=later)
    assert len(case.job.destroyed) == 2


@pytest.mark.parametrize(("written_ago_seconds", "is_called"), [(3, False), (0, True), (9, True)])
def test_end_that_was_written_in_a_lost_second_may_read_otherwise(
    written_ago_seconds: float, is_called: bool
) -> None:
    """Also where it was seen only later."""
    case = case_of(streams=1)
    case.job.streams.pop()
    case.ledger.sessions_heard.clear()
    case.job.accepted_at = time.monotonic() - 10
    case.job.asked_time = case.job.accepted_time = time.time() - 10
    case.events[:] = [
        replace(event, data=event_of(seq, stage, ago_seconds=written_ago_seconds).data)
        for seq, (event, stage) in enumerate(zip(case.events, STORY.split(), strict=True), start=1)
    ]
    case.job.destroyed.append((time.monotonic() - 5, time.monotonic() - 1))
    case.job.reads.clear()
    case.job.final = {"stage": "queued"}
    assert set(case.broken()) == ({"I1"} if is_called else set()), case.verdict()


@pytest.mark.parametrize(("accepted_ago_seconds", "is_called"), [(3, False), (0, True), (9, True)])
def test_job_whose_acceptance_was_lost_is_a_ticket(accepted_ago_seconds: float, is_called: bool) -> None:
    """Its end is the ticket's, which nobody here waits for."""
    case = case_of(streams=1)
    del case.events[1:]
    case.job.streams.pop()
    case.ledger.sessions_heard.clear()
    case.calls.clear()
    case.job.accepted_at = time.monotonic() - accepted_ago_seconds
    case.job.asked_time = case.job.accepted_time = time.time() - accepted_ago_seconds
    case.job.destroyed.append((time.monotonic() - 5, time.monotonic() - 1))
    case.job.reads.clear()
    case.job.final = {"stage": "awaiting_upload"}
    assert set(case.broken()) == ({"I1", "I4"} if is_called else set()), case.verdict()


@pytest.mark.parametrize(("token", "is_called"), [("token", False), ("another", True)])
def test_session_whose_list_was_set_back_may_reset_what_has_ended(token: str, is_called: bool) -> None:
    """Nobody can say what its client has heard of. Another session's loss is no excuse, and none for a stream
    of the job itself."""
    case = case_of()
    case.job.accepted_at = time.monotonic() - 20
    for stream in case.job.streams:
        stream.events[:] = [replace(event, at=time.monotonic() - 10) for event in stream.events]
    case.ledger.track("two", token)
    case.ledger.destroy_history(since=time.monotonic() - 5)
    assert not case.job.was_destroyed
    end = replace(case.events[-1], at=time.monotonic())
    case.job.streams[-1].events += [replace(end, id="vector-7", name="reset"), replace(end, id="vector-8")]
    assert set(case.broken()) == ({"I4"} if is_called else set()), case.verdict()
    case.job.streams.pop()
    case.ledger.sessions_heard.clear()
    assert case.verdict() == []
    case.job.streams[0].events += [replace(end, id="e.5.reset", name="reset"), end]
    assert set(case.broken()) == {"I4"}


def test_session_whose_list_was_set_back_may_reset_what_is_made_since() -> None:
    """It cannot be told from what was told before."""
    case = case_of()
    case.ledger.track("two", "token")
    case.ledger.destroy_history()
    later, stranger = case.ledger.track("three", "token"), case.ledger.track("four", "another")
    assert later.may_reset(time.monotonic(), in_session=True)
    assert not later.may_reset(time.monotonic(), in_session=False)
    assert not stranger.may_reset(time.monotonic(), in_session=True)


def driven_again() -> Case:
    """A job that failed, was driven again and is done, with a client that came back."""
    case = case_of(streams=1, calls=2)
    del case.job.streams[-1]
    case.ledger.sessions_heard.clear()
    case.retell("awaiting_upload queued fetching analysing failed")
    case.job.drive_again()
    case.calls[1].began = time.monotonic()
    told = [event_of(seq, stage, 2) for seq, stage in enumerate(STORY.split()[1:], start=1)]
    told = [replace(told[0], name="reset"), *told[1:]]
    case.job.streams.append(Stream("second run", run=2, resumes_after="e.5.failed1", events=told))
    case.job.final = None
    case.job.reads.clear()
    return case


def test_run_that_was_driven_again_is_promised_anew() -> None:
    """Its client gets `reset`, and one end more; the first run's answer was paid for, too."""
    case = driven_again()
    assert case.verdict() == []
    told = list(case.job.streams[-1].events)
    told[0] = replace(told[0], name="progress")
    case.job.streams[-1].events[:] = told
    assert case.broken() == ["I4"]
    # A Redis that was set back may have lost that it was driven again: then there is no second run to reset.
    case.job.destroyed.append((time.monotonic() - 2, time.monotonic() - 1))
    assert case.verdict() == []
    case.job.streams[-1].resumes_after = None
    told[0].data["seq"] = 2
    assert "I4" in case.broken()


def test_life_of_a_new_run_begins_with_the_try_that_wrote_it() -> None:
    """The first may have found Redis away, and nobody knows which of those whose answer was lost it was."""
    case = driven_again()
    case.job.accepted_time -= DEADLINE_SECONDS + LATE_SECONDS + 1
    assert case.broken() == ["I1"]
    case.job.driven()
    assert case.verdict() == []


def test_sessions_stream_may_tell_a_run_after_the_job_was_driven_again() -> None:
    """It was behind. The new run begins with its `reset`."""
    case = case_of(streams=1)
    del case.job.streams[-1]
    case.retell("awaiting_upload queued fetching analysing failed")
    case.job.drive_again()
    again = replace(event_of(1, "queued", 2), name="reset")
    for event in [*case.events, again]:
        case.ledger.hear_in_session(event, time.monotonic())
    heard = [(stream.run, len(stream.events)) for stream in case.job.streams if stream.is_of_session]
    assert heard == [(1, 5), (2, 1)]


def test_deleted_job_is_promised_nothing_more() -> None:
    """Its streams may end without an end, and nobody reads it."""
    case = case_of()
    stream_without_an_end(case)
    case.ledger.note("DELETE", f"/api/v1/waste/jobs/{JOB_ID}", "token", time.monotonic(), 204)
    case.job.reads.append(Read("read", time.monotonic() + 1, 404))
    case.job.final = {"error": "404"}
    assert case.verdict() == []


def dismiss_session(case: Case, asked_at: float | None = None) -> None:
    """Its stream is asked for and answered by 204 a second later."""
    asked_at = time.monotonic() if asked_at is None else asked_at
    case.ledger.sessions_dismissed["token"].append((asked_at, asked_at + 1))


def test_client_that_was_told_the_end_may_be_dismissed() -> None:
    """By 204, from a job's stream and from its session's."""
    case = case_of()
    for stream in case.job.own_streams:
        stream.dismissed_at.append(time.monotonic())
    dismiss_session(case)
    assert case.verdict() == []


def test_client_that_waits_for_an_end_must_not_be_dismissed() -> None:
    """It would not come back; that ours does, and so is told the end after all, is no excuse."""
    case = case_of()
    accepted_at = case.job.begun_at = case.job.accepted_at = time.monotonic() - 20
    case.job.own_streams[0].dismissed_at.append(accepted_at + 1)
    assert case.broken() == ["I4"]
    for asked_at in (accepted_at - 1, accepted_at + 1):
        dismiss_session(case, asked_at)
    assert case.broken() == ["I4"] * 2
    case.job.delete_asked_at = accepted_at + 1.5
    assert case.broken() == ["I4"]  # the answer of a session's stream was still on its way
    case.job.delete_asked_at = accepted_at
    assert case.verdict() == []


def test_session_that_is_set_back_after_an_end_waits_for_another() -> None:
    """What it was told last decides, not whatever end was told before."""
    case = case_of()
    case.ledger.destroy_history()
    again = replace(case.job.streams[-1].events[1], name="reset", at=time.monotonic())
    case.job.streams[-1].events.append(again)
    dismiss_session(case)
    assert any("204" in line for line in case.verdict())


@pytest.mark.parametrize(("is_told", "is_called"), [(False, False), (True, True)])
def test_session_may_be_dismissed_from_what_it_never_heard_of_and_was_destroyed(
    is_told: bool, is_called: bool
) -> None:
    """Neither Redis nor the client's id names it. What the id names is waited for."""
    case = case_of()
    accepted_at = case.job.begun_at = case.job.accepted_at = time.monotonic() - 20
    dismiss_session(case, accepted_at + 1)
    assert case.broken() == ["I4"]
    case.ledger.destroy_history()
    if is_told:
        heard = case.job.streams[-1].events
        heard[0] = replace(heard[0], at=accepted_at)
    assert any("204" in line for line in case.verdict()) == is_called


def test_session_is_not_dismissed_from_a_run_that_has_begun() -> None:
    """Until then the end before is the last that there is."""
    case = case_of()
    case.job.drive_again()
    dismiss_session(case)
    assert not any("204" in line for line in case.verdict())
    case.job.begun_at = case.job.redriven_at[-1]
    assert any("204" in line for line in case.verdict())


def test_new_run_that_was_destroyed_may_be_dismissed_by_the_end_before() -> None:
    """Redis no longer knows that the job was driven again."""
    case = case_of(streams=1)
    case.job.streams.append(Stream("second run", run=1, resumes_after="e.6.done1"))
    case.job.streams[-1].dismissed_at.append(time.monotonic())
    assert case.broken() == ["I4"]
    case.ledger.destroy_history(since=case.job.accepted_at or 0)
    assert case.job.is_acceptance_forgotten
    assert not any("204" in line for line in case.verdict())


@pytest.mark.parametrize(
    ("counted", "is_whole", "is_called"), [(1, True, 0), (2, True, 1), (0, True, 1), (0, False, 0)]
)
def test_feedback_counts_once_a_job(counted: int, is_whole: bool, is_called: int) -> None:
    """Twice is a lie; less than given is one unless a gateway that had counted was killed."""
    case = case_of()
    for _ in range(2):
        case.ledger.note("POST", f"/api/v1/waste/jobs/{JOB_ID}/feedback", "token", time.monotonic(), 204)
    assert len(list(feedback_miscounted([case.job], counted, is_whole=is_whole))) == is_called
