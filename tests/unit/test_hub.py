"""The hub, on a fake log and feed: exactly once and in order, whatever the live side does."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

import pytest

from growbin.errors import Unavailable
from growbin.gateway.hub import Hub
from growbin.gateway.watch import ReaderTooSlow, Watch
from growbin.job import Failure, Job, LogEntry, Stage
from growbin.ports import History, Started
from tests.fakes import Clock, FakeProgressFeed, FakeProgressLog
from tests.jobs import job_of, upload

FAILURE = Failure(code="internal", detail="", retryable=True)


class Told:
    """One gateway's hub and one job that tells its story step by step."""

    def __init__(self, buffer_events: int = 64) -> None:
        self.clock = Clock()
        self.progress = FakeProgressLog(self.clock)
        self.hub = Hub(self.progress, buffer_events)
        self.feed = FakeProgressFeed(self.progress, self.hub.on_entry, self.hub.on_session_job)
        self.hub.attach(self.feed)
        self.upload = upload()
        self.job = job_of(self.upload)

    async def begin(self) -> int:
        start = await self.progress.begin(self.job, alone=True, call_id="test")
        assert isinstance(start, Started)
        return start.attempt

    async def tell(self, *stages: Stage, attempt: int) -> None:
        for stage in stages:
            await self.progress.announce(self.job, attempt, stage)

    async def end(self, attempt: int) -> None:
        await self.progress.finish(self.job, attempt, FAILURE)

    async def log(self) -> list[str]:
        history = await self.progress.history(self.job.job_id, None)
        assert history is not None
        return [entry.id for entry in history.entries]


@pytest.fixture
def stage() -> Told:
    return Told()


async def ids(watch: Watch) -> list[str]:
    return [entry.id async for entry in watch]


async def test_history_comes_first_then_live_then_the_end(stage: Told) -> None:
    """A client that comes in the middle sees everything once, in order, and the stream ends."""
    attempt = await stage.begin()
    await stage.tell(Stage.FETCHING, attempt=attempt)
    async with stage.hub.watch(stage.job.job_id, None) as watch:
        await stage.tell(Stage.ANALYSING, Stage.ADVISING, attempt=attempt)
        await stage.end(attempt)
        assert await ids(watch) == await stage.log()
    assert stage.hub.watched_jobs == 0
    assert stage.feed.subscribed == set()


async def test_every_cut_point_resumes_exactly(stage: Told) -> None:
    """Whatever event a client saw last, it gets the rest and nothing twice."""
    attempt = await stage.begin()
    await stage.tell(Stage.FETCHING, Stage.ANALYSING, attempt=attempt)
    await stage.end(attempt)
    whole = await stage.log()
    for index, last_id in enumerate(whole):
        async with stage.hub.watch(stage.job.job_id, last_id) as watch:
            assert await ids(watch) == whole[index + 1 :]
            assert watch.nothing_missed == (index == len(whole) - 1)


async def test_entries_lost_by_the_live_side_are_read_from_the_log(stage: Told) -> None:
    """A gap in what pub/sub brings sends the hub back to the log."""
    attempt = await stage.begin()
    async with stage.hub.watch(stage.job.job_id, None) as watch:
        stage.feed.is_away = True
        await stage.tell(Stage.FETCHING, Stage.ANALYSING, attempt=attempt)
        stage.feed.is_away = False
        await stage.tell(Stage.ADVISING, attempt=attempt)
        await stage.end(attempt)
        assert await ids(watch) == await stage.log()


async def test_loss_at_the_end_is_mended_by_the_next_reading(stage: Told) -> None:
    """When even the terminal event was lost, the feed's word of loss brings it."""
    attempt = await stage.begin()
    async with stage.hub.watch(stage.job.job_id, None) as watch:
        stage.feed.is_away = True
        await stage.end(attempt)
        stage.hub.on_loss()
        stage.hub.on_loss()
        assert await ids(watch) == await stage.log()


