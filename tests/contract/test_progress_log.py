"""The progress log, on a real Valkey and as the fake: one suite for both."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import open_redis
from growbin.adapters.redis.progress_log import RedisProgressLog
from growbin.errors import Rejected
from growbin.job import (
    AskBack,
    Failure,
    Job,
    Locale,
    LogEntry,
    ModelAnswer,
    PhotoReport,
    ProgressEvent,
    Result,
    Stage,
    Timings,
    Upload,
)
from growbin.messages import failure, stage_message
from growbin.ports import Acceptance, Accepted, Backlog, Started
from growbin.telemetry import metrics
from growbin.usage import Usage
from tests.fakes import Clock, FakeProgressLog
from tests.jobs import job_of, upload

ProgressLog = RedisProgressLog | FakeProgressLog

FAILURE = Failure(code="photo_missing", detail="없어요", retryable=True)
FIELDS = {"job_id", "seq", "stage", "progress", "message", "attempt", "updated_at"}  # of every event
ANSWER = ModelAnswer(text='{"items":[]}', model="test", usage=Usage())
OTHER_ANSWER = ModelAnswer(text='{"items":[1]}', model="test", usage=Usage())


@pytest_asyncio.fixture(params=["fake", "real"])
async def progress(request: pytest.FixtureRequest) -> AsyncIterator[ProgressLog]:
    if request.param == "fake":
        yield FakeProgressLog(Clock(), image_base_url="http://cdn.test")
        return
    parts = request.getfixturevalue("parts")
    url = f"{parts['REDIS_URL'].rstrip('/')}/2"
    async with RedisProgressLog.open(url=url, image_base_url="http://cdn.test", lease_seconds=60) as log:
        yield log


def result_of(job: Job) -> Result:
    item = {
        "name": '투명 페트병 "500 ml" / clear',
        "category": "recyclable",
        "material": "clear_pet",
        "confidence": 0.9,
        "recyclable": True,
        "condition": ["has_label"],
        "bin": "투명 페트병",
        "steps": ["라벨을 떼요"],
        "cautions": [],
        "rule": {"id": "clear_pet", "title": "투명 페트병", "source": "rules", "as_of": None},
    }
    return Result.model_validate(
        {
            "job_id": job.job_id,
            "image_url": f"http://cdn.test/{job.public_key}",
            "locale": job.locale,
            "waste_type": "투명 페트병",
            "items": [item],
            "answer": None,
            "sure": True,
            "ask_back": None,
            "model": "test",
            "usage": {},
            "photo": {"source": "s3", "cache": None, "bytes": 1000},
            "timings_ms": dict.fromkeys(("queue", "fetch", "prepare", "analyse", "total"), 1),
            "analysed_at": "2026-01-01T00:00:00.000Z",
        }
    )


async def kept_answer(progress: ProgressLog, job: Job) -> object:
    if isinstance(progress, FakeProgressLog):
        return progress.answer_of(job.job_id)
    assert isinstance(progress, RedisProgressLog)
    return await progress._redis.get(keys.answer(job.job_id))


async def begun(progress: ProgressLog, job: Job) -> Started:
    start = await progress.begin(job, alone=False, call_id=secrets.token_hex(4))
    assert isinstance(start, Started)
    return start


async def log_of(progress: ProgressLog, job: Job) -> list[LogEntry]:
    """All that was written: each is a ProgressEvent, byte for byte."""
    history = await progress.history(job.job_id, None)
    assert history is not None
    for entry in history.entries:
        event = ProgressEvent.model_validate_json(entry.data)
        assert (event.job_id, event.seq) == (job.job_id, entry.seq)
        assert set(json.loads(entry.data)) <= set(ProgressEvent.model_fields)
        assert entry.event == (event.stage if event.stage.is_terminal else "progress")
        assert entry.data == event.model_dump_json(exclude_unset=True)
    return history.entries


async def lose_keys(progress: ProgressLog, job: Job, *names: Callable[[UUID], str]) -> None:
    assert isinstance(progress, RedisProgressLog)
    await progress._redis.delete(*(name(job.job_id) for name in names))


async def let_lapse(progress: ProgressLog, job: Job) -> None:
    """The holder is silent for longer than its lease."""
    if isinstance(progress, FakeProgressLog):
        progress.clock.advance(6)
    else:
        await lose_keys(progress, job, keys.lease)


async def lose_log(progress: ProgressLog, job: Job) -> None:
    """An hour after the end only the result is left."""
    if isinstance(progress, FakeProgressLog):
        progress.forget_log(job.job_id)
    else:
        await lose_keys(progress, job, keys.events, keys.progress)


async def lose_everything(progress: ProgressLog, job: Job) -> None:
    """A server that comes back empty."""
    if isinstance(progress, FakeProgressLog):
        progress.forget(job.job_id)
    else:
        names = (keys.progress, keys.events, keys.result, keys.lease, keys.attempts, keys.answer)
        await lose_keys(progress, job, *names)


def told(entries: list[LogEntry]) -> list[tuple[str, int]]:
    return [(json.loads(entry.data)["stage"], json.loads(entry.data)["attempt"]) for entry in entries]


async def test_one_attempt_tells_each_stage_once_and_ends_once(progress: ProgressLog) -> None:
    """Stages come once and in order, progress never falls, and nothing follows the end."""
    record = upload()
    job = job_of(record)
    await progress.open_job(record, job.deadline_ms)
    await progress.queue_job(job)
    start = await begun(progress, job)
    for stage in (Stage.FETCHING, Stage.FETCHING, Stage.ANALYSING, Stage.FETCHING, Stage.ADVISING):
        assert await progress.announce(job, start.attempt, stage) == "ours"
    assert await progress.finish(job, start.attempt, FAILURE) == "ours"
    assert await progress.finish(job, start.attempt, FAILURE) == "ended"
    assert await progress.announce(job, start.attempt, Stage.ADVISING) == "ended"
    entries = await log_of(progress, job)
    assert [stage for stage, _ in told(entries)] == [
        "awaiting_upload",
        "queued",
        "fetching",
        "analysing",
        "advising",
        "failed",
    ]
    assert [entry.seq for entry in entries] == [1, 2, 3, 4, 5, 6]
    shown = [json.loads(entry.data)["progress"] for entry in entries]
    assert shown == sorted(shown)
    assert json.loads(entries[-1].data)["failure"]["detail"] == "없어요"


async def test_consumer_before_gateway_writes_queued_itself(progress: ProgressLog) -> None:
    """A consumer that overtakes the gateway writes `queued` first; the gateway's own is then a no-op."""
    job = job_of(upload())
    start = await begun(progress, job)
    await progress.announce(job, start.attempt, Stage.FETCHING)
    await progress.queue_job(job)
    assert told(await log_of(progress, job)) == [("queued", 1), ("fetching", 1)]


