"""Coming back with the last id: exactly what was missed, at every point where a line can break."""

from __future__ import annotations

import asyncio
import random
from itertools import cycle

import pytest

from tests.stream_conformance.conftest import Service
from tests.stream_conformance.open_stream import LAST_ID, Way
from tests.stream_conformance.scripted_model import ScriptedModel
from tests.stream_conformance.story import check_whole_story
from tests.stream_conformance.visitor import Visitor, new_word
from tests.stream_conformance.wire import Event


@pytest.mark.parametrize("way", ["header", "query"])
async def test_every_id_of_an_ended_job_is_followed_by_exactly_the_rest(visitor: Visitor, way: Way) -> None:
    """Each cut point of the whole story, with the id in the header or in the query."""
    job_id, told = await visitor.finished()
    check_whole_story(told, job_id)
    for place, event in enumerate(told[:-1], 1):
        assert await visitor.told(job_id, event.id, way=way) == told[place:]


@pytest.mark.parametrize("ways", [("header",), ("query",), ("header", "query")], ids="-".join)
async def test_reconnect_after_each_single_event_while_the_job_runs(
    visitor: Visitor, ways: tuple[Way, ...]
) -> None:
    """One event a connection, and still each event once and in order."""
    job = await visitor.begin()
    heard: list[Event] = []
    async with asyncio.TaskGroup() as sending:
        for way in cycle(ways):
            async with visitor.watching(job.id, heard[-1].id if heard else None, way=way) as stream:
                event = await stream.event()
            assert event is not None
            heard.append(event)
            if len(heard) == 1:
                sending.create_task(job.send())
            if event.ends:
                break
    check_whole_story(heard, job.id)
    assert await visitor.told(job.id) == heard


@pytest.mark.parametrize("way", ["header", "query"])
async def test_only_the_terminal_id_gets_204(visitor: Visitor, way: Way) -> None:
    """204 stops an EventSource for good, so it is for those alone who have seen the end."""
    job_id, told = await visitor.finished()
    for event in told:
        async with visitor.watching(job_id, event.id, way=way) as stream:
            assert stream.status == (204 if event.ends else 200)
    async with visitor.watching(job_id, told[-1].id, way=way) as stream:
        assert await stream.item() is None


async def test_header_goes_before_the_query(visitor: Visitor) -> None:
    """EventSource sends the newest id in the header, and goes on using the address it was made with."""
    job_id, told = await visitor.finished()
    for newest in (*told[2:], None):
        headers = {LAST_ID: newest.id} if newest else {}
        async with visitor.watching(job_id, told[1].id, way="query", headers=headers) as stream:
            place = told.index(newest or told[1])
            assert stream.status == (204 if newest == told[-1] else 200)
            assert await stream.rest() == told[place + 1 :]


async def test_empty_id_is_no_id(visitor: Visitor) -> None:
    """A client that has seen nothing yet may say so."""
    job_id, told = await visitor.finished()
    assert await visitor.told(job_id, "", way="header") == told
    assert await visitor.told(job_id, "", way="query") == told


async def test_reconnect_without_news_stays_silent_until_there_are_some(visitor: Visitor) -> None:
    """What was seen is not said again; the next event comes on the new line."""
    job, first = await visitor.begun()
    async with visitor.watching(job.id, first.id) as stream, asyncio.TaskGroup() as sending:
        assert stream.status == 200
        assert await stream.is_silent(for_seconds=1.5)
        sending.create_task(job.send())
        rest = await stream.rest()
    check_whole_story([first, *rest], job.id)


async def test_old_id_offered_while_the_job_runs_is_followed_by_all_since(
    visitor: Visitor, service: Service
) -> None:
    """History first, live events after it, and no seam between them, whatever the moment."""
    job, first = await visitor.begun()

    async def come_back(after_seconds: float) -> list[Event]:
        await asyncio.sleep(after_seconds)
        return await visitor.told(job.id, first.id)

    async with asyncio.TaskGroup() as clients:
        listening = [clients.create_task(come_back(0.02 * moment)) for moment in range(service.streams)]
        clients.create_task(job.send())
    told = await visitor.told(job.id)
    check_whole_story(told, job.id)
    for client in listening:
        assert client.result() == told[1:]


async def test_end_that_comes_while_the_stream_opens_is_not_missed(visitor: Visitor) -> None:
    """Between looking at the past and hearing the present there is no moment for an event to slip through."""
    chance = random.Random(4)

    async def cancel(job_id: str, after_seconds: float) -> None:
        await asyncio.sleep(after_seconds)
        await visitor.cancel(job_id)

    for _ in range(300):
        job = await visitor.begin()
        ahead = chance.uniform(-0.006, 0.006)
        async with asyncio.TaskGroup() as both:
            both.create_task(cancel(job.id, max(0.0, ahead)))
            await asyncio.sleep(max(0.0, -ahead))
            heard = await visitor.told(job.id)
        check_whole_story(heard, job.id)


@pytest.mark.own_service
async def test_line_cut_in_mid_analysis_is_taken_up_again(visitor: Visitor, model: ScriptedModel) -> None:
    """Each id known in mid-course is followed by the rest of the past, and then by the future."""
    word = new_word()
    gate = model.hold(word)
    job_id = await visitor.submit(word)
    async with visitor.watching(job_id) as stream:
        heard = await stream.until_stage("analysing")
    for place, event in enumerate(heard, 1):
        async with visitor.watching(job_id, event.id) as stream:
            for missed in heard[place:]:
                assert await stream.event() == missed
            assert await stream.is_silent(for_seconds=0.3)
    async with visitor.watching(job_id, heard[-1].id) as stream:
        gate.set()
        heard += await stream.rest()
    check_whole_story(heard, job_id)
