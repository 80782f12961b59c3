"""The live side of progress, on a real Valkey."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import open_redis
from growbin.adapters.redis.progress_feed import RedisProgressFeed
from growbin.job import LogEntry

HEARD_SECONDS = 5


async def test_entry_that_cannot_be_read_is_told_as_a_gap_and_the_feed_hears_on(
    parts: dict[str, str],
) -> None:
    """One odd entry sends its job's streams back to the log; what follows it arrives."""
    url = f"{parts['REDIS_URL'].rstrip('/')}/2"
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