@pytest.mark.parametrize(
    ("backlog", "told_too"),
    [
        (None, {}),
        (Backlog(waiting=6), {"position": 7}),
        (Backlog(waiting=6, per_second=2), {"position": 7, "wait_seconds": 4}),
        (Backlog(waiting=6, handed_out=100), {"position": 7, "turn": 107}),
    ],
)
async def test_queued_event_tells_its_place(
    progress: ProgressLog, backlog: Backlog | None, told_too: dict[str, int]
) -> None:
    """A job that waits hears how many are before it, and how long that takes, when they are known."""
    job = job_of(upload())
    await progress.queue_job(job, backlog)
    [queued] = await log_of(progress, job)
    event = json.loads(queued.data)
    assert {name: event[name] for name in event if name not in FIELDS} == told_too


async def test_later_attempt_tells_how_many_there_may_be(progress: ProgressLog) -> None:
    """A person who waits reads "2 of 4"; the first attempt needs no number."""
    job = job_of(upload())
    await progress.queue_job(job)
    first = await begun(progress, job)
    await progress.announce(job, first.attempt, Stage.FETCHING)
    await progress.release(job, first.attempt)
    second = await begun(progress, job)
    await progress.announce(job, second.attempt, Stage.FETCHING)
    *_, before, after = map(json.loads, [entry.data for entry in await log_of(progress, job)])
    assert "max_attempts" not in before
    assert (after["attempt"], after["max_attempts"]) == (2, 4)


async def test_result_is_handed_on_as_it_was_made(progress: ProgressLog) -> None:
    """The last event of a job that is done holds its result, whatever signs its texts are written in."""
    record = upload()
    job = job_of(record)
    await progress.open_job(record, job.deadline_ms)
    await progress.queue_job(job, Backlog(waiting=6, per_second=2))
    start = await begun(progress, job)
    assert await progress.finish(job, start.attempt, result_of(job)) == "ours"
    ended = ProgressEvent.model_validate_json((await log_of(progress, job))[-1].data)
    assert (ended.stage, ended.result) == (Stage.DONE, result_of(job))


async def test_held_job_is_not_begun_twice(progress: ProgressLog) -> None:
    """While a lease lives, a second consumer is told that the job is held."""
    job = job_of(upload())
    await begun(progress, job)
    assert await progress.begin(job, alone=False, call_id=secrets.token_hex(4)) == "held"
    assert await progress.lease_lives(job.job_id)


async def test_released_job_repeats_its_stages_as_the_next_attempt(progress: ProgressLog) -> None:
    """A retry repeats stages with attempt + 1, and the earlier attempt's token is worth nothing."""
    job = job_of(upload())
    first = await begun(progress, job)
    await progress.announce(job, first.attempt, Stage.FETCHING)
    await progress.release(job, first.attempt)
    second = await begun(progress, job)
    assert second.attempt == first.attempt + 1
    assert await progress.announce(job, first.attempt, Stage.ANALYSING) == "lost"
    assert await progress.renew(job, first.attempt) == "lost"
    assert await progress.count_paid_call(job, first.attempt, "call") == "refused"
    assert await progress.announce(job, second.attempt, Stage.FETCHING) == "ours"
    assert told(await log_of(progress, job)) == [("queued", 1), ("fetching", 1), ("fetching", 2)]


async def test_refunded_start_does_not_count(progress: ProgressLog) -> None:
    """A start that never got its chance is given back."""
    job = job_of(upload())
    first = await begun(progress, job)
    await progress.release(job, first.attempt, refund=True)
    assert (await begun(progress, job)).starts == 1


async def test_start_is_refunded_once_and_in_its_own_run(progress: ProgressLog) -> None:
    """A release that is repeated, because its reply was lost, gives nothing back twice; one that comes after
    a redrive leaves the new run alone."""
    job = job_of(upload())
    first = await begun(progress, job)
    for _ in range(3):
        await progress.release(job, first.attempt, refund=True)
    starts = []
    for _ in range(4):
        start = await begun(progress, job)
        starts.append(start.starts)
        await progress.release(job, start.attempt)
    assert starts == [1, 2, 3, 4]
    await progress.finish(job, None, FAILURE)
    again = await progress.reopen(job, 300)
    await progress.release(job, 5, refund=True)
    assert (await begun(progress, again)).starts == 1


async def test_begin_whose_reply_was_lost_is_told_again(progress: ProgressLog) -> None:
    """Whoever asks with the same call is the holder; no second start is counted."""
    job = job_of(upload())
    first = await progress.begin(job, alone=False, call_id="a")
    assert isinstance(first, Started)
    again = await progress.begin(job, alone=False, call_id="a")
    assert isinstance(again, Started)
    assert (again.attempt, again.starts) == (first.attempt, 1)
    assert await progress.begin(job, alone=False, call_id="b") == "held"


async def test_starts_used_up_are_exhausted(progress: ProgressLog) -> None:
    """After four starts there is no fifth."""
    job = job_of(upload())
    for _ in range(4):
        await progress.release(job, (await begun(progress, job)).attempt)
    assert await progress.begin(job, alone=False, call_id=secrets.token_hex(4)) == "exhausted"


