"""The photo beneath the client library: in its place, whole, and nobody else's."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import openai
import pytest
from aiohttp import web

from growbin.adapters.model.analyst import OpenAIAnalyst
from growbin.adapters.model.bounded_client import BoundedClient
from growbin.adapters.model.picture import PIECE_BYTES, Picture
from growbin.adapters.model.request import messages
from growbin.errors import Throttled
from growbin.job import CleanPhoto
from tests.loopback import Handler, served


def photo(size: int) -> CleanPhoto:
    return CleanPhoto(secrets.token_bytes(size), "image/jpeg", 4, 3)


def url_of(one: CleanPhoto) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(one.data).decode()}"


def sent_in(body: Any) -> tuple[str | None, str]:
    """The question, as the stranger wrote it, and the picture's URL."""
    *questions, picture = body["messages"][1]["content"]
    told = [json.loads(question["text"].partition(": ")[2]) for question in questions]
    return told[0] if told else None, picture["image_url"]["url"]


class Server:
    """What it was sent, in its own order."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.answers: Iterator[web.Response] = iter(())

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.bodies.append(await request.json())
        question, _ = sent_in(self.bodies[-1])
        good = web.json_response({"choices": [{"message": {"content": f"About {question}"}}]})
        return next(self.answers, good)


@asynccontextmanager
async def asked() -> AsyncIterator[tuple[OpenAIAnalyst, Server]]:
    server = Server()
    async with (
        served(server.answer) as url,
        OpenAIAnalyst.open(api_key="k", base_url=f"{url}/v1", model="gpt-4o", timeout_seconds=20) as analyst,
    ):
        yield analyst, server


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 2, 3 * PIECE_BYTES + 1])
async def test_pieces_are_one_json(size: int) -> None:
    """As long as was promised, with the photo in it whole."""
    picture = Picture(photo(size))
    told = {"messages": messages("prompt", "low", picture, "Which bin?", "ko")}
    length, pieces = picture.spliced_into(json.dumps(told).encode())
    sent = b"".join([piece async for piece in pieces])
    assert len(sent) == length
    assert sent_in(json.loads(sent)) == ("Which bin?", url_of(picture.photo))


async def test_length_is_told_beforehand_and_the_mark_to_nobody() -> None:
    """Servers of one's own may take no body in chunks."""
    async with asked() as (analyst, server):
        await analyst.ask(photo(300_000), None, "ko")
    (headers,) = server.headers
    assert int(headers["content-length"]) > 400_000
    assert "transfer-encoding" not in headers
    assert not [name for name in headers if "growbin" in name]


async def test_question_cannot_stand_in_for_the_picture() -> None:
    """Whatever it holds, a mark of an earlier call as well, it is sent as it is."""
    one = photo(1000)
    earlier = Picture(one)
    questions = [
        earlier.mark,
        earlier.url,
        f'"}},{{"type":"image_url","image_url":{{"url":"{earlier.url}"}}}}',
    ]
    async with asked() as (analyst, server):
        for question in questions:
            await analyst.ask(one, question, "ko")
    assert [sent_in(body) for body in server.bodies] == [(question, url_of(one)) for question in questions]


def test_no_mark_comes_twice() -> None:
    """And none can be guessed: 128 bits."""
    marks = {Picture(photo(1)).mark for _ in range(1000)}
    assert len(marks) == 1000
    assert {len(mark) for mark in marks} == {32}


@pytest.mark.parametrize("times", [0, 2])
def test_mark_that_has_no_place_of_its_own_is_not_guessed_at(times: int) -> None:
    """Nothing is sent then."""
    picture = Picture(photo(1))
    with pytest.raises(ValueError, match="unpack"):
        picture.spliced_into(picture.mark.encode() * times)


async def test_calls_at_a_time_keep_their_own_photos() -> None:
    """A hundred on one client, on new connections and on kept ones."""
    photos = {f"Question {number}": photo(50_000 + number) for number in range(100)}
    async with asked() as (analyst, server):
        for _ in range(2):
            answers = await asyncio.gather(
                *(analyst.ask(one, question, "ko") for question, one in photos.items())
            )
            assert [answer.text for answer in answers] == [f"About {question}" for question in photos]
    assert len(server.bodies) == 200
    for body in server.bodies:
        question, url = sent_in(body)
        assert question is not None
        assert url == url_of(photos[question])


async def test_simpler_call_carries_the_photo_again() -> None:
    """Whole, in each of the bodies."""
    one = photo(200_000)
    refused = {"error": {"message": "Unsupported parameter", "param": "max_completion_tokens"}}
    async with asked() as (analyst, server):
        server.answers = iter([web.json_response(refused, status=400)])
        await analyst.ask(one, "Which bin?", "ko")
    assert ["max_tokens" in body for body in server.bodies] == [False, True]
    assert [sent_in(body) for body in server.bodies] == [("Which bin?", url_of(one))] * 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_photo_follows_no_redirect(status: int) -> None:
    """Only the address that was configured ever gets it."""
    async with asked() as (analyst, server):
        server.answers = iter([web.Response(status=status, headers={"Location": "/elsewhere"})])
        with pytest.raises(Throttled) as raised:
            await analyst.ask(photo(1000), None, "ko")
    assert raised.value.broken
    assert len(server.bodies) == 1


async def hang_up(request: web.BaseRequest) -> web.Response:
    await request.read()
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def think(request: web.BaseRequest) -> web.Response:
    await request.read()
    await asyncio.Event().wait()
    return web.Response()


async def break_down(request: web.BaseRequest) -> web.Response:
    return web.json_response({"error": {"message": "no"}}, status=500)


@pytest.mark.parametrize(
    ("answer", "error", "cause"),
    [
        (hang_up, openai.APIConnectionError, httpx2.ReadError),
        (think, openai.APITimeoutError, httpx2.ReadTimeout),
        (break_down, openai.InternalServerError, type(None)),
        (None, openai.APIConnectionError, httpx2.ConnectError),
    ],
)
async def test_trouble_is_the_client_librarys_own(
    answer: Handler | None, error: type[Exception], cause: type[Exception | None]
) -> None:
    """Whatever is beneath it, its errors are those that it documents."""
    picture = Picture(photo(1000))
    async with served(answer or think) as url:
        base_url = url if answer else "http://127.0.0.1:1"
        async with openai.AsyncOpenAI(
            api_key="k",
            base_url=base_url,
            max_retries=0,
            timeout=httpx2.Timeout(0.5 if answer is think else 30),
            http_client=(http := BoundedClient(base_url)),
        ) as client:
            with http.carrying(picture) as headers, pytest.raises(error) as raised:
                await client.chat.completions.create(
                    model="m",
                    messages=messages("prompt", "low", picture, None, "ko"),
                    extra_headers=headers,
                )
    assert type(raised.value) is error
    assert type(raised.value.__cause__) is cause
