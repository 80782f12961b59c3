"""A part that is away is told beside the story, which stays as it is."""

from __future__ import annotations

import pytest

from tests.stream_conformance.scripted_model import ScriptedModel
from tests.stream_conformance.story import check_whole_story
from tests.stream_conformance.visitor import Visitor
from tests.stream_conformance.wire import Notice

TOLD_SECONDS = 6.0  # from the part's first failure


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
            assert await stream.is_silent(TOLD_SECONDS)
            assert [event.data["stage"] for event in await session.until_stage("analysing")][-1]
            assert await session.is_silent(TOLD_SECONDS)
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
