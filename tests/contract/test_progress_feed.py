"""The live side of progress, on a real Valkey and as the fake: one suite for both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import open_redis
from growbin.adapters.redis.progress_feed import RedisProgressFeed
from growbin.adapters.redis.progress_log import RedisProgressLog
from growbin.job import LogEntry
from growbin.ports import ProgressFeed
from tests.contract.jobs import job_of, upload
from tests.fakes import Clock, FakeProgressFeed, FakeProgressLog

HEARD_SECONDS = 5


def database(parts: dict[str, str]) -> str:
    return f"{parts['REDIS_URL'].rstrip('/')}/2"


@dataclass
class Radio:
    """A log, a feed of it, and what the feed has told."""

    progress: RedisProgressLog | FakeProgressLog
    feed: ProgressFeed = field(init=False)
    heard: asyncio.Queue[tuple[UUID, LogEntry]] = field(default_factory=asyncio.Queue)

    def on_entry(self, job_id: UUID, entry: LogEntry) -> None:
        self.heard.put_nowait((job_id, entry))

    async def next(self) -> tuple[UUID, LogEntry]:
        async with asyncio.timeout(HEARD_SECONDS):
            return await self.heard.get()


@pytest_asyncio.fixture(params=["fake", "real"])
async def radio(request: pytest.FixtureRequest) -> AsyncIterator[Radio]:
    if request.param == "fake":
        progress = FakeProgressLog(Clock())
        radio = Radio(progress)
        radio.feed = FakeProgressFeed(progress, radio.on_entry)
        yield radio
        return
    url = database(request.getfixturevalue("parts"))
    async with RedisProgressLog.open(url=url, image_base_url="http://cdn.test") as log:
        radio = Radio(log)
        async with RedisProgressFeed.open(
            url=url, on_entry=radio.on_entry, on_gap=lambda _: None, on_loss=lambda: None
        ) as radio.feed:
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
        ) as feed,
        open_redis(url) as redis,
    ):
        await feed.subscribe(job_id)
        for payload in (b"", b"nonsense", b"abc.1.def progress", b"\xff\xfe", b"abc.1.def progress {}"):
            await redis.publish(keys.events(job_id), payload)
        async with asyncio.timeout(HEARD_SECONDS):
            assert await heard.get() == LogEntry("abc.1.def", "progress", "{}")
    assert gaps == [job_id] * 4
