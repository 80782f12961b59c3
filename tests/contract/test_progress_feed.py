"""The live side of progress, on a real Valkey and as the fake: one suite for both."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from yarl import URL

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import open_redis
from growbin.adapters.redis.progress_feed import NOT_READY_AFTER_SECONDS, RedisProgressFeed
from growbin.adapters.redis.progress_log import RedisProgressLog
from growbin.job import LogEntry, Upload
from growbin.local.parts.valkey import Valkey
from growbin.messages import failure
from growbin.ports import ProgressFeed, Started
from tests.fakes import Clock, FakeProgressFeed, FakeProgressLog
from tests.faults.instruments.proxy import Proxy
from tests.jobs import job_of, upload

HEARD_SECONDS = 30


def database(parts: dict[str, str]) -> str:
    return f"{parts['REDIS_URL'].rstrip('/')}/2"


@dataclass
class Radio:
    """A log, a feed of it, and what the feed has told."""

    progress: RedisProgressLog | FakeProgressLog
    feed: ProgressFeed = field(init=False)
    heard: asyncio.Queue[tuple[UUID, LogEntry]] = field(default_factory=asyncio.Queue)
    told: asyncio.Queue[tuple[str, UUID]] = field(default_factory=asyncio.Queue)

    def on_entry(self, job_id: UUID, entry: LogEntry) -> None:
        self.heard.put_nowait((job_id, entry))

    def on_session_job(self, owner: str, job_id: UUID) -> None:
        self.told.put_nowait((owner, job_id))

    async def next_told(self) -> tuple[str, UUID]:
        async with asyncio.timeout(HEARD_SECONDS):
            return await self.told.get()

    async def next(self) -> tuple[UUID, LogEntry]:
        async with asyncio.timeout(HEARD_SECONDS):
            return await self.heard.get()


@pytest_asyncio.fixture(params=["fake", "real"])
async def radio(request: pytest.FixtureRequest) -> AsyncIterator[Radio]:
    if request.param == "fake":
        progress = FakeProgressLog(Clock())
        radio = Radio(progress)
        radio.feed = FakeProgressFeed(progress, radio.on_entry, radio.on_session_job)
        yield radio
        return
    url = database(request.getfixturevalue("parts"))
    async with RedisProgressLog.open(url=url, image_base_url="http://cdn.test") as log:
        radio = Radio(log)
        async with RedisProgressFeed.open(
            url=url,
            on_entry=radio.on_entry,
            on_gap=lambda _: None,
            on_loss=lambda: None,
            on_session_job=radio.on_session_job,
        ) as radio.feed:
            await until(radio.feed.is_hearing, True)
            yield radio


async def test_subscriber_hears_each_entry_as_the_log_keeps_it(radio: Radio) -> None:
    """From the moment at which `subscribe` returns, in order, to the end."""
    record = upload()
    job = job_of(record)
    await radio.feed.subscribe(job.job_id)
    await radio.progress.open_job(record, job.deadline_ms)
    await radio.progress.queue_job(job)
    await radio.progress.cancel(job.job_id)
    history = await radio.progress.history(job.job_id, None)
    assert history is not None
    assert [await radio.next() for _ in range(3)] == [(job.job_id, entry) for entry in history.entries]
    assert radio.heard.empty()


async def test_only_jobs_that_were_asked_for_are_heard(radio: Radio) -> None:
    """Neither what came before, nor other jobs, nor one that was unsubscribed; and each once only."""
    wanted, left, other = (job_of(upload()) for _ in range(3))
    await radio.progress.queue_job(wanted)
    for job in (wanted, left, wanted):
        await radio.feed.subscribe(job.job_id)
    for job in (left, other):
        await radio.feed.unsubscribe(job.job_id)
    await radio.feed.subscribe(uuid4())  # confirmed once the others have ended, of which nobody tells
    for job in (left, other):
        await radio.progress.queue_job(job)
    await radio.progress.cancel(wanted.job_id)
    job_id, entry = await radio.next()
    assert (job_id, entry.event) == (wanted.job_id, "cancelled")
    assert radio.heard.empty()


async def test_job_that_is_subscribed_again_is_heard_again(radio: Radio) -> None:
    """The last reader left, and another came."""
    job = job_of(upload())
    await radio.feed.subscribe(job.job_id)
    await radio.feed.unsubscribe(job.job_id)
    await radio.feed.subscribe(job.job_id)
    await radio.progress.queue_job(job)
    assert (await radio.next())[0] == job.job_id


async def test_subscriptions_of_one_turn_are_asked_for_together_and_in_order(parts: dict[str, str]) -> None:
    """Thousands of streams may open at once; who leaves and comes back in between is heard."""
    server = URL(database(parts))
    async with (
        Proxy("redis", server.port or 6379) as proxy,
        RedisProgressLog.open(url=database(parts), image_base_url="http://cdn.test") as log,
    ):
        radio = Radio(log)
        async with RedisProgressFeed.open(
            url=str(server.with_port(proxy.port)),
            on_entry=radio.on_entry,
            on_gap=lambda _: None,
            on_loss=lambda: None,
            on_session_job=radio.on_session_job,
        ) as feed:
            while not await feed.is_hearing():
                await asyncio.sleep(0.01)
            said = list[bytes]()
            proxy.overhear = said.append
            jobs = [job_of(upload()) for _ in range(20)]
            back, gone = jobs[:2]
            for job in jobs:
                await feed.request(job.job_id)
            for job in (back, gone):
                await feed.unsubscribe(job.job_id)
            await feed.request(back.job_id)
            await asyncio.gather(*(feed.subscribe(job.job_id) for job in jobs if job is not gone))
            for job in jobs:
                await log.queue_job(job)
            heard = {(await radio.next())[0] for _ in range(19)}
            assert heard == {job.job_id for job in jobs} - {gone.job_id}
            assert radio.heard.empty()
            asked = [piece for piece in said if b"SUBSCRIBE" in piece]
            assert len(asked) == 1
            assert asked[0].count(b"SUBSCRIBE") == 3  # all, less two, and one of them again


async def test_entry_that_cannot_be_read_is_told_as_a_gap_and_the_feed_hears_on(
    parts: dict[str, str],
) -> None:
    """One odd entry sends its job's streams back to the log; what follows it arrives."""
    url = database(parts)
    job_id, gaps = uuid4(), list[UUID]()
    heard: asyncio.Queue[LogEntry] = asyncio.Queue()
    async with (
        RedisProgressFeed.open(
            url=url,
            on_entry=lambda _, entry: heard.put_nowait(entry),
            on_gap=gaps.append,
            on_loss=lambda: None,
            on_session_job=lambda _owner, _job_id: None,
        ) as feed,
        open_redis(url) as redis,
    ):
        await until(feed.is_hearing, True)
        await feed.subscribe(job_id)
        for payload in (b"", b"nonsense", b"abc.1.def progress", b"\xff\xfe", b"abc.1.def progress {}"):
            await redis.publish(keys.events(job_id), payload)
        async with asyncio.timeout(HEARD_SECONDS):
            assert await heard.get() == LogEntry("abc.1.def", "progress", "{}")
    assert gaps == [job_id] * 4