async def test_paid_calls_are_counted_before_they_are_made(progress: ProgressLog) -> None:
    """The fourth paid call is refused; one that was taken back does not count."""
    job = job_of(upload())
    start = await begun(progress, job)
    counted = [await progress.count_paid_call(job, start.attempt, call_id) for call_id in "abcd"]
    assert counted == ["counted", "counted", "counted", "refused"]
    await progress.uncount_paid_call(job, start.attempt, "c")
    assert await progress.count_paid_call(job, start.attempt, "e") == "counted"


async def test_paid_call_that_is_recorded_again_counts_once(progress: ProgressLog) -> None:
    """Who did not hear the answer asks again, before the call and when it is taken back."""
    job = job_of(upload())
    start = await begun(progress, job)
    for call_id in "ab":
        for _ in range(3):
            assert await progress.count_paid_call(job, start.attempt, call_id) == "counted"
    for _ in range(3):
        await progress.uncount_paid_call(job, start.attempt, "b")
    counted = [await progress.count_paid_call(job, start.attempt, call_id) for call_id in "cde"]
    assert counted == ["counted", "counted", "refused"]


async def test_no_paid_call_is_counted_after_the_end(progress: ProgressLog) -> None:
    """Who has not yet heard of the cancel does not call the model any more; what was counted may be taken
    back."""
    job = job_of(upload())
    start = await begun(progress, job)
    await progress.announce(job, start.attempt, Stage.ANALYSING)
    assert await progress.count_paid_call(job, start.attempt, "a") == "counted"
    await progress.cancel(job.job_id)
    assert await progress.count_paid_call(job, start.attempt, "b") == "refused"
    await progress.uncount_paid_call(job, start.attempt, "a")


async def test_answer_of_a_deleted_job_is_not_kept(progress: ProgressLog) -> None:
    """A late answer brings nothing back; nor does one of an earlier run answer the new one."""
    record = upload()
    job = job_of(record)
    await begun(progress, job)
    await progress.erase(job.job_id, record.owner)
    await progress.keep_answer(job, 1, ANSWER, "k")
    assert await kept_answer(progress, job) is None

    other = job_of(upload())
    await begun(progress, other)
    await progress.finish(other, None, FAILURE)
    again = await progress.reopen(other, 300)
    await progress.keep_answer(other, 1, ANSWER, "k")
    assert (await begun(progress, again)).answer is None


async def test_answer_of_an_ended_job_is_kept(progress: ProgressLog) -> None:
    """It was paid for: a redrive will not pay again."""
    job = job_of(upload())
    await begun(progress, job)
    await progress.finish(job, None, FAILURE)
    await progress.keep_answer(job, 1, ANSWER, "k")
    assert (await begun(progress, await progress.reopen(job, 300))).answer == ANSWER


async def test_accepted_job_does_not_expire_with_its_ticket(progress: ProgressLog) -> None:
    """Its own deadline counts, also when `queued` could not be written at upload-complete."""
    record = upload()
    await progress.open_job(record, record.created_at_ms + 1)
    job = job_of(record)
    if isinstance(progress, FakeProgressLog):
        progress.clock.advance(1)
    assert not await progress.expire_if_due(job)
    await begun(progress, job)
    assert told(await log_of(progress, job)) == [("awaiting_upload", 1), ("queued", 1), ("fetching", 1)]


async def accept(progress: ProgressLog, record: Upload, seconds: int = 300) -> Acceptance:
    return await progress.accept_job(record, session_most=10**6, address_most=10**6, deadline_seconds=seconds)


async def test_no_reader_ends_an_accepted_job_with_its_ticket(progress: ProgressLog) -> None:
    """A gateway knows only what the log holds: there the deadline is the job's before its event is published.
    It is never nearer than the ticket's."""
    record = upload().model_copy(update={"owner": secrets.token_hex(32)})
    await progress.open_job(record, int(time.time() * 1000) + 60_000)
    state = await progress.state(record.job_id)
    assert state is not None
    assert (state.left_seconds < 61, state.is_accepted) == (True, False)
    for seconds in (300, 1):  # the second try may be a slower one
        accepted = await accept(progress, record, seconds)
        assert isinstance(accepted, Accepted)
        assert accepted.deadline_ms == accepted.at_ms + seconds * 1000
        state = await progress.state(record.job_id)
        assert state is not None
        assert (state.entry.event, state.left_seconds > 250) == ("progress", True)
        assert state.is_accepted
    assert told(await log_of(progress, job_of(record))) == [("awaiting_upload", 1)]


async def test_job_that_does_not_wait_for_its_upload_is_not_accepted(progress: ProgressLog) -> None:
    """It has ended, or was submitted before: nothing changes, and nothing is counted. Of one whose log was
    lost nothing is known that would speak against it."""
    owner = {"owner": secrets.token_hex(32)}
    ended, queued, deleted, due, unknown = (upload().model_copy(update=owner) for _ in range(5))
    await progress.finish(job_of(ended), None, FAILURE)
    await progress.queue_job(job_of(queued))
    await progress.erase(deleted.job_id, deleted.owner)
    await progress.open_job(due, due.created_at_ms - 60_000)
    for record in (ended, queued, deleted, due):
        assert await accept(progress, record) == "over"
    state = await progress.state(due.job_id)
    assert state is not None
    assert state.entry.event == "expired"
    assert isinstance(
        await progress.accept_job(unknown, session_most=1, address_most=1, deadline_seconds=300), Accepted
    )
    assert await progress.state(unknown.job_id) is None


async def test_job_whose_paid_calls_are_used_up_is_not_begun(progress: ProgressLog) -> None:
    """Without an answer it could only fail; with one it goes on."""
    job = job_of(upload())
    start = await begun(progress, job)
    for call_id in "abc":
        await progress.count_paid_call(job, start.attempt, call_id)
    await progress.release(job, start.attempt)
    assert await progress.begin(job, alone=False, call_id=secrets.token_hex(4)) == "exhausted"
    await progress.keep_answer(job, start.attempt, ANSWER, "k")
    assert (await begun(progress, job)).answer == ANSWER


async def test_kept_answer_is_given_to_the_next_start(progress: ProgressLog) -> None:
    """What was paid for once is never paid for again; the first answer stays."""
    job = job_of(upload())
    start = await begun(progress, job)
    assert start.answer is None
    await progress.keep_answer(job, start.attempt, ANSWER, "k")
    await progress.keep_answer(job, start.attempt, ANSWER.model_copy(update={"text": "another"}), "k")
    await progress.release(job, start.attempt)
    assert (await begun(progress, job)).answer == ANSWER


