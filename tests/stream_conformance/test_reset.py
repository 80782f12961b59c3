"""Ids that are in no log: a `reset` with the whole state, never silence and never a wrong continuation."""

from __future__ import annotations

import asyncio

import pytest

from tests.stream_conformance.forgeries import FORGERIES, IN_HEADERS
from tests.stream_conformance.open_stream import Way
from tests.stream_conformance.story import check_event, check_telling, check_whole_story
from tests.stream_conformance.visitor import Visitor
from tests.stream_conformance.wire import Event

BY_EACH_WAY = [*(("query", name) for name in FORGERIES), *(("header", name) for name in IN_HEADERS)]


async def _check_reset(visitor: Visitor, job_id: str, told: list[Event], last_id: str, way: Way) -> None:
    events = await visitor.told(job_id, last_id, way=way)
    assert events[0].name == "reset", list(map(str, events))
    assert [event.name for event in events[1:] if event.name == "reset"] == []
    check_event(events[0], job_id)
    assert events[-1] == told[-1]
    assert sum(event.ends for event in events) == 1


@pytest.mark.parametrize(("way", "forgery"), BY_EACH_WAY)
async def test_unknown_id_of_an_ended_job_gets_reset_and_the_end(
    visitor: Visitor, way: Way, forgery: str
) -> None:
    """The snapshot, and then the terminal event once more: no other place says that it was the last."""
    job_id, told = await visitor.finished()
    await _check_reset(visitor, job_id, told, FORGERIES[forgery](told[2].id), way)


async def test_id_of_another_job_is_unknown(visitor: Visitor) -> None:
    """Also when that job is the same person's, and at the same place of its story."""
    (job_id, told), (_, others) = await visitor.finished(), await visitor.finished()
    for event in others:
        await _check_reset(visitor, job_id, told, event.id, "header")


@pytest.mark.parametrize("forgery", ["nonsense", "last letter changed", "numbers grown", "number zero"])
async def test_unknown_id_of_a_running_job_gets_a_snapshot_and_what_follows_it(
    visitor: Visitor, forgery: str
) -> None:
    """`reset` is the present; the live events join it without gap or repeat, up to one terminal."""
    job, first = await visitor.begun()
    async with (
        visitor.watching(job.id, FORGERIES[forgery](first.id)) as stream,
        asyncio.TaskGroup() as sending,
    ):
        snapshot = await stream.event()
        assert snapshot is not None
        assert snapshot.name == "reset"
        assert snapshot.data == first.data
        sending.create_task(job.send())
        rest = await stream.rest()
    check_telling([snapshot, *rest], job.id)
    check_whole_story([first, *rest], job.id)


async def test_line_cut_right_after_a_reset_loses_nothing(visitor: Visitor) -> None:
    """Who has seen only the `reset` comes back with its id, and is told what follows it."""
    job, first = await visitor.begun()
    async with visitor.watching(job.id, "nonsense") as stream:
        snapshot = await stream.event()
    assert snapshot is not None
    async with visitor.watching(job.id, snapshot.id) as stream, asyncio.TaskGroup() as sending:
        assert await stream.is_silent(for_seconds=1)
        sending.create_task(job.send())
        rest = await stream.rest()
    check_whole_story([first, *rest], job.id)


async def test_line_cut_between_reset_and_end_still_reaches_the_end(visitor: Visitor) -> None:
    """The snapshot of an ended job does not count as its terminal event, however often the line breaks."""
    job_id, told = await visitor.finished()
    last_id = "nonsense"
    for _ in range(4):
        async with visitor.watching(job_id, last_id) as stream:
            assert stream.status == 200
            snapshot = await stream.event()
        assert snapshot is not None
        assert not snapshot.ends
        last_id = snapshot.id
    rest = await visitor.told(job_id, last_id)
    assert rest[-1] == told[-1]
    assert sum(event.ends for event in rest) == 1


@pytest.mark.parametrize("way", ["header", "query"])
async def test_absurdly_long_id_is_answered_and_harms_nobody(visitor: Visitor, way: Way) -> None:
    """100 kB of id: a reset or a plain refusal, while the stream beside it goes on."""
    job = await visitor.begin()
    async with visitor.watching(job.id) as neighbour, asyncio.TaskGroup() as sending:
        async with visitor.watching(job.id, "9" * 100_000, way=way) as stream:
            assert stream.status == 200 or 400 <= stream.status < 500
        sending.create_task(job.send())
        check_whole_story(await neighbour.rest(), job.id)