async def test_session_hears_of_its_new_and_redriven_jobs_and_of_no_others(radio: Radio) -> None:
    """Each once, until it is unsubscribed; a redrive tells the owner's streams by itself."""
    own, anothers = ({"owner": secrets.token_hex(32)} for _ in range(2))

    async def opened(owner: dict[str, str]) -> Upload:
        record = upload().model_copy(update=owner)
        await radio.progress.open_job(record, record.ticket_expires_at_ms)
        return record

    await radio.feed.subscribe_session(own["owner"])
    await opened(anothers)
    record = await opened(own)
    job = job_of(record)
    await radio.progress.queue_job(job)
    await radio.progress.finish(job, None, failure("internal", "ko"))
    await radio.progress.reopen(job, 300)
    heard = [await radio.next_told() for _ in range(2)]
    assert heard == [(record.owner, record.job_id)] * 2
    await radio.feed.unsubscribe_session(record.owner)
    await radio.feed.subscribe_session(anothers["owner"])  # confirmed after the one before has ended
    await opened(own)
    stranger = await opened(anothers)
    assert await radio.next_told() == (stranger.owner, stranger.job_id)
    assert radio.told.empty()


async def test_session_hears_of_a_log_that_a_delivery_begins(radio: Radio) -> None:
    """Redis had lost it, and the list that names the job: nothing else tells the session's streams."""
    job = job_of(upload())
    await radio.feed.subscribe_session(job.owner)
    start = await radio.progress.begin(job, alone=True, call_id="first")
    assert isinstance(start, Started)
    assert await radio.next_told() == (job.owner, job.job_id)
    await radio.progress.finish(job, start.attempt, failure("internal", "ko"))
    assert radio.told.empty()


async def test_whatever_is_said_and_whatever_goes_wrong_the_feed_hears_on(parts: dict[str, str]) -> None:
    """What cannot be read, or be handed on because of a bug, is counted, and its job is read again."""
    url, owner = database(parts), secrets.token_hex(32)
    job_id, gaps = uuid4(), list[UUID]()
    heard: asyncio.Queue[LogEntry] = asyncio.Queue()

    def on_entry(_: UUID, entry: LogEntry) -> None:
        if entry.event == "failed":
            raise ZeroDivisionError
        heard.put_nowait(entry)

    before = unreadable()
    async with (
        RedisProgressFeed.open(
            url=url,
            on_entry=on_entry,
            on_gap=gaps.append,
            on_loss=lambda: None,
            on_session_job=lambda _owner, _job_id: None,
        ) as feed,
        open_redis(url) as redis,
    ):
        await until(feed.is_hearing, True)
        await feed.subscribe(job_id)
        await feed.subscribe_session(owner)
        await redis.publish(keys.session_news(owner), "no id")
        await redis.publish(keys.events(job_id), "v2")
        await redis.publish(keys.events(job_id), "abc.1.def failed {}")
        await redis.publish(keys.events(job_id), "abc.2.def progress {}")
        async with asyncio.timeout(HEARD_SECONDS):
            assert (await heard.get()).id == "abc.2.def"
        assert await feed.is_kept()
    assert gaps == [job_id] * 2
    assert unreadable() - before == 3