async def test_stages_ride_in_the_calls_that_are_made_anyway(progress: ProgressLog) -> None:
    """The lease brings the first, the count of the paid call and the answer the next; whatever is repeated,
    because a reply was lost, tells nothing again."""
    job = job_of(upload())
    expected = [("queued", 1)]
    attempt = 1

    async def again_and_again(stage: str, call: Callable[[], Awaitable[object]]) -> None:
        await call()
        await call()
        expected.append((stage, 1))
        assert told(await log_of(progress, job)) == expected

    await again_and_again("fetching", lambda: progress.begin(job, alone=False, call_id="b"))
    await again_and_again("analysing", lambda: progress.count_paid_call(job, attempt, "c"))
    await again_and_again("advising", lambda: progress.keep_answer(job, attempt, ANSWER, "c"))
    assert await progress.announce(job, attempt, Stage.ADVISING) == "ours"
    assert told(await log_of(progress, job)) == expected
    assert await progress.lease_lives(job.job_id)
    assert await progress.finish(job, attempt, FAILURE) == "ours"
    assert not await progress.lease_lives(job.job_id)


async def test_end_of_a_later_attempt_tells_what_it_ended_with(progress: ProgressLog) -> None:
    """How many attempts there may be is for those who wait, and takes no place of the result."""
    job = job_of(upload())
    await progress.release(job, (await begun(progress, job)).attempt)
    start = await begun(progress, job)
    assert await progress.finish(job, start.attempt, result_of(job)) == "ours"
    state = await progress.state(job.job_id)
    assert state is not None
    assert (state.entry.event, state.is_readable) == ("done", True)
    end = json.loads(state.entry.data)
    assert end["result"]["job_id"] == str(job.job_id)
    assert "max_attempts" not in end


async def test_answer_is_kept_whatever_becomes_of_the_stage(progress: ProgressLog) -> None:
    """Who was overtaken, or whose job has ended, is told so, and has left what was paid for."""
    overtaken, ended = job_of(upload()), job_of(upload())
    start = await begun(progress, overtaken)
    await progress.release(overtaken, start.attempt)
    await begun(progress, overtaken)
    assert await progress.keep_answer(overtaken, start.attempt, ANSWER, "k") == "lost"
    start = await begun(progress, ended)
    await progress.cancel(ended.job_id)
    assert await progress.keep_answer(ended, start.attempt, ANSWER, "k") == "ended"
    for job in (overtaken, ended):
        assert await kept_answer(progress, job) is not None
        assert "advising" not in [stage for stage, _ in told(await log_of(progress, job))]


async def test_cancel_ends_a_running_job(progress: ProgressLog) -> None:
    """After a cancel the holder learns at its next renewal that the job has ended."""
    job = job_of(upload())
    start = await begun(progress, job)
    await progress.announce(job, start.attempt, Stage.FETCHING)
    assert await progress.cancel(job.job_id)
    assert not await progress.cancel(job.job_id)
    assert await progress.renew(job, start.attempt) == "ended"
    assert (await log_of(progress, job))[-1].event == "cancelled"


async def test_whoever_looks_expires_a_due_job(progress: ProgressLog) -> None:
    """A job past its deadline ends `expired` when it is read, and cannot be begun."""
    record = upload()
    await progress.open_job(record, record.created_at_ms - 1)
    state = await progress.state(record.job_id)
    assert state is not None
    assert state.entry.event == "expired"
    job = job_of(upload(), deadline_in_ms=-1)
    assert await progress.begin(job, alone=False, call_id=secrets.token_hex(4)) == "ended"
    assert [entry.event for entry in await log_of(progress, job)][-1] == "expired"


async def test_ended_job_is_not_begun_again(progress: ProgressLog) -> None:
    """A duplicate delivery after the end finds nothing to do."""
    job = job_of(upload())
    start = await begun(progress, job)
    await progress.finish(job, start.attempt, FAILURE)
    await progress.release(job, start.attempt)
    assert await progress.begin(job, alone=False, call_id=secrets.token_hex(4)) == "ended"
    assert not await progress.lease_lives(job.job_id)


async def test_failed_job_is_reopened_as_a_new_run(progress: ProgressLog) -> None:
    """A redrive begins a new run with fresh attempts; old clients get a reset, old deliveries nothing."""
    job = job_of(upload())
    for _ in range(4):
        await progress.release(job, (await begun(progress, job)).attempt)
    await progress.finish(job, None, FAILURE)
    seen = (await log_of(progress, job))[-1].id
    again = await progress.reopen(job, 300)
    assert again.run == job.run + 1
    assert again.deadline_ms - again.accepted_at_ms == 300_000
    assert again.accepted_at_ms >= job.accepted_at_ms
    assert await progress.reopen(job, 300) == again
    history = await progress.history(job.job_id, seen)
    assert history is not None
    assert history.reset
    assert await progress.begin(job, alone=False, call_id=secrets.token_hex(4)) == "ended"
    second = await begun(progress, again)
    assert second.starts == 1
    assert await progress.announce(again, second.attempt, Stage.FETCHING) == "ours"
    attempts = [attempt for _, attempt in told(await log_of(progress, again))]
    assert attempts == [second.attempt, second.attempt]
    with pytest.raises(Rejected, match="fetching"):
        await progress.reopen(job, 300)


async def test_expired_job_is_reopened(progress: ProgressLog) -> None:
    """Its event shows that it was accepted."""
    job = job_of(upload(), deadline_in_ms=-1)
    assert await progress.expire_if_due(job)
    again = await progress.reopen(job, 300)
    assert again.run == 2
    assert told(await log_of(progress, again)) == [("queued", 1)]


