"""The embedded model through the real OpenAI client, over real HTTP."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp.test_utils import TestServer
from openai.types.chat import ParsedChatCompletion
from PIL import Image

from growbin.embedded_model.classifier import Classifier, Look, Seen
from growbin.embedded_model.server import BODY_MAX_BYTES, EXCUSES, MODEL_ID, Prompt, analysis, build_app
from growbin.job import Analysis, Finding, Sorting
from growbin.taxonomy import Category, Condition

KEY = "local-key"
COFFEE_CUP = (Path(__file__).parents[2] / "examples" / "coffee-cup.jpg").read_bytes()
JPEG_URL = "data:image/jpeg;base64,"


@pytest.fixture(scope="module")
async def base_url() -> AsyncIterator[str]:
    async with TestServer(build_app(Classifier().look, KEY)) as server:
        yield str(server.make_url("/v1"))


@pytest.fixture(scope="module")
async def client(base_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=base_url, api_key=KEY, max_retries=0) as client:
        yield client


def photo_url(photo: bytes) -> str:
    return JPEG_URL + base64.b64encode(photo).decode()


def messages(url: str | None, language: str = "ko", question: str | None = None) -> Any:
    parts: list[dict[str, object]] = [{"type": "text", "text": question}] if question else []
    if url is not None:
        parts.append({"type": "image_url", "image_url": {"url": url}})
    system = f"Sort the waste in the photo.\nAnswer in: {language}\nUse the schema."
    return [{"role": "system", "content": system}, {"role": "user", "content": parts}]


async def ask(client: openai.AsyncOpenAI, *given: Any, **more: Any) -> ParsedChatCompletion[Analysis]:
    return await client.chat.completions.parse(
        model=MODEL_ID, messages=messages(*given, **more), response_format=Analysis
    )


async def test_coffee_cup_comes_back_as_an_analysis(client: openai.AsyncOpenAI) -> None:
    """The client's `parse` gets an Analysis that names the cup, in Korean, in OpenAI's own shape."""
    completion = await ask(client, photo_url(COFFEE_CUP))
    found = completion.choices[0].message.parsed
    assert found is not None
    cup = found.items[0]
    assert cup == Finding(
        name="머그컵", category=Category.NON_COMBUSTIBLE, material=None, confidence=cup.confidence
    )
    assert cup.confidence > 0.5
    assert found.answer is None
    assert (completion.object, completion.model) == ("chat.completion", MODEL_ID)
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert (
        completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    )


@pytest.mark.parametrize(("language", "name"), [("ko", "머그컵"), ("en", "cup")])
async def test_question_gets_an_honest_excuse_in_its_language(
    client: openai.AsyncOpenAI, language: str, name: str
) -> None:
    """The line `Answer in:` chooses the language; a question is never answered with an invention."""
    completion = await ask(client, photo_url(COFFEE_CUP), language, "May I wash it first?")
    found = completion.choices[0].message.parsed
    assert found is not None
    assert found.items[0].name == name
    assert found.answer == EXCUSES["en" if language == "en" else "ko"]


async def test_picture_that_shows_nothing_is_doubted(client: openai.AsyncOpenAI, tmp_path: Path) -> None:
    """The cause is named, and what it may be is left to the person."""
    Image.new("RGB", (320, 240), "black").save(tmp_path / "black.jpg")
    completion = await ask(client, photo_url((tmp_path / "black.jpg").read_bytes()))
    found = completion.choices[0].message.parsed
    assert found is not None
    assert found.doubt == "dark"
    assert len(found.choices) == 4


def test_what_is_no_waste_has_a_name_and_no_bin() -> None:
    """Nobody is told where to throw a dog."""
    dog = Seen({"ko": "개", "en": "dog"}, Sorting(category=Category.BULKY, material=None), 0.2)
    found = analysis(Look((dog,), "not_waste", (dog.place,)), Prompt("", "en", asks=False, characters=0))
    assert [(item.name, item.category) for item in found.items] == [("dog", Category.UNCLASSIFIED)]
    assert found.items[0].condition == [Condition.NOT_IDENTIFIABLE]
    assert (found.doubt, found.choices) == ("not_waste", [])


@pytest.mark.parametrize(
    ("url", "code"),
    [
        (None, None),
        ("https://example.com/photo.jpg", None),
        (JPEG_URL + "***", "invalid_base64"),
        (JPEG_URL + "사진", "invalid_base64"),
        (photo_url(b"not a picture"), "invalid_image"),
    ],
    ids=["no image", "address to fetch", "bad base64", "not even ASCII", "not a picture"],
)
async def test_unusable_image_is_refused(
    client: openai.AsyncOpenAI, url: str | None, code: str | None
) -> None:
    """Without one readable photo in the request the answer is 400, and nothing is fetched."""
    with pytest.raises(openai.BadRequestError) as refusal:
        await ask(client, url)
    assert refusal.value.code == code
    assert refusal.value.param == "messages"


async def test_wrong_key_is_refused(base_url: str) -> None:
    """A caller with another key is turned away before anything is read."""
    async with openai.AsyncOpenAI(base_url=base_url, api_key="another", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as refusal:
            await ask(stranger, photo_url(COFFEE_CUP))
    assert refusal.value.code == "invalid_api_key"


async def test_unknown_model_is_refused(client: openai.AsyncOpenAI) -> None:
    """Asking for another vendor's model is 404, so a wrong setting is noticed at once."""
    with pytest.raises(openai.NotFoundError) as refusal:
        await client.chat.completions.parse(
            model="gpt-4o", messages=messages(photo_url(COFFEE_CUP)), response_format=Analysis
        )
    assert refusal.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (json.dumps({"model": MODEL_ID, "messages": ["?"]}).encode(), 400),
        (json.dumps({"model": MODEL_ID, "messages": [], "stream": True}).encode(), 400),
        (bytes(BODY_MAX_BYTES + 1), 413),
    ],
    ids=["not JSON", "not an object", "no messages", "stream", "too large"],
)
async def test_malformed_request_is_refused_in_openais_shape(base_url: str, body: bytes, status: int) -> None:
    """Whatever is sent, the answer is OpenAI's error object with a message, never a traceback."""
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session,
        session.post(f"{base_url}/chat/completions", data=io.BytesIO(body)) as response,
    ):
        assert response.status == status
        error = (await response.json())["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]


async def test_models_are_listed(client: openai.AsyncOpenAI) -> None:
    """GET /v1/models names the one model."""
    assert [model.id async for model in client.models.list()] == [MODEL_ID]


async def test_process_serves_and_stops_cleanly() -> None:
    """The server answers /healthz without a key, and SIGTERM ends it with exit code 0."""
    program = (
        "import sys; from growbin.telemetry.logs import configure_logs;"
        "from growbin.embedded_model.server import main; configure_logs('info', 'json');"
        "sys.exit(main('127.0.0.1', 0, 'key'))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stderr=asyncio.subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        started = json.loads(await asyncio.wait_for(process.stderr.readline(), 30))
        assert started["event"] == "model_server_started"
        host, port = started["address"]
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{host}:{port}/healthz") as response,
        ):
            assert response.status == 200
        process.send_signal(signal.SIGTERM)
        _, rest = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    assert [json.loads(line)["event"] for line in rest.splitlines()] == ["model_server_stopped"]