async def test_loss_while_an_end_is_read_leaves_it_to_be_told(
    stage: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits has not seen it, though its own log holds nothing more."""
    attempt = await stage.begin()
    await stage.end(attempt)
    read = stage.progress.history

    async def history(job_id: UUID, after_id: str | None) -> History | None:
        found = await read(job_id, after_id)
        if after_id is None:
            stage.hub.on_loss()
        return found

    monkeypatch.setattr(stage.progress, "history", history)
    async with stage.hub.watch(stage.job.job_id, None) as watch:
        assert not watch.nothing_missed
        monkeypatch.undo()
        assert await ids(watch) == await stage.log()


async def test_end_of_a_log_that_begins_while_none_is_found_is_told(
    stage: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis had lost it, and the first to look at its overdue job writes its end: there is one entry, which
    comes while the answer is on its way that there is no log."""
    read, overdue = stage.progress.history, job_of(stage.upload, deadline_in_ms=-5_000)

    async def history(job_id: UUID, after_id: str | None) -> History | None:
        found = await read(job_id, after_id)
        if found is None:
            await stage.progress.expire_if_due(overdue)
        return found

    monkeypatch.setattr(stage.progress, "history", history)
    async with stage.hub.watch(stage.job.job_id, None) as watch:
        assert await ids(watch) == await stage.log()


async def test_duplicates_and_disorder_of_the_live_side_do_not_show(stage: Told) -> None:
    """Late repeats of old entries are dropped."""
    attempt = await stage.begin()
    await stage.tell(Stage.FETCHING, attempt=attempt)
    history = await stage.progress.history(stage.job.job_id, None)
    assert history is not None
    async with stage.hub.watch(stage.job.job_id, None) as watch:
        for entry in reversed(history.entries):
            stage.hub.on_entry(stage.job.job_id, entry)
        await stage.end(attempt)
        assert await ids(watch) == await stage.log()


@pytest.mark.parametrize("last_id", ["ab.1.cd", "garbage", "0.0.0", "x" * 500, "a.99999999999.b"])
async def test_unknown_id_gets_a_reset_then_goes_on(stage: Told, last_id: str) -> None:
    """An id that is in no log: a snapshot, then what follows, never silence."""
    attempt = await stage.begin()
    await stage.tell(Stage.FETCHING, attempt=attempt)
    async with stage.hub.watch(stage.job.job_id, last_id) as watch:
        await stage.end(attempt)
        entries = [entry async for entry in watch]
    assert [entry.event for entry in entries] == ["reset", "failed"]


async def test_reset_of_an_ended_job_is_followed_by_its_end(stage: Told) -> None:
    """A client with foreign history of an ended job gets reset, then the terminal event, once."""
    attempt = await stage.begin()
    await stage.end(attempt)
    async with stage.hub.watch(stage.job.job_id, "ab.1.cd") as watch:
        entries = [entry async for entry in watch]
    assert [entry.event for entry in entries] == ["reset", "failed"]
    async with stage.hub.watch(stage.job.job_id, entries[0].id) as watch:
        assert [entry.event async for entry in watch] == ["reset", "failed"]


async def test_history_replaced_under_an_open_stream_gives_a_reset(stage: Told) -> None:
    """Redis came back with another history: the open stream is told so."""
    attempt = await stage.begin()
    await stage.tell(Stage.FETCHING, attempt=attempt)
    async with stage.hub.watch(stage.job.job_id, None) as watch:
        stage.progress.forget(stage.job.job_id)
        attempt = await stage.begin()
        await stage.tell(Stage.FETCHING, attempt=attempt)
        await asyncio.sleep(0.05)
        await stage.end(attempt)
        events = [entry.event async for entry in watch]
    assert "reset" in events
    assert events[-1] == "failed"


async def test_entry_of_another_history_with_the_same_number_is_no_repeat() -> None:
    """Redis was set back, and what it tells now comes before the word of a loss."""
    stage = Told()
    attempt = await stage.begin()
    before = stage.progress.saved(stage.job.job_id)
    async with stage.hub.watch(stage.job.job_id, None) as watch:
        await stage.tell(Stage.ANALYSING, attempt=attempt)
        assert [await watch.next(0.1) for _ in range(3)][-1]
        stage.progress.set_back(stage.job.job_id, before)
        await stage.tell(Stage.ANALYSING, Stage.ADVISING, attempt=attempt)
        await stage.end(attempt)
        events = [entry.event async for entry in watch]
    assert events[0] == "reset"


async def test_log_longer_than_the_buffer_is_told() -> None:
    """Many attempts: a client that comes new is not cut before its first event, again and again."""
    stage = Told()
    attempts = [await stage.begin()]
    for _ in range(40):
        await stage.progress.release(stage.job, attempts[-1], refund=True)
        attempts.append(await stage.begin())
        await stage.tell(Stage.FETCHING, Stage.ANALYSING, attempt=attempts[-1])
    await stage.end(attempts[-1])
    async with stage.hub.watch(stage.job.job_id, None) as watch:
        assert [entry.id async for entry in watch] == await stage.log()


async def test_full_buffer_cuts_the_reader() -> None:
    """A reader that does not read is cut; it may resume with its last id."""
    stage = Told(buffer_events=1)
    attempt = await stage.begin()
    async with stage.hub.watch(stage.job.job_id, None) as watch:
        await stage.tell(Stage.FETCHING, Stage.ANALYSING, Stage.ADVISING, attempt=attempt)
        with pytest.raises(ReaderTooSlow):
            await ids(watch)


async def test_drain_ends_every_stream_without_a_terminal_event(stage: Told) -> None:
    """A stopping gateway ends its streams; those that come later end at once."""
    await stage.begin()
    await stage.progress.queue_job(stage.job)
    async with stage.hub.watch(stage.job.job_id, None) as watch:
        reading = asyncio.create_task(ids(watch))
        await asyncio.sleep(0.01)
        await stage.hub.drain()
        assert await reading == await stage.log()
    async with stage.hub.watch(stage.job.job_id, None) as watch:
        assert await ids(watch) == await stage.log()


async def test_open_stream_expires_its_job(stage: Told) -> None:
    """Nobody else looks, and the stream itself ends the job at its deadline."""
    event = stage.job.model_copy(update={"deadline_ms": int(time.time() * 1000) + 200})
    await stage.progress.queue_job(event)
    async with stage.hub.watch(event.job_id, None) as watch, asyncio.timeout(30):
        assert [entry.event async for entry in watch] == ["progress", "expired"]


async def test_open_stream_follows_a_deadline_that_comes_nearer(stage: Told) -> None:
    """A stream that began before the upload ends its job at the deadline of upload-complete, not at the
    later one of a job without upload."""
    event = stage.job
    await stage.progress.open_job(stage.upload, event.accepted_at_ms + 600_000)
    async with stage.hub.watch(event.job_id, None) as watch, asyncio.timeout(30):
        soon = event.model_copy(update={"deadline_ms": int(time.time() * 1000) + 200})
        await stage.progress.queue_job(soon)
        assert [entry.event async for entry in watch] == ["progress", "progress", "expired"]


async def test_timer_of_an_open_stream_reads_what_the_live_side_never_brought(stage: Told) -> None:
    """The feed is deaf and does not know it: at the deadline the stream looks, and reads its end."""
    event = stage.job.model_copy(update={"deadline_ms": int(time.time() * 1000) + 1000})
    await stage.progress.queue_job(event)
    async with stage.hub.watch(event.job_id, None) as watch, asyncio.timeout(30):
        stage.feed.is_away = True
        await stage.progress.begin(event, alone=True, call_id="test")
        await stage.progress.announce(event, 1, Stage.FETCHING)
        assert [entry.event async for entry in watch] == ["progress", "progress", "expired"]


async def test_erased_job_ends_its_streams_though_nothing_was_heard(stage: Told) -> None:
    """Only a tombstone is left: nobody waits for an end that cannot come."""
    event = stage.job.model_copy(update={"deadline_ms": int(time.time() * 1000) + 200})
    await stage.progress.queue_job(event)
    async with stage.hub.watch(event.job_id, None) as watch, asyncio.timeout(30):
        stage.feed.is_away = True
        await stage.progress.erase(event.job_id, event.owner)
        assert [entry.event async for entry in watch] == ["progress"]
        assert not watch.has_ended


async def test_stream_of_a_job_that_redis_lost_as_it_was_queued_waits_for_its_delivery(stage: Told) -> None:
    """It is not due yet. A stream that ended now would be asked for again, and heard to be unknown."""
    await stage.progress.open_job(stage.upload, stage.job.accepted_at_ms + 600_000)
    async with stage.hub.watch(stage.job.job_id, None) as watch, asyncio.timeout(30):
        await stage.progress.queue_job(stage.job)
        stage.progress.forget(stage.job.job_id)
        await asyncio.sleep(0.01)  # the hub looks for the nearer deadline
        await stage.end(await stage.begin())
        assert [entry.event async for entry in watch] == ["progress", "progress", "reset", "failed"]


async def test_stream_of_a_job_that_redis_lost_ends_when_it_is_due(stage: Told) -> None:
    """Nothing will bring it back: better to hear that it is unknown than nothing at all."""
    event = stage.job.model_copy(update={"deadline_ms": int(time.time() * 1000) + 200})
    await stage.progress.queue_job(event)
    async with stage.hub.watch(event.job_id, None) as watch, asyncio.timeout(30):
        stage.progress.forget(event.job_id)
        assert [entry.event async for entry in watch] == ["progress"]
        assert not watch.has_ended


async def driven_again_and_forgotten(stage: Told, watch_seconds: int) -> tuple[Watch, Job]:
    """An open stream of the second run, of which Redis knows nothing any more."""
    await stage.end(await stage.begin())
    saved = stage.progress.saved(stage.job.job_id)
    again = await stage.progress.reopen(stage.job, watch_seconds)
    watch = await stage.hub.join(again.job_id, None)
    assert watch.take() is not None
    stage.progress.set_back(again.job_id, saved)
    stage.hub.on_loss()
    await asyncio.sleep(0.01)  # the hub reads the log again
    return watch, again


async def test_stream_of_a_run_that_redis_lost_is_not_told_the_end_of_the_one_before(stage: Told) -> None:
    """Its delivery brings the run back, with another history: the client hears that, and its end."""
    watch, again = await driven_again_and_forgotten(stage, 300)
    assert watch.take() is None
    start = await stage.progress.begin(again, alone=True, call_id="test")
    assert isinstance(start, Started)
    await stage.progress.finish(again, start.attempt, FAILURE)
    async with asyncio.timeout(30):
        entries = [entry async for entry in watch]
    assert [entry.event for entry in entries] == ["reset", "failed"]
    await stage.hub.leave(watch)


async def test_stream_of_a_run_that_nothing_brings_back_ends_when_it_is_due(stage: Told) -> None:
    """Redis knows the end of the run before, and so does its client at last."""
    watch, _ = await driven_again_and_forgotten(stage, 1)
    async with asyncio.timeout(30):
        assert [entry.event async for entry in watch] == ["reset", "failed"]
    await stage.hub.leave(watch)


async def test_log_that_cannot_be_read_ends_its_stream_rather_than_leave_it_silent(stage: Told) -> None:
    """A bug meets the re-reading: the client comes back, and asks anew."""

    class Broken(FakeProgressLog):
        async def history(self, job_id: UUID, after_id: str | None) -> History | None:
            if after_id is not None:
                raise ZeroDivisionError
            return await super().history(job_id, after_id)

    progress = Broken(stage.clock)
    hub = Hub(progress, 64)
    hub.attach(FakeProgressFeed(progress, hub.on_entry, hub.on_session_job))
    await progress.queue_job(stage.job)
    async with hub.watch(stage.job.job_id, None) as watch, asyncio.timeout(30):
        hub.on_gap(stage.job.job_id)
        assert [entry.event async for entry in watch] == ["progress"]
        assert not watch.has_ended
    await hub.close()


async def test_redis_away_on_entering_is_unavailable(stage: Told) -> None:
    """A stream that cannot be exact is not begun."""
    stage.progress.is_away = True
    with pytest.raises(Unavailable):
        async with stage.hub.watch(stage.job.job_id, None):
            pass
    assert stage.hub.watched_jobs == 0


async def test_two_readers_of_one_job_share_a_subscription(stage: Told) -> None:
    """The subscription stays until the last reader leaves."""
    attempt = await stage.begin()
    async with stage.hub.watch(stage.job.job_id, None) as first:
        async with stage.hub.watch(stage.job.job_id, None):
            assert stage.feed.subscribed == {stage.job.job_id}
        assert stage.feed.subscribed == {stage.job.job_id}
        await stage.end(attempt)
        assert await ids(first) == await stage.log()


def test_terminal_entry_is_the_last_a_watch_takes() -> None:
    """Nothing follows a terminal event, whatever is offered."""
    watch = Watch(UUID(int=1), None, 8)
    watch.begin_reading()
    assert watch.finish_reading([LogEntry("a.1.x", "progress", "{}"), LogEntry("a.2.y", "done", "{}")])
    assert watch.offer(LogEntry("a.3.z", "progress", "{}"))
    assert watch.has_ended
    assert watch.last_id == "a.2.y"