async def test_answer_that_is_no_analysis_is_dropped_by_a_redrive(progress: ProgressLog) -> None:
    """It would fail the next run as it failed this one."""
    for answer, kept in (
        (ModelAnswer(text='{"items": []}'), True),
        (ModelAnswer(text="no JSON"), False),
    ):
        job = job_of(upload())
        await begun(progress, job)
        await progress.keep_answer(job, 1, answer, "k")
        await progress.finish(job, None, FAILURE)
        start = await begun(progress, await progress.reopen(job, 300))
        assert (start.answer == answer) is kept


async def test_ended_jobs_are_found_by_how_they_ended(progress: ProgressLog) -> None:
    """By failure code, or the end's stage; not those that go on or are deleted."""
    failed, cancelled, running, erased = (job_of(upload()) for _ in range(4))
    for job in (failed, cancelled, running, erased):
        await progress.queue_job(job)
    await progress.finish(failed, None, FAILURE)
    await progress.cancel(cancelled.job_id)
    await progress.erase(erased.job_id, erased.owner)
    ours = {job.job_id for job in (failed, cancelled, running, erased)}
    found = {job.job_id: job async for job in progress.ended_jobs() if job.job_id in ours}
    assert {job_id: job.outcome for job_id, job in found.items()} == {
        failed.job_id: FAILURE.code,
        cancelled.job_id: "cancelled",
    }
    assert all(job.ended_at.endswith("Z") for job in found.values())


async def test_cancelled_job_is_not_reopened(progress: ProgressLog) -> None:
    """Only what failed or expired can be driven again."""
    job = job_of(upload())
    await progress.queue_job(job)
    await progress.cancel(job.job_id)
    with pytest.raises(Rejected, match="cancelled"):
        await progress.reopen(job, 300)


async def test_reopening_rebuilds_a_job_whose_keys_have_gone(progress: ProgressLog) -> None:
    """After seven days nothing is left but the letter: the body is enough to begin again."""
    job = job_of(upload())
    again = await progress.reopen(job, 300)
    assert again.run == 2
    assert told(await log_of(progress, again)) == [("queued", 1)]


async def test_erased_job_leaves_a_tombstone_that_no_delivery_revives(progress: ProgressLog) -> None:
    """After a deletion nothing is left but who deleted it; a late delivery finds an ended job."""
    record = upload()
    job = job_of(record)
    start = await begun(progress, job)
    await progress.announce(job, start.attempt, Stage.FETCHING)
    for _ in range(2):
        await progress.erase(job.job_id, record.owner)
        state = await progress.state(job.job_id)
        assert state is not None
        assert (state.is_erased, state.owner) == (True, record.owner)
    assert await progress.renew(job, start.attempt) == "ended"
    assert await progress.begin(job, alone=False, call_id=secrets.token_hex(4)) == "ended"
    assert await progress.begin(job_of(record, run=2), alone=False, call_id=secrets.token_hex(4)) == "ended"
    await progress.queue_job(job)
    await progress.open_job(record, job.deadline_ms)
    await progress.fail_unreadable(job.job_id, FAILURE.code)
    assert await progress.count_paid_call(job, start.attempt, "a") == "refused"
    with pytest.raises(Rejected, match="deleted"):
        await progress.reopen(job, 300)
    after = await progress.state(job.job_id)
    assert after is not None
    assert after.is_erased
    history = await progress.history(job.job_id, None)
    assert history is not None
    assert history.entries == [after.entry]


async def test_feedback_is_marked_once_and_only_for_a_job_that_is_done(progress: ProgressLog) -> None:
    """Not before it is done, not for one that failed, is unknown or deleted; the first time alone."""
    record = upload()
    job = job_of(record)
    start = await begun(progress, job)
    assert not await progress.mark_feedback(uuid4())
    assert not await progress.mark_feedback(job.job_id)
    await progress.finish(job, start.attempt, result_of(job))
    assert [await progress.mark_feedback(job.job_id) for _ in range(3)] == [True, False, False]
    await progress.erase(job.job_id, record.owner)
    assert not await progress.mark_feedback(job.job_id)

    failed = job_of(upload())
    await begun(progress, failed)
    await progress.finish(failed, None, FAILURE)
    assert not await progress.mark_feedback(failed.job_id)


async def test_each_end_is_counted_and_logged_once_where_it_is_written(parts: dict[str, str]) -> None:
    """Whoever writes it, by stage or failure code; a ticket that nobody used is no job that expired."""

    def counts() -> Counter[str]:
        return Counter(
            {
                sample.labels["outcome"]: int(sample.value)
                for metric in metrics.jobs_ended.collect()
                for sample in metric.samples
                if sample.name == "growbin_jobs_ended_total"
            }
        )

    url = f"{parts['REDIS_URL'].rstrip('/')}/2"
    async with RedisProgressLog.open(url=url, image_base_url="http://cdn.test") as progress:
        before = counts()
        with capture_logs() as lines:
            done, failed, late, cancelled, erased = (job_of(upload()) for _ in range(5))
            await progress.finish(done, (await begun(progress, done)).attempt, result_of(done))
            for _ in range(2):
                await progress.finish(failed, None, FAILURE)
            await progress.expire_if_due(late.model_copy(update={"deadline_ms": 1}))
            for job in (cancelled, erased):
                await progress.queue_job(job)
            assert await progress.cancel(cancelled.job_id)
            await progress.erase(erased.job_id, erased.owner)
            unused = upload()
            await progress.open_job(unused, unused.created_at_ms - 1)
            await progress.state(unused.job_id)
            await progress.state(done.job_id)
        expected = {"done": 1, FAILURE.code: 1, "expired": 1, "cancelled": 2, "not_uploaded": 1}
        assert counts() - before == expected
        assert Counter(line["outcome"] for line in lines if line["event"] == "job_ended") == expected


