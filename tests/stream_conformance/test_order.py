"""Every way a job can go, told in order and ended once."""

from __future__ import annotations

import asyncio

import pytest

from tests.e2e.system import running_system
from tests.stream_conformance.scripted_model import ScriptedModel
from tests.stream_conformance.story import STAGES, check_whole_story, stages
from tests.stream_conformance.visitor import Visitor, new_word, visiting

BROKEN_PHOTO = b"\xff\xd8\xff\xe0" + bytes(2000)


async def test_job_from_the_ticket_to_the_advice_is_told_stage_by_stage(visitor: Visitor) -> None:
    """Who listens from the beginning hears each stage once, in order, and then the result."""
    job_id, events = await visitor.heard_live()
    check_whole_story(events, job_id)
    assert stages(events) == [*STAGES, "done"]


async def test_latecomer_is_told_the_same_words(visitor: Visitor) -> None:
    """History and live events are byte for byte the same, also at the tenth time."""
    job_id, live = await visitor.heard_live()
    for _ in range(10):
        assert await visitor.told(job_id) == live


async def test_unreadable_photo_ends_in_failed(visitor: Visitor) -> None:
    """`failed` is a terminal event like the others, with a code, what to do, and whether to try again."""
    job = await visitor.begin()
    await job.send(BROKEN_PHOTO)
    events = await visitor.told(job.id)
    check_whole_story(events, job.id)
    assert events[-1].name == "failed"


async def test_cancel_before_the_upload_ends_the_open_stream(visitor: Visitor) -> None:
    """An open stream hears of the cancel, and ends."""
    job = await visitor.begin()
    async with visitor.watching(job.id) as stream:
        assert await stream.event() is not None
        await visitor.cancel(job.id)
        assert [event.name for event in await stream.rest()] == ["cancelled"]
    events = await visitor.told(job.id)
    check_whole_story(events, job.id)
    assert stages(events) == ["awaiting_upload", "cancelled"]


async def test_cancel_after_the_end_adds_nothing(visitor: Visitor) -> None:
    """Nothing follows a terminal event."""
    job_id, told = await visitor.finished()
    await visitor.cancel(job_id)
    assert await visitor.told(job_id) == told


@pytest.mark.own_service
async def test_cancel_in_mid_course_is_the_end_whatever_the_model_says(
    visitor: Visitor, model: ScriptedModel
) -> None:
    """A model that answers after the cancel cannot add to the story."""
    word = new_word()
    gate = model.hold(word)
    job_id = await visitor.submit(word)
    async with visitor.watching(job_id) as stream:
        heard = await stream.until_stage("analysing")
        await visitor.cancel(job_id)
        heard += await stream.rest()
    gate.set()
    check_whole_story(heard, job_id)
    assert heard[-1].name == "cancelled"
    await asyncio.sleep(1)
    assert await visitor.told(job_id) == heard


@pytest.mark.own_service
async def test_second_attempt_repeats_stages_but_never_goes_back(
    visitor: Visitor, model: ScriptedModel
) -> None:
    """After a stumble the stages come again with the next attempt's number; progress does not fall."""
    word = new_word()
    model.stumble(word)
    job_id = await visitor.submit(word)
    events = await visitor.told(job_id)
    check_whole_story(events, job_id)
    told = [(event.data["attempt"], event.data["stage"]) for event in events]
    assert told == [
        *((1, stage) for stage in ("awaiting_upload", "queued", "fetching", "analysing")),
        *((2, stage) for stage in ("fetching", "analysing", "advising", "done")),
    ]


@pytest.mark.own_service
async def test_job_without_upload_expires_in_its_open_stream(parts: dict[str, str]) -> None:
    """Who waits hears of the end in time, without asking again."""
    async with (
        running_system(parts, UPLOAD_WAIT_SECONDS="3", TICKET_SECONDS="2") as system,
        visiting(system.base_url) as visitor,
    ):
        job = await visitor.begin()
        events = await visitor.told(job.id)
        check_whole_story(events, job.id)
        assert stages(events) == ["awaiting_upload", "expired"]
