"""A part that is away is told beside the story, which stays as it is."""

from __future__ import annotations

import asyncio

import pytest

from tests.stream_conformance.scripted_model import ScriptedModel
from tests.stream_conformance.story import check_whole_story
from tests.stream_conformance.visitor import Visitor
from tests.stream_conformance.wire import Notice

TOLD_SECONDS = 30.0
AGAIN_SECONDS = 6.0  # in which one that is told again and again would be


@pytest.mark.own_service
async def test_part_that_is_away_is_told_once_and_outside_the_story(
    visitor: Visitor, model: ScriptedModel
) -> None:
    """On the job's stream and on the session's. The story has no gap, and goes on after its last id."""
    model.is_away = True
    try:
        job_id = await visitor.submit()
        async with visitor.watching(job_id) as stream, visitor.watching(None) as session:
            before = await stream.until_stage("analysing")
            await session.until_stage("analysing")
            for one in (stream, session):
                async with asyncio.timeout(TOLD_SECONDS):
                    while not one.notices:
                        assert await one.is_silent(1)
            assert await stream.is_silent(AGAIN_SECONDS)
            assert await session.is_silent(1)
            for notices in (stream.notices, session.notices):
                check_notices(notices)
            assert stream.notices[0].data["job_id"] == job_id
            model.is_away = False
            after = await stream.rest()
    finally:
        model.is_away = False
    check_whole_story([*before, *after], job_id)
    assert await visitor.told(job_id, before[-1].id) == after
    assert await visitor.told(job_id) == [*before, *after]


def check_notices(notices: list[Notice]) -> None:
    assert [notice.data["part"] for notice in notices] == ["model"]
    assert notices[0].data["message"]
    assert notices[0].data["since"].endswith("Z")