async def test_accepted_job_that_nobody_could_queue_ends_as_a_job(parts: dict[str, str]) -> None:
    """Its 202 stands although the log could not be written then: it is counted with the jobs, not with unused
    tickets, and its end is kept as long as theirs, or a look at its record would begin it anew."""
    url = f"{parts['REDIS_URL'].rstrip('/')}/2"
    async with RedisProgressLog.open(url=url, image_base_url="http://cdn.test") as progress:

        async def ended(record: Upload, outcome: str) -> bool:
            with capture_logs() as lines:
                async with asyncio.timeout(30):
                    while not (state := await progress.state(record.job_id)) or not state.entry.ends:
                        await asyncio.sleep(0.02)
            assert [line["outcome"] for line in lines if line["event"] == "job_ended"] == [outcome]
            return bool(await progress.redis.ttl(keys.result(record.job_id)) > keys.LOG_SECONDS)

        accepted, unused = upload(), upload()
        for record in (accepted, unused):
            await progress.open_job(record, int(time.time() * 1000) + 60_000)
        assert isinstance(await accept(progress, accepted, 0), Accepted)
        for record in (accepted, unused):  # their time is over
            name = keys.progress(record.job_id)
            snapshot = json.loads(str(await progress.redis.get(name)))
            snapshot["deadline_ms"] = int(time.time() * 1000) - 1
            await progress.redis.set(name, json.dumps(snapshot), keepttl=True)
        assert await ended(accepted, "expired")
        assert not await ended(unused, "not_uploaded")

        cancelled, due = upload(), upload()
        await progress.open_job(cancelled, int(time.time() * 1000) + 60_000)
        await accept(progress, cancelled)
        assert await progress.cancel(cancelled.job_id)
        assert await progress.redis.ttl(keys.result(cancelled.job_id)) > keys.LOG_SECONDS
        with capture_logs() as lines:  # by who has its event, of a log that forgot that it was accepted
            await progress.open_job(due, int(time.time() * 1000) - 1)
            assert await progress.expire_if_due(job_of(due).model_copy(update={"deadline_ms": 1}))
        assert [line["outcome"] for line in lines if line["event"] == "job_ended"] == ["expired"]


async def test_end_whose_writer_did_not_hear_of_it_is_counted_when_it_asks_again(
    parts: dict[str, str],
) -> None:
    """The answer was lost, not the end. Nobody else's call about the same job counts it, whatever it says."""
    url = f"{parts['REDIS_URL'].rstrip('/')}/2"
    async with RedisProgressLog.open(url=url, image_base_url="http://cdn.test") as progress:
        job = job_of(upload())
        attempt = (await begun(progress, job)).attempt

        async def counted(by: int | None, end: Result | Failure) -> list[str]:
            with capture_logs() as lines:
                await progress.finish(job, by, end)
            return [line["outcome"] for line in lines if line["event"] == "job_ended"]

        assert await counted(attempt, FAILURE) == [FAILURE.code]
        assert await counted(attempt, FAILURE) == [FAILURE.code]
        assert await counted(None, FAILURE) == []
        assert await counted(attempt + 1, FAILURE) == []
        assert await counted(attempt, result_of(job)) == []
        await progress.erase(job.job_id, job.owner)
        assert await counted(attempt, FAILURE) == []


async def test_writer_of_an_end_is_not_told_to_leave_before_it_has_heard_of_it(progress: ProgressLog) -> None:
    """The answer may have got lost: its next renewal would else stop it from asking again. Others are told,
    and so is the writer once the job is erased."""
    job = job_of(upload())
    start = await begun(progress, job)
    await progress.finish(job, start.attempt, FAILURE)
    assert await progress.renew(job, start.attempt) == "ours"
    assert await progress.renew(job, start.attempt + 1) == "ended"
    await progress.erase(job.job_id, job.owner)
    assert await progress.renew(job, start.attempt) == "ended"


async def test_unknown_job_has_no_state(progress: ProgressLog) -> None:
    """Nothing is known of a job that nobody opened, and nothing is written by looking or cancelling."""
    job_id = uuid4()
    assert not await progress.cancel(job_id)
    await progress.fail_unreadable(job_id, "bad_event")
    assert await progress.state(job_id) is None
    assert await progress.history(job_id, "ab.1.cd") is None


@pytest.mark.parametrize("locale", ["ko", "en"])
async def test_job_of_an_unreadable_event_fails_in_its_own_language(
    progress: ProgressLog, locale: Locale
) -> None:
    """The dead letter tells only the id; which language its client reads is known from the ticket."""
    record = upload().model_copy(update={"locale": locale})
    await progress.open_job(record, record.created_at_ms + 300_000)
    await progress.fail_unreadable(record.job_id, "bad_event")
    ended = json.loads((await log_of(progress, job_of(record)))[-1].data)
    assert ended["message"] == stage_message(Stage.FAILED, locale)
    assert ended["failure"] == failure("bad_event", locale).model_dump()


async def test_history_continues_after_a_known_id(progress: ProgressLog) -> None:
    """Each id gives exactly what follows it; the terminal's own gives nothing."""
    job = job_of(upload())
    start = await begun(progress, job)
    await progress.announce(job, start.attempt, Stage.FETCHING)
    await progress.finish(job, start.attempt, FAILURE)
    entries = await log_of(progress, job)
    for index, entry in enumerate(entries):
        history = await progress.history(job.job_id, entry.id)
        assert history is not None
        assert (history.entries, history.reset) == (entries[index + 1 :], False)


async def test_id_of_another_history_gives_a_reset(progress: ProgressLog) -> None:
    """The right number with another nonce is not the client's event: it gets a reset."""
    job = job_of(upload())
    start = await begun(progress, job)
    await progress.announce(job, start.attempt, Stage.FETCHING)
    epoch, seq, _ = (await log_of(progress, job))[-1].id.split(".")
    history = await progress.history(job.job_id, f"{epoch}.{seq}.00000000")
    assert history is not None
    assert history.reset
    assert history.entries == []
    await progress.finish(job, start.attempt, FAILURE)
    history = await progress.history(job.job_id, f"{epoch}.{seq}.00000000")
    assert history is not None
    assert history.reset
    assert [entry.event for entry in history.entries] == ["failed"]


async def test_job_whose_holders_died_twice_is_suspect(progress: ProgressLog) -> None:
    """One death may be anybody's fault; after the second the job is begun only alone, at most four times."""
    job = job_of(upload())
    for alone in (False, False, True, True):
        if alone:
            assert await progress.begin(job, alone=False, call_id=secrets.token_hex(4)) == "suspect"
        assert isinstance(await progress.begin(job, alone=alone, call_id=secrets.token_hex(4)), Started)
        await let_lapse(progress, job)
    assert await progress.begin(job, alone=True, call_id=secrets.token_hex(4)) == "crashed"


