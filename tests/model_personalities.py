"""Model servers that behave as a provider's models do: what they accept, refuse, think and bill.

async with LUNA.serving() as server:
    server.url      to be used as OPENAI_BASE_URL
    server.bodies   what each call sent
    server.shutdown_date = "2027-01-14"
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.loopback import served

INPUT_TOKENS = 1200
ANSWER_TOKENS = 60
ANSWER = json.dumps(
    {
        "items": [
            {
                "name": "PET bottle",
                "category": "recyclable",
                "material": "clear_pet",
                "confidence": 0.93,
                "condition": ["has_label"],
            }
        ],
        "answer": None,
    }
)
FIELDS = {"model", "messages", "response_format", "max_completion_tokens"}


class Refused(Exception):
    """A 400, worded as OpenAI does."""

    def __init__(self, message: str, parameter: str, code: str) -> None:
        super().__init__(message)
        self.error = {"message": message, "type": "invalid_request_error", "param": parameter, "code": code}


@dataclass(frozen=True)
class Personality:
    """`thinks_tokens`: what each effort spends on reasoning; empty for a model without reasoning. Without the
    field it makes its `own_effort`."""

    model: str
    thinks_tokens: Mapping[str, int] = field(default_factory=dict)
    own_effort: str | None = None
    takes_max_tokens: bool = False

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[PersonalityServer]:
        server = PersonalityServer(self)
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", server.complete)
        app.router.add_get("/v1/models/{model}", server.tell)
        async with served(app) as url:
            server.url = f"{url}/v1"
            yield server

    def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The completion, reasoned, cut and billed. Raises Refused."""
        self._check(body)
        effort = body.get("reasoning_effort", self.own_effort)
        most = min(body.get("max_completion_tokens", 10**6), body.get("max_tokens", 10**6))
        reasoning = min(self.thinks_tokens.get(effort, 0), most)
        written = min(ANSWER_TOKENS, most - reasoning)
        is_whole = written == ANSWER_TOKENS
        text = ANSWER if is_whole else ANSWER[: len(ANSWER) * written // ANSWER_TOKENS]
        message = {"role": "assistant", "content": text, "refusal": None}
        return {
            "id": "chatcmpl-personality",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": self.model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop" if is_whole else "length"}],
            "usage": {
                "prompt_tokens": INPUT_TOKENS,
                "completion_tokens": reasoning + written,
                "total_tokens": INPUT_TOKENS + reasoning + written,
                "completion_tokens_details": {"reasoning_tokens": reasoning},
            },
        }

    def _check(self, body: Mapping[str, Any]) -> None:
        if "max_tokens" in body and not self.takes_max_tokens:
            raise Refused(
                "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens' instead.",
                "max_tokens",
                "unsupported_parameter",
            )
        effort = body.get("reasoning_effort")
        if "reasoning_effort" in body and self.thinks_tokens and effort not in self.thinks_tokens:
            accepted = ", ".join(repr(name) for name in self.thinks_tokens)
            raise Refused(
                f"Unsupported value: 'reasoning_effort' does not support {effort!r} with this model. "
                f"Supported values are: {accepted}.",
                "reasoning_effort",
                "unsupported_value",
            )
        known = FIELDS | {"max_tokens"} | ({"reasoning_effort"} if self.thinks_tokens else set())
        for name in body:
            if name not in known:
                raise Refused(
                    f"Unrecognized request argument supplied: {name}", name, "unsupported_parameter"
                )
        asked = body["response_format"]
        if asked["type"] != "json_schema" or asked["json_schema"]["strict"] is not True:
            raise Refused("Only strict schemas here.", "response_format", "unsupported_value")
        if not _is_strict(asked["json_schema"]["schema"]):
            raise Refused("Invalid schema for response_format.", "response_format", "invalid_json_schema")


class PersonalityServer:
    def __init__(self, personality: Personality) -> None:
        self.personality = personality
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        self.shutdown_date: object = None

    async def complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        if body["model"] != self.personality.model:
            return self._unknown(body["model"])
        try:
            return web.json_response(self.personality.answer(body))
        except Refused as refusal:
            return web.json_response({"error": refusal.error}, status=400)

    async def tell(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        if name != self.personality.model:
            return self._unknown(name)
        return web.json_response({"id": name, "object": "model", "shutdown_date": self.shutdown_date})

    def _unknown(self, name: str) -> web.Response:
        error = {"message": f"The model `{name}` does not exist.", "type": "invalid_request_error"}
        return web.json_response({"error": {**error, "param": None, "code": "model_not_found"}}, status=404)


def _is_strict(schema: object) -> bool:
    """Every object requires all its fields and allows no others."""
    if isinstance(schema, list):
        return all(_is_strict(item) for item in schema)
    if not isinstance(schema, dict):
        return True
    closed = schema.get("type") != "object" or (
        schema.get("additionalProperties") is False and schema["required"] == list(schema["properties"])
    )
    return closed and all(_is_strict(item) for item in schema.values())


# Reasons unless told not to, and then spends more than a short cap allows.
LUNA = Personality(
    "gpt-6-luna",
    thinks_tokens={"none": 0, "low": 400, "medium": 2_000, "high": 6_000, "xhigh": 12_000, "max": 20_000},
    own_effort="medium",
)
# Does not reason, and refuses to hear of it.
GPT_4O = Personality("gpt-4o", takes_max_tokens=True)
