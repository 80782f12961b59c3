"""One photo with each kind of vision model: one that reasons unless told not to, and one that cannot."""

from __future__ import annotations

import re

import pytest

from tests.e2e.client import Client, browsing
from tests.e2e.photos import drawn
from tests.e2e.system import running_system
from tests.model_personalities import ANSWER_TOKENS, GPT_4O, INPUT_TOKENS, LUNA, Personality


@pytest.mark.parametrize("personality", [LUNA, GPT_4O], ids=lambda personality: personality.model)
async def test_photo_is_done_with_one_call_that_bills_no_thinking(
    parts: dict[str, str], personality: Personality
) -> None:
    """Only the model's name is set; what it must be sent growbin knows."""
    async with (
        personality.serving() as server,
        running_system(parts, OPENAI_BASE_URL=server.url, OPENAI_MODEL=personality.model) as system,
        browsing(system.base_url) as client,
    ):
        result = await client.result(await client.submit(drawn("JPEG")))
        page = (await client.call("GET", "/")).body
    assert len(server.bodies) == 1
    assert re.search(r'<html [^>]*data-questions="yes"', page)
    assert result["model"] == personality.model
    assert result["items"][0]["material"] == "clear_pet"
    assert (result["usage"]["input_tokens"], result["usage"]["output_tokens"]) == (
        INPUT_TOKENS,
        ANSWER_TOKENS,
    )


async def test_page_of_a_model_that_answers_no_question_takes_none(client: Client) -> None:
    """With the embedded model, which sees and does not talk, the page is told so before any photo is sent."""
    page = (await client.call("GET", "/")).body
    assert re.search(r'<html [^>]*data-questions="no"', page)
    assert 'data-questions="yes"' not in page