async def test_lapsed_lease_is_taken_up_again_by_its_last_holder(progress: ProgressLog) -> None:
    """A lease that lapsed while Redis was away is renewed as long as nobody else has begun."""
    job = job_of(upload())
    start = await begun(progress, job)
    await let_lapse(progress, job)
    assert not await progress.lease_lives(job.job_id)
    assert await progress.renew(job, start.attempt) == "ours"
    assert await progress.lease_lives(job.job_id)
    await let_lapse(progress, job)
    assert isinstance(await progress.begin(job, alone=True, call_id=secrets.token_hex(4)), Started)
    assert await progress.renew(job, start.attempt) == "lost"
    await progress.release(job, start.attempt)
    assert await progress.lease_lives(job.job_id)


async def test_holder_tells_its_token_to_a_log_that_lost_everything(progress: ProgressLog) -> None:
    """What it does goes on, in a new history, as one start; the next start has the next token."""
    job = job_of(upload())
    await progress.release(job, (await begun(progress, job)).attempt)
    start = await begun(progress, job)
    await progress.announce(job, start.attempt, Stage.FETCHING)
    await lose_everything(progress, job)
    assert await progress.count_paid_call(job, start.attempt, "a") == "counted"
    assert await progress.renew(job, start.attempt) == "ours"
    assert await progress.begin(job, alone=False, call_id=secrets.token_hex(4)) == "held"
    assert await progress.announce(job, start.attempt, Stage.ANALYSING) == "ours"
    assert told(await log_of(progress, job)) == [("queued", 1), ("analysing", 2)]
    await progress.release(job, start.attempt)
    again = await begun(progress, job)
    assert (again.attempt, again.starts) == (start.attempt + 1, 2)
    assert await progress.announce(job, start.attempt, Stage.ADVISING) == "lost"


async def test_redrive_that_was_lost_with_the_log_is_told_by_its_delivery(progress: ProgressLog) -> None:
    """The stored end is an older run's: the new one is shown as it goes, and can be cancelled."""
    record = upload()
    job = job_of(record)
    start = await begun(progress, job)
    await progress.finish(job, start.attempt, FAILURE)
    await progress.release(job, start.attempt)
    await lose_log(progress, job)
    await begun(progress, job_of(record, run=2))
    await progress.queue_job(job_of(record, run=2))
    state = await progress.state(job.job_id)
    assert state is not None
    assert (state.run, json.loads(state.entry.data)["stage"]) == (2, "fetching")
    assert await progress.cancel(job.job_id)


async def test_result_outlives_the_log(progress: ProgressLog) -> None:
    """When log and snapshot have gone, the result still tells the end, and its id still means "seen"."""
    job = job_of(upload())
    start = await begun(progress, job)
    await progress.finish(job, start.attempt, FAILURE)
    entries = await log_of(progress, job)
    await lose_log(progress, job)
    assert [entry.id for entry in await log_of(progress, job)] == [entries[-1].id]
    seen = await progress.history(job.job_id, entries[-1].id)
    assert seen is not None
    assert (seen.entries, seen.reset) == ([], False)
    older = await progress.history(job.job_id, entries[0].id)
    assert older is not None
    assert (older.entries, older.reset) == (entries[-1:], True)
    assert await progress.begin(job, alone=False, call_id=secrets.token_hex(4)) == "ended"
    assert not await progress.cancel(job.job_id)


async def test_delivery_of_a_newer_run_makes_the_stored_one_history(progress: ProgressLog) -> None:
    """A redrive that the log has lost: its job begins anew, and the run before has nothing left to do."""
    first = job_of(upload())
    start = await begun(progress, first)
    await progress.finish(first, start.attempt, FAILURE)
    seen = (await log_of(progress, first))[-1]
    second = first.model_copy(update={"run": 2})
    again = await begun(progress, second)
    assert again.attempt == start.attempt + 1
    assert await progress.announce(second, again.attempt, Stage.FETCHING) == "ours"
    entries = await log_of(progress, second)
    assert told(entries) == [("queued", 1), ("fetching", again.attempt)]
    assert entries[0].epoch != seen.epoch
    assert await progress.renew(first, start.attempt) == "ended"
    assert await progress.finish(first, None, FAILURE) == "ended"
    state = await progress.state(first.job_id)
    assert state is not None
    assert state.run == 2


async def test_newer_run_does_not_wait_for_a_holder_of_the_stored_one(progress: ProgressLog) -> None:
    """Redis lost the end of the run before as well: its holder, if there is one still, is no longer believed,
    and the job is not left without any state meanwhile."""
    first = job_of(upload())
    start = await begun(progress, first)
    second = first.model_copy(update={"run": 2})
    again = await begun(progress, second)
    assert again.attempt == start.attempt + 1
    assert await progress.renew(first, start.attempt) == "ended"


@pytest.mark.parametrize("is_log_lost", [False, True], ids=["log and end", "end alone"])
async def test_newer_run_begins_with_all_its_starts_and_paid_calls(
    progress: ProgressLog, is_log_lost: bool
) -> None:
    """Also where the redrive was lost, and with it the counts that it had set back."""
    first = job_of(upload())
    for attempt, call_id in enumerate("abc", start=1):
        assert (await begun(progress, first)).attempt == attempt
        assert await progress.count_paid_call(first, attempt, call_id) == "counted"
        await progress.release(first, attempt)
    await progress.finish(first, None, FAILURE)
    if is_log_lost:
        await lose_log(progress, first)
    second = first.model_copy(update={"run": 2})
    again = await begun(progress, second)
    assert (again.starts, again.attempt) == (1, 4)
    for call_id in "abc":
        assert await progress.count_paid_call(second, again.attempt, call_id) == "counted"
    await progress.release(second, again.attempt)
    assert await progress.begin(second, alone=False, call_id=secrets.token_hex(4)) == "exhausted"


