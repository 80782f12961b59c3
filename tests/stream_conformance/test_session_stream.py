"""One stream for all jobs of a session: each job's promise holds in it, whatever the others do."""

from __future__ import annotations

import asyncio
import contextlib
import random

import aiohttp
import pytest

from tests.stream_conformance.proxy import Proxy, some_bytes
from tests.stream_conformance.story import check_whole_story
from tests.stream_conformance.visitor import SOON_SECONDS, Job, Visitor, visiting
from tests.stream_conformance.wire import Event

JOBS = 4


class Listener:
    """Pieces together the stories of several jobs, over as many connections as it takes."""

    def __init__(self, visitor: Visitor, at: str | None = None) -> None:
        self._visitor = visitor
        self._at = at
        self.heard: list[Event] = []

    async def listen(self, *, ends: int, events_a_line: int | None = None) -> None:
        """Until so many jobs have ended; on a new line after `events_a_line` events, or when one is cut."""
        async with asyncio.timeout(3 * SOON_SECONDS):
            while self.ends < ends:
                last_id = self.heard[-1].id if self.heard else None
                with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                    async with self._visitor.watching(None, last_id, at=self._at) as stream:
                        assert stream.status == 200, stream.status
                        left = events_a_line
                        while left != 0 and self.ends < ends and (event := await stream.event()) is not None:
                            assert event.name != "reset"
                            self.heard.append(event)
                            left = left and left - 1

    @property
    def ends(self) -> int:
        return sum(event.ends for event in self.heard)

    async def check(self, jobs: list[Job]) -> None:
        """Each job was told exactly, and in the words of its own stream."""
        assert {event.data["job_id"] for event in self.heard} == {job.id for job in jobs}
        for job in jobs:
            story = [event for event in self.heard if event.data["job_id"] == job.id]
            check_whole_story(story, job.id)
            alone = await self._visitor.told(job.id)
            assert [(event.name, event.text) for event in story] == [
                (event.name, event.text) for event in alone
            ]


async def _begun(visitor: Visitor) -> list[Job]:
    return [await visitor.begin() for _ in range(JOBS)]


@pytest.mark.parametrize("events_a_line", [None, 1, 3])
async def test_jobs_side_by_side_are_each_told_exactly(visitor: Visitor, events_a_line: int | None) -> None:
    """On one line, and on a new one after every event or every third."""
    jobs = await _begun(visitor)
    listener = Listener(visitor)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(listener.listen(ends=JOBS, events_a_line=events_a_line))
        for job in jobs:
            tasks.create_task(job.send())
    await listener.check(jobs)


@pytest.mark.parametrize("seed", range(3))
async def test_line_that_breaks_at_any_byte_loses_nothing_of_any_job(visitor: Visitor, seed: int) -> None:
    """Cut anywhere, the last whole event's id brings the rest of every job."""
    chance = random.Random(seed)
    jobs = await _begun(visitor)
    # Who has not yet heard an id is a newcomer, and is told of unfinished jobs only.
    proxy = Proxy(
        visitor.base_url, piece_bytes=64, line_bytes=lambda: some_bytes(chance) if listener.heard else 4_000
    )
    async with proxy.serving() as at, asyncio.TaskGroup() as tasks:
        listener = Listener(visitor, at)
        tasks.create_task(listener.listen(ends=JOBS))
        for job in jobs:
            tasks.create_task(job.send())
    assert proxy.cuts
    await listener.check(jobs)


async def test_every_cut_point_is_followed_by_the_rest_of_every_job(visitor: Visitor) -> None:
    """The whole told once, each of its ids is good for exactly what came after it."""
    jobs = await _begun(visitor)
    whole = Listener(visitor)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(whole.listen(ends=JOBS))
        for job in jobs:
            tasks.create_task(job.send())
    for place in range(1, len(whole.heard)):
        again = Listener(visitor)
        again.heard = whole.heard[:place]
        await again.listen(ends=JOBS)
        await again.check(jobs)
    async with visitor.watching(None, whole.heard[-1].id) as stream:
        assert stream.status == 204


async def test_job_that_begins_later_joins_the_open_stream(visitor: Visitor) -> None:
    """Nobody has to ask anew for a new photo."""
    first = await visitor.begin()
    async with visitor.watching(None) as stream:
        event = await stream.event()
        assert event is not None
        assert event.data["job_id"] == first.id
        second = await visitor.begin()
        event = await stream.event(within_seconds=10)  # sooner than it would look by itself
        assert event is not None
        assert event.data["job_id"] == second.id


async def test_session_hears_of_no_job_but_its_own(visitor: Visitor) -> None:
    """A stranger's stream says nothing of it, and offers nothing for its ids."""
    job = await visitor.begin()
    async with visitor.watching(None) as stream:
        event = await stream.event()
        assert event is not None
    async with visiting(visitor.base_url) as stranger:
        own = await stranger.begin()
        for last_id in (None, event.id):
            async with stranger.watching(None, last_id) as stream:
                heard = await stream.event()
                assert heard is not None
                assert heard.data["job_id"] == own.id != job.id
                assert await stream.is_silent(for_seconds=1)
