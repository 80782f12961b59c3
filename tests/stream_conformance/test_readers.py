"""Readers as they are: slow, gone without a word, greedy, and many at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import psutil
import pytest

from tests.e2e.system import System
from tests.stream_conformance.conftest import Service
from tests.stream_conformance.connection import Connection
from tests.stream_conformance.story import check_whole_story
from tests.stream_conformance.visitor import Stream, Visitor, visiting
from tests.stream_conformance.wire import Decoder, Event

MOST_STREAMS = 200
GREEDY_REQUESTS = 4_000
MEGABYTE = 2**20


def memory_bytes(system: System) -> int:
    """Of the process that listens on the service's port."""
    port = int(system.settings["PORT"])
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(
                c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in process.net_connections()
            ):
                rss: int = process.memory_info().rss
                return rss
    raise AssertionError("nobody listens")


async def _fill(visitor: Visitor, job_id: str, streams: contextlib.AsyncExitStack) -> list[Stream]:
    """Open streams until the service has had enough, and says so."""
    held: list[Stream] = []
    while len(held) <= MOST_STREAMS:
        stream = await streams.enter_async_context(visitor.watching(job_id))
        if stream.status == 429:
            assert int(stream.headers["Retry-After"]) >= 1
            assert stream.headers["Content-Type"].startswith("application/problem+json")
            return held
        assert stream.status == 200
        held.append(stream)
    raise AssertionError(f"no limit met after {MOST_STREAMS} streams of one session")


async def test_session_meets_its_limit_and_each_closed_stream_is_a_free_place(visitor: Visitor) -> None:
    """Too many streams are refused with a time to come back; what was open stays open."""
    job = await visitor.begin()
    async with contextlib.AsyncExitStack() as streams:
        held = await _fill(visitor, job.id, streams)
        await job.send()
        for stream in held:
            check_whole_story(await stream.rest(), job.id)
    async with contextlib.AsyncExitStack() as streams:
        job = await visitor.begin()
        assert len(await _fill(visitor, job.id, streams)) == len(held)


VANISHING: dict[str, Callable[[Connection], None]] = {
    "close": Connection.close,
    "reset": Connection.reset,
    "half-close": Connection.half_close,
}


@pytest.mark.parametrize("way", VANISHING)
async def test_places_of_vanished_clients_are_free_within_a_second(visitor: Visitor, way: str) -> None:
    """However clients leave (FIN, RST, or one half of it), the limit counts only who is there."""
    job = await visitor.begin()
    async with contextlib.AsyncExitStack() as streams:
        limit = len(await _fill(visitor, job.id, streams))
    for _ in range(4):
        async with contextlib.AsyncExitStack() as lines:
            for _ in range(limit):
                line = await lines.enter_async_context(Connection.open(visitor))
                await line.ask(job.id)
                assert b" 200 " in (await line.read_until(b"\r\n"))
                VANISHING[way](line)
            await asyncio.sleep(1)
            async with visitor.watching(job.id) as stream:
                assert stream.status == 200, f"a place was not free a second after a {way}"
                await stream.until_stage("awaiting_upload")


@pytest.mark.parametrize("way", ["close", "reset"])
async def test_clients_that_leave_in_mid_request_leave_nothing_behind(visitor: Visitor, way: str) -> None:
    """They ask and are gone before the answer: hundreds of them take no place."""
    job = await visitor.begin()
    for _ in range(300):
        async with Connection.open(visitor) as line:
            await line.ask(job.id)
            VANISHING[way](line)
    await asyncio.sleep(1)
    async with visitor.watching(job.id) as stream:
        assert stream.status == 200


async def test_reader_that_reads_nothing_for_long_gets_its_story_in_the_end(
    visitor: Visitor, service: Service
) -> None:
    """It is cut, and may resume, or it survives: what it reads at last is the story up to where it stands."""
    job = await visitor.begin()
    async with Connection.open(visitor, small=True) as line:
        await line.ask(job.id, version="1.0")
        await job.send()
        told = await visitor.told(job.id)
        await asyncio.sleep(3 * service.heartbeat_seconds)
        heard = []
        with contextlib.suppress(ConnectionError):
            heard = await _events(line)
    assert heard == told[: len(heard)]
    if heard != told:
        heard += await visitor.told(job.id, heard[-1].id if heard else None)
    check_whole_story(heard, job.id)


@pytest.mark.own_service
async def test_greedy_reader_that_reads_nothing_is_cut_and_costs_no_memory(
    visitor: Visitor, own_system: System
) -> None:
    """Thousands of answers asked for on one line, and none of them read: it is cut, others are served."""
    job_id, told = await visitor.finished()
    before_bytes = memory_bytes(own_system)
    async with contextlib.AsyncExitStack() as lines:
        greedy = [await lines.enter_async_context(Connection.open(visitor, small=True)) for _ in range(5)]
        for line in greedy:
            await line.ask(job_id, times=GREEDY_REQUESTS)
        most_bytes = before_bytes
        for _ in range(10):
            await asyncio.sleep(0.5)
            most_bytes = max(most_bytes, memory_bytes(own_system))
            assert await visitor.told(job_id) == told
        for line in greedy:
            with contextlib.suppress(ConnectionError):
                heard = await line.read_until_closed()
                assert heard.count(b"HTTP/1.1 200") < GREEDY_REQUESTS, "it was never cut"
    assert most_bytes - before_bytes < 40 * MEGABYTE, f"{(most_bytes - before_bytes) / MEGABYTE:.0f} MB"


async def test_all_readers_of_one_job_are_told_the_same(visitor: Visitor) -> None:
    """Many at once, some of whom keep leaving and coming back."""
    job = await visitor.begin()
    async with contextlib.AsyncExitStack() as streams:
        most = len(await _fill(visitor, job.id, streams))
    await asyncio.sleep(1)

    async def read(hops: int) -> list[Event]:
        heard: list[Event] = []
        for _ in range(hops):
            async with visitor.watching(job.id, heard[-1].id if heard else None) as stream:
                assert stream.status == 200
                event = await stream.event()
                assert event is not None
                heard.append(event)
        return heard + await visitor.told(job.id, heard[-1].id if heard else None)

    async with asyncio.TaskGroup() as reading:
        # Half of them, because whoever hops holds two places for a moment.
        readers = [reading.create_task(read(number % 4)) for number in range(most // 2)]
        await asyncio.sleep(0.5)
        reading.create_task(job.send())
    told = await visitor.told(job.id)
    check_whole_story(told, job.id)
    for reader in readers:
        assert reader.result() == told


async def test_readers_of_many_jobs_hear_only_of_their_own(service: Service) -> None:
    """Ten people, ten jobs, at the same time."""

    async def watch_one() -> None:
        async with visiting(service.base_url) as visitor:
            job_id, told = await visitor.heard_live()
            check_whole_story(told, job_id)

    async with asyncio.TaskGroup() as people:
        for _ in range(10):
            people.create_task(watch_one())


async def _events(line: Connection) -> list[Event]:
    """What is left to be read of an HTTP/1.0 answer."""
    _, _, body = (await line.read_until_closed()).partition(b"\r\n\r\n")
    return [item for item in Decoder().feed(body) if isinstance(item, Event)]
