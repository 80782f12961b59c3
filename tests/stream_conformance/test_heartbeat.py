"""A quiet stream says that it lives."""

from __future__ import annotations

import asyncio

from tests.stream_conformance.conftest import Service
from tests.stream_conformance.story import check_whole_story
from tests.stream_conformance.visitor import SOON_SECONDS, Visitor
from tests.stream_conformance.wire import Comment


async def test_quiet_stream_beats_in_time(visitor: Visitor, service: Service) -> None:
    """Comments come at least as often as promised, so that no proxy takes the line for dead."""
    loop, waits = asyncio.get_running_loop(), list[float]()
    job = await visitor.begin()
    async with visitor.watching(job.id) as stream:
        await stream.until_stage("awaiting_upload")
        for _ in range(3):
            begin = loop.time()
            async with asyncio.timeout(service.heartbeat_seconds + SOON_SECONDS):
                assert isinstance(await stream.item(), Comment)
            waits.append(loop.time() - begin)
    assert sorted(waits)[1] < service.heartbeat_seconds + 2, waits  # a busy machine delays one of them


async def test_heartbeats_neither_delay_events_nor_stand_in_their_way(
    visitor: Visitor, service: Service
) -> None:
    """An event comes when it happens, not with the next beat, and beats are no events."""
    loop, delays = asyncio.get_running_loop(), list[float]()
    for _ in range(3):  # a busy machine delays some of them
        job = await visitor.begin()
        async with visitor.watching(job.id) as stream:
            await stream.until_stage("awaiting_upload")
            assert isinstance(await stream.item(), Comment)
            begin = loop.time()
            await visitor.cancel(job.id)
            assert await stream.event() is not None
            delays.append(loop.time() - begin)
    assert min(delays) < 0.8 * service.heartbeat_seconds


async def test_line_that_was_long_quiet_tells_all_that_follows(visitor: Visitor, service: Service) -> None:
    """Beats change nothing in the story."""
    job = await visitor.begin()
    async with visitor.watching(job.id) as stream, asyncio.TaskGroup() as sending:
        [first] = await stream.until_stage("awaiting_upload")
        while stream.heartbeats < 2:
            assert await stream.is_silent(for_seconds=service.heartbeat_seconds)
        sending.create_task(job.send())
        check_whole_story([first, *await stream.rest()], job.id)
