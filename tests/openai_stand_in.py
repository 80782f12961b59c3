"""A strict stand-in of OpenAI's chat completions: it takes only what the published schema allows, and bills.

async with StandIn(GPT_4O, calls_per_minute=60).serving() as provider:
    provider.url          to be used as OPENAI_BASE_URL
    provider.bill_usd     what all answers cost, exactly
    provider.calls        each with its tokens and dollars

The schema is the one from which the provider's own client is made (the `openai` package). A picture is
counted by the published formula: 85 tokens in low detail; in high, fitted into 2,048 pixels, then scaled to a
shortest side of 768, so many for each tile of 512 (`GPT_4O_MINI` counts more of them, for less each). Four
characters of text are a token, which only stands in for a tokenizer. A beginning that was sent before is
billed as cached, from 1,024 tokens on, in steps of 128. No real key was ever used.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import math
import time
import typing
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from aiohttp import web
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from tests.loopback import served
from tests.model_personalities import ANSWER

SCHEMA: TypeAdapter[Any] = TypeAdapter(CompletionCreateParamsNonStreaming)
FIELDS = frozenset(typing.get_type_hints(CompletionCreateParamsNonStreaming))
FITTED, SHORTEST, TILE = 2048, 768, 512  # pixels
CHARACTERS_OF_A_TOKEN = 4
CACHED_FROM, CACHED_STEP = 1024, 128  # tokens
MILLION = 1_000_000


@dataclass(frozen=True)
class Tariff:
    """Dollars for a million tokens, and tokens for a picture."""

    model: str
    input: Decimal
    cached: Decimal
    output: Decimal
    picture_tokens: int
    tile_tokens: int

    def tokens_of_picture(self, width: int, height: int, detail: str) -> int:
        if detail == "low":
            return self.picture_tokens
        scale = min(1.0, FITTED / max(width, height))
        scale *= min(1.0, SHORTEST / (min(width, height) * scale))
        tiles = math.ceil(round(width * scale) / TILE) * math.ceil(round(height * scale) / TILE)
        return self.picture_tokens + self.tile_tokens * tiles


GPT_4O = Tariff("gpt-4o", Decimal("2.50"), Decimal("1.25"), Decimal("10.00"), 85, 170)
GPT_4O_MINI = Tariff("gpt-4o-mini", Decimal("0.15"), Decimal("0.075"), Decimal("0.60"), 2833, 5667)


@dataclass(frozen=True)
class BilledCall:
    input_tokens: int
    cached_tokens: int
    picture_tokens: int
    output_tokens: int
    usd: Decimal
    key: str
    question: str
    began: float  # time.monotonic()


class Refused(Exception):
    """Answered as OpenAI does."""

    def __init__(
        self, status: int, message: str, code: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        self.error = {"message": message, "type": code, "param": None, "code": code}


@dataclass
class StandIn:
    """`answer` writes what the model says; `quota_usd` is what the account has, `calls_per_minute` it may."""

    tariff: Tariff = GPT_4O
    answer: Callable[[Mapping[str, Any]], str] = lambda _body: ANSWER
    seconds: Callable[[], float] = lambda: 0.0
    calls_per_minute: int | None = None
    quota_usd: Decimal | None = None
    url: str = ""
    calls: list[BilledCall] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)  # codes
    _began: list[float] = field(default_factory=list)
    _beginnings: set[str] = field(default_factory=set)

    @property
    def bill_usd(self) -> Decimal:
        return sum((call.usd for call in self.calls), Decimal(0))

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[StandIn]:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self._complete)
        async with served(app) as url:
            self.url = f"{url}/v1"
            yield self

    async def _complete(self, request: web.Request) -> web.Response:
        try:
            body = self._checked(await request.text(), request.headers.get("Authorization", ""))
            self._admit()
        except Refused as refused:
            self.refusals.append(str(refused.error["code"]))
            return web.json_response({"error": refused.error}, status=refused.status, headers=refused.headers)
        began = time.monotonic()
        await asyncio.sleep(self.seconds())
        text = self.answer(body)
        call = self._billed(body, text, request.headers["Authorization"].removeprefix("Bearer "), began)
        self.calls.append(call)
        return web.json_response(_completion(self.tariff.model, text, call))

    # --- what is taken

    def _checked(self, text: str, authorization: str) -> dict[str, Any]:
        if not authorization.startswith("Bearer ") or len(authorization) < len("Bearer sk-x"):
            raise Refused(401, "You didn't provide an API key.", "invalid_api_key")
        body = json.loads(text)
        if unknown := set(body) - FIELDS:
            raise Refused(400, f"Unrecognized request argument supplied: {min(unknown)}", "unknown_parameter")
        try:
            _exhausted(SCHEMA.validate_python(body))
        except ValidationError as error:
            place = ".".join(map(str, error.errors()[0]["loc"]))
            raise Refused(400, f"Invalid value at {place}", "invalid_value") from None
        if body["model"] != self.tariff.model:
            raise Refused(404, f"The model `{body['model']}` does not exist", "model_not_found")
        if "reasoning_effort" in body:
            raise Refused(400, "Unsupported parameter: 'reasoning_effort'", "unsupported_parameter")
        return dict(body)

    def _admit(self) -> None:
        now = time.monotonic()
        self._began = [at for at in self._began if at > now - 60]
        if self.calls_per_minute is not None and len(self._began) >= self.calls_per_minute:
            wait = math.ceil(self._began[0] + 60 - now)
            raise Refused(429, "Rate limit reached", "rate_limit_exceeded", {"Retry-After": str(wait)})
        if self.quota_usd is not None and self.bill_usd >= self.quota_usd:
            raise Refused(429, "You exceeded your current quota", "insufficient_quota")
        self._began.append(now)

    # --- what it costs

    def _billed(self, body: Mapping[str, Any], text: str, key: str, began: float) -> BilledCall:
        beginning = str(body["messages"][0]["content"])
        prompt, pictures, question = _tokens(beginning), 0, ""
        for message in body["messages"][1:]:
            for part in _parts(message["content"]):
                if part["type"] == "text":
                    prompt += _tokens(part["text"])
                    question += part["text"]
                else:
                    pictures += self._picture(part["image_url"])
        cached = 0
        if beginning in self._beginnings and _tokens(beginning) >= CACHED_FROM:
            cached = _tokens(beginning) // CACHED_STEP * CACHED_STEP
        self._beginnings.add(beginning)
        given, written = prompt + pictures, _tokens(text)
        usd = (
            (given - cached) * self.tariff.input + cached * self.tariff.cached + written * self.tariff.output
        )
        return BilledCall(given, cached, pictures, written, usd / MILLION, key, question, began)

    def _picture(self, told: Mapping[str, str]) -> int:
        with Image.open(io.BytesIO(base64.b64decode(told["url"].partition(",")[2]))) as picture:
            return self.tariff.tokens_of_picture(*picture.size, told.get("detail", "high"))


def _completion(model: str, text: str, call: BilledCall) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "refusal": None}
    return {
        "id": "chatcmpl-stand-in",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": f"{model}-2024-08-06",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": {
            "prompt_tokens": call.input_tokens,
            "completion_tokens": call.output_tokens,
            "total_tokens": call.input_tokens + call.output_tokens,
            "prompt_tokens_details": {
                "cached_tokens": call.cached_tokens,
                "image_tokens": call.picture_tokens,
            },
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


def _parts(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _tokens(text: str) -> int:
    return math.ceil(len(text) / CHARACTERS_OF_A_TOKEN)


def _exhausted(value: Any) -> None:
    """Lists are validated only as they are read."""
    if isinstance(value, dict):
        for item in value.values():
            _exhausted(item)
    elif not isinstance(value, str | bytes | int | float | None):
        for item in value:
            _exhausted(item)
