"""Korean and English: messages, advice and the model's answer to a question."""

from __future__ import annotations

import re

from tests.e2e.client import Client, Event
from tests.e2e.photos import COFFEE_CUP
from tests.e2e.system import System

HANGUL = re.compile("[가-힣]")


async def story(client: Client, **wishes: object) -> list[Event]:
    job_id = await client.submit(COFFEE_CUP.read_bytes(), **wishes)
    return [event async for event in client.events(job_id)]


async def test_without_wish_everything_is_korean(client: Client) -> None:
    """Korean is the language of whoever asks for none."""
    events = await story(client)
    result = events[-1].data["result"]
    assert result["locale"] == "ko"
    assert all(HANGUL.search(event.data["message"]) for event in events)
    assert all(HANGUL.search(step) for item in result["items"] for step in item["steps"])
    assert HANGUL.search(result["items"][0]["bin"])


async def test_english_is_english_throughout(client: Client) -> None:
    """With locale en no Korean is left in messages, bins and steps."""
    events = await story(client, locale="en")
    result = events[-1].data["result"]
    assert result["locale"] == "en"
    assert all(event.data["message"] for event in events)
    assert not any(HANGUL.search(event.data["message"]) for event in events)
    assert not any(HANGUL.search(text) for item in result["items"] for text in [item["bin"], *item["steps"]])


async def test_browsers_language_counts_where_no_locale_is_given(client: Client) -> None:
    """Accept-Language chooses the language of the whole job."""
    headers = {"Accept-Language": "en-GB,en;q=0.9,ko;q=0.5"}
    ticket = (await client.call("POST", "/api/v1/waste/analyze", headers=headers)).body
    assert await client.put(ticket, COFFEE_CUP.read_bytes()) == 200
    assert (await client.complete(ticket["job_id"])).status == 202
    assert (await client.result(ticket["job_id"]))["locale"] == "en"


async def test_question_reaches_the_model(client: Client, system: System) -> None:
    """What the user asks goes to the model with the photo, in any script."""
    question = "이 컵은 어디에 버려요? And the lid?"
    await story(client, question=question)
    body = system.model.bodies[-1]
    assert question.encode() in body or question.encode("unicode_escape").split(b" ")[0] in body