async def test_what_comes_before_the_first_song_is_left_to_the_log() -> None:
    """It may be another history's next number: only `on_loss` has the streams compare."""
    job_id, told = uuid4(), list[str]()
    events = keys.events(job_id)

    def in_words(*words: str, kind: str = "*") -> bytes:
        lines = [f"{kind}{len(words)}", *(line for word in words for line in (f"${len(word)}", word))]
        return "".join(f"{line}\r\n" for line in lines).encode()

    async def command(reader: asyncio.StreamReader) -> list[str]:
        words = list[str]()
        for _ in range(int((await reader.readline())[1:])):
            length = int((await reader.readline())[1:])
            words.append((await reader.readexactly(length + 2))[:-2].decode())
        return words

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A Redis that is being written to while the feed subscribes."""
        with suppress(asyncio.IncompleteReadError, ValueError):
            while True:
                match await command(reader):
                    case ["HELLO", *_]:
                        writer.write(b"%1\r\n+proto\r\n:3\r\n")
                    case ["SUBSCRIBE", *channels]:
                        for channel in channels:
                            writer.write(in_words("subscribe", channel, "1", kind=">"))
                        writer.write(in_words("message", events, "abc.2.early progress {}", kind=">"))
                    case ["PUBLISH", channel, payload]:
                        writer.write(in_words("message", channel, payload, kind=">") + b":1\r\n")
                        writer.write(in_words("message", events, "abc.3.live progress {}", kind=">"))
                    case _:
                        writer.write(b"+OK\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with RedisProgressFeed.open(
            url=f"redis://127.0.0.1:{port}/2",
            on_entry=lambda _, entry: told.append(entry.id),
            on_gap=lambda _: None,
            on_loss=lambda: told.append("loss"),
            on_session_job=lambda _owner, _job_id: None,
        ) as feed:
            await feed.subscribe(job_id)
            async with asyncio.timeout(HEARD_SECONDS):
                while "abc.3.live" not in told:
                    await asyncio.sleep(0.01)
    assert told[:2] == ["loss", "abc.3.live"]


def unreadable() -> float:
    return REGISTRY.get_sample_value("growbin_progress_unreadable_total") or 0.0


async def test_feed_leaves_a_demoted_server_and_makes_up_for_what_it_missed(tmp_path: Path) -> None:
    """Its own write is refused though the connection lives: it connects anew again and again, and once a
    primary answers the log is read again. Only a long deafness is for readiness."""
    valkey, losses = Valkey(tmp_path), list[float]()
    await valkey.start()
    try:
        await valkey.ready()
        async with (
            Redis.from_url(valkey.url) as operator,
            RedisProgressFeed.open(
                url=f"{valkey.url}/2",
                on_entry=lambda _job_id, _entry: None,
                on_gap=lambda _: None,
                on_loss=lambda: losses.append(time.monotonic()),
                on_session_job=lambda _owner, _job_id: None,
            ) as feed,
        ):
            assert not await feed.has_heard_lately()
            await until(feed.is_hearing, True)
            await operator.replicaof("127.0.0.1", 1)
            await until(feed.is_hearing, False)
            await asyncio.sleep(1)
            assert not await feed.is_hearing()
            assert await feed.has_heard_lately()
            assert len(losses) == 1
            await operator.replicaof("NO", "ONE")
            await until(feed.is_hearing, True)
            assert len(losses) == 2
    finally:
        await valkey.kill()


async def test_feed_that_was_deaf_for_long_is_not_ready_but_alive(tmp_path: Path) -> None:
    """Ten seconds without a song: clients had better go elsewhere; the feed goes on trying."""
    valkey = Valkey(tmp_path)
    await valkey.start()
    try:
        await valkey.ready()
        began = time.monotonic()  # before the last song that it can have heard
        async with RedisProgressFeed.open(
            url=f"{valkey.url}/2",
            on_entry=lambda _job_id, _entry: None,
            on_gap=lambda _: None,
            on_loss=lambda: None,
            on_session_job=lambda _owner, _job_id: None,
        ) as feed:
            await until(feed.is_hearing, True)
            await valkey.kill()
            await until(feed.has_heard_lately, False, within_seconds=NOT_READY_AFTER_SECONDS + 30)
            assert time.monotonic() - began > NOT_READY_AFTER_SECONDS
            assert await feed.is_kept()
    finally:
        await valkey.kill()


async def until(told: Callable[[], Awaitable[bool]], wanted: bool, within_seconds: float = 30) -> None:
    async with asyncio.timeout(within_seconds):
        while await told() is not wanted:
            await asyncio.sleep(0.02)