@pytest.mark.parametrize("lost", ["nothing", "the log", "the end"])
async def test_newer_run_asks_anew(progress: ProgressLog, lost: str) -> None:
    """The redrive that was lost may have been for the sake of the answer."""
    first = job_of(upload())
    start = await begun(progress, first)
    assert await progress.count_paid_call(first, start.attempt, "call") == "counted"
    assert await progress.keep_answer(first, start.attempt, ANSWER, "call") == "ours"
    if lost != "the end":
        await progress.finish(first, start.attempt, FAILURE)
    if lost == "the log":
        await lose_log(progress, first)
    second = first.model_copy(update={"run": 2})
    again = await begun(progress, second)
    assert again.answer is None
    assert await progress.keep_answer(second, again.attempt, OTHER_ANSWER, "another") == "ours"
    await progress.release(second, again.attempt)
    assert (await begun(progress, second)).answer == OTHER_ANSWER


@pytest.mark.parametrize("is_accepted", [False, True], ids=["awaiting its upload", "queued"])
async def test_dead_letter_without_a_body_ends_a_job_that_goes_on(
    progress: ProgressLog, is_accepted: bool
) -> None:
    """Its id is enough where the job is known; an end stays what it is."""
    record = upload()
    job = job_of(record)
    await progress.open_job(record, job.deadline_ms)
    if is_accepted:
        await progress.queue_job(job)
    await progress.fail_unreadable(job.job_id, FAILURE.code)
    await progress.fail_unreadable(job.job_id, "internal")
    entries = await log_of(progress, job)
    assert [stage for stage, _ in told(entries)] == ["awaiting_upload", *["queued"] * is_accepted, "failed"]
    assert json.loads(entries[-1].data)["failure"]["code"] == FAILURE.code


async def test_end_without_a_lease_is_the_whole_story_of_an_unknown_job(progress: ProgressLog) -> None:
    """An obituary of a job of which nothing is left is told from its event alone."""
    job = job_of(upload())
    assert await progress.finish(job, None, FAILURE) == "ours"
    assert told(await log_of(progress, job)) == [("queued", 1), ("failed", 1)]


async def test_result_is_told_and_kept_as_it_was_given(progress: ProgressLog) -> None:
    """A done job's last event holds it, at a hundred percent; an empty list in it stays one in every copy."""
    job = job_of(upload())
    start = await begun(progress, job)
    result = Result(
        job_id=job.job_id,
        image_url="http://cdn.test/x.jpg",
        locale="ko",
        waste_type="없음",
        items=[],
        answer=None,
        sure=False,
        certainty="unsure",
        ask_back=AskBack(reason="dark", text="밝은 곳에서", choices=[]),
        model="test",
        usage=Usage(),
        photo=PhotoReport(source="cdn", cache=None, bytes=1000),
        timings_ms=Timings(queue=1, fetch=2, prepare=3, analyse=4, total=10),
        analysed_at="2027-01-14T00:00:00.000Z",
    )
    await progress.finish(job, start.attempt, result)
    last = json.loads((await log_of(progress, job))[-1].data)
    assert (last["stage"], last["progress"]) == ("done", 100)
    assert last["result"] == json.loads(result.model_dump_json())
    state = await progress.state(job.job_id)
    assert state is not None
    assert json.loads(state.entry.data)["result"] == last["result"]


async def test_state_tells_whose_job_it_is_and_how_long_it_has(progress: ProgressLog) -> None:
    """The deadline is the upload's until the job is queued. A place in the queue is told when it is taken,
    not by who looks later."""
    record = upload()
    job = job_of(record, deadline_in_ms=200_000)
    await progress.open_job(record, record.created_at_ms + 600_000)
    for left_seconds in (600, 200):
        state = await progress.state(job.job_id)
        assert state is not None
        assert left_seconds - 30 < state.left_seconds <= left_seconds
        assert (state.owner, state.run, state.image_url) == (record.owner, 1, record.image_url)
        assert set(json.loads(state.entry.data)) == FIELDS
        await progress.queue_job(job, Backlog(waiting=6, per_second=2))


@pytest.mark.parametrize("locale", ["ko", "en"])
async def test_each_event_speaks_the_jobs_language(progress: ProgressLog, locale: Locale) -> None:
    """Also those that the log writes by itself: what is cancelled or expires has no body at hand."""
    spoken = {"locale": locale}
    cancelled, expired = (upload().model_copy(update=spoken) for _ in range(2))
    await progress.open_job(cancelled, job_of(cancelled).deadline_ms)
    await progress.cancel(cancelled.job_id)
    await progress.open_job(expired, expired.created_at_ms - 1)
    assert not await progress.cancel(expired.job_id)
    failed = job_of(upload().model_copy(update=spoken))
    await progress.finish(failed, None, FAILURE)
    for job, stage in ((job_of(cancelled), "cancelled"), (job_of(expired), "expired"), (failed, "failed")):
        entries = await log_of(progress, job)
        assert entries[-1].event == stage
        for entry in entries:
            event = json.loads(entry.data)
            assert event["message"] == stage_message(Stage(event["stage"]), locale)


@pytest.mark.parametrize("after_id", ["", "0", "abc.1.def", "..", "x" * 200])
async def test_id_that_names_nothing_gives_a_reset(progress: ProgressLog, after_id: str) -> None:
    """Whatever a client sends: it begins again from the state of now."""
    job = job_of(upload())
    await progress.queue_job(job)
    history = await progress.history(job.job_id, after_id)
    assert history is not None
    assert (history.entries, history.reset) == ([], True)


async def test_result_is_kept_for_seven_days(parts: dict[str, str]) -> None:
    """Log and snapshot go an hour after the end, the result long after them."""
    url = f"{parts['REDIS_URL'].rstrip('/')}/2"
    async with (
        RedisProgressLog.open(url=url, image_base_url="http://cdn.test") as log,
        open_redis(url) as redis,
    ):
        job = job_of(upload())
        await log.finish(job, None, FAILURE)
        for key in (keys.events(job.job_id), keys.progress(job.job_id)):
            assert 3540 < await redis.ttl(key) <= 3600
        assert 6 * 86_400 < await redis.ttl(keys.result(job.job_id)) <= 7 * 86_400
