"""The embedded model behind OpenAI's chat-completions protocol, on loopback.

The consumer speaks to it exactly as it speaks to OpenAI: only the base URL, key and model differ.
    POST /v1/chat/completions   one photo as a `data:` URL, `response_format` of type json_schema;
                                the answer is a growbin Analysis, in the language of the system
                                message's line `Answer in: ko` or `Answer in: en` (ko without one)
    GET  /v1/models, /healthz
It fetches nothing, keeps nothing, and understands no text: a question gets an honest excuse.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import os
import re
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from growbin.embedded_model.classifier import Classifier, DamagedModel, Look
from growbin.embedded_model.pictures import UnreadablePhoto
from growbin.job import Analysis, Finding, Locale
from growbin.taxonomy import Category, Condition

log = structlog.get_logger()

MODEL_ID = "growbin-embedded"
BODY_MAX_BYTES = 20 * 1024 * 1024
SHUTDOWN_SECONDS = 5.0
# The usual rule of thumb for English. The photo is not cut into tokens, so it counts for nothing.
CHARACTERS_PER_TOKEN = 4

EXCUSES: dict[Locale, str] = {
    "ko": "이 모델은 사진 속 물건만 알아보고 질문에는 답하지 못해요. 안내를 참고해 주세요.",
    "en": "This model only recognises what is in the photo and cannot answer questions. See the advice.",
}

_ANSWER_IN = re.compile(r"^\s*Answer in: (ko|en)\s*$", re.MULTILINE)
_DATA_URL = re.compile(r"data:image/[a-z+.-]+;base64,", re.IGNORECASE)

LookAt = Callable[[bytes], Look]


class RequestRefused(Exception):
    """Answered in the shape of OpenAI's errors."""

    def __init__(self, status: int, message: str, *, parameter: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status = status
        self.message = message
        self.parameter = parameter
        self.code = code


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a chat-completions request asks of this model."""

    photo_url: str
    locale: Locale
    asks: bool
    characters: int


# --- the server ----------------------------------------------------------------------------------


def main(host: str, port: int, api_key: str) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Callers must send `api_key`, unless it is empty."""
    try:
        asyncio.run(serve(host, port, api_key))
    except (DamagedModel, ImportError, OSError) as error:  # ImportError: growbin[local] is missing
        log.error("model_server_failed", reason=str(error))
        return 1
    return 0


async def serve(host: str, port: int, api_key: str) -> None:
    """Serve until SIGTERM or SIGINT. Raises DamagedModel, and OSError when the port is taken."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    classifier = await asyncio.to_thread(Classifier)
    runner = web.AppRunner(
        build_app(classifier.look, api_key), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        log.info("model_server_started", model=MODEL_ID, address=runner.addresses[0][:2])
        await stopped.wait()
    finally:
        await runner.cleanup()
        log.info("model_server_stopped")


def build_app(look: LookAt, api_key: str = "") -> web.Application:
    """The application; with an `api_key` it asks every caller but /healthz for it."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if api_key and request.path != "/healthz":
                _check_key(request, api_key)
            return await handler(request)
        except RequestRefused as refusal:
            return _refused(refusal)
        except web.HTTPException as error:  # unknown route, wrong method, body too large
            return _refused(RequestRefused(error.status, error.reason))

    app = web.Application(middlewares=[guarded], client_max_size=BODY_MAX_BYTES)
    completions = _Completions(look)
    app.cleanup_ctx.append(completions.threads)
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/v1/models", _models)
    app.router.add_post("/v1/chat/completions", completions.create)
    return app


def _check_key(request: web.Request, api_key: str) -> None:
    given = request.headers.get("Authorization", "")
    if not hmac.compare_digest(given.encode(errors="surrogateescape"), f"Bearer {api_key}".encode()):
        raise RequestRefused(401, "Incorrect API key provided.", code="invalid_api_key")


def _refused(refusal: RequestRefused) -> web.Response:
    log.warning("request_refused", status=refusal.status, reason=refusal.message)
    error = {
        "message": refusal.message,
        "type": "invalid_request_error",
        "param": refusal.parameter,
        "code": refusal.code,
    }
    return web.json_response({"error": error}, status=refusal.status)


async def _healthz(_request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _models(_request: web.Request) -> web.Response:
    model = {"id": MODEL_ID, "object": "model", "created": 0, "owned_by": "growbin"}
    return web.json_response({"object": "list", "data": [model]})


class _Completions:
    """POST /v1/chat/completions. Decoding and inference run in threads, never on the loop."""

    def __init__(self, look: LookAt) -> None:
        self._look_at = look
        self._executor = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="classifier")

    async def threads(self, _app: web.Application) -> AsyncIterator[None]:
        yield
        self._executor.shutdown(cancel_futures=True)

    async def create(self, request: web.Request) -> web.Response:
        started = time.perf_counter()
        body = await request.read()
        loop = asyncio.get_running_loop()
        prompt, look = await loop.run_in_executor(self._executor, self._look, body)
        answer = analysis(look, prompt).model_dump_json()
        log.info(
            "photo_classified",
            best=look.seen[0].name["en"],
            confidence=round(look.seen[0].confidence, 3),
            doubt=look.doubt,
            duration_ms=round((time.perf_counter() - started) * 1000),
        )
        return web.json_response(completion(answer, prompt))

    def _look(self, body: bytes) -> tuple[Prompt, Look]:
        prompt = read_prompt(body)
        try:
            photo = base64.b64decode(prompt.photo_url.partition(",")[2], validate=True)
        except ValueError as error:
            raise RequestRefused(
                400, "The image is not valid base64.", parameter="messages", code="invalid_base64"
            ) from error
        try:
            return prompt, self._look_at(photo)
        except UnreadablePhoto as error:
            raise RequestRefused(
                400, f"The image cannot be used: {error}.", parameter="messages", code="invalid_image"
            ) from error


# --- the protocol --------------------------------------------------------------------------------


def read_prompt(body: bytes) -> Prompt:
    """The request's photo, language and length. Raises RequestRefused(400 | 404)."""
    try:
        request = json.loads(body)
    except ValueError as error:
        raise RequestRefused(400, "The body is not valid JSON.") from error
    if not isinstance(request, dict) or not isinstance(request.get("messages"), list):
        raise RequestRefused(400, "`messages` must be a list.", parameter="messages")
    if request.get("model") != MODEL_ID:
        raise RequestRefused(
            404, f"The only model here is `{MODEL_ID}`.", parameter="model", code="model_not_found"
        )
    if request.get("stream"):
        raise RequestRefused(400, "This model does not stream.", parameter="stream")
    asked_format = request.get("response_format")
    if not isinstance(asked_format, dict) or asked_format.get("type") != "json_schema":
        raise RequestRefused(
            400,
            "This model answers with growbin's Analysis only: ask for a `json_schema`.",
            parameter="response_format",
        )

    parts = list(_parts(request["messages"]))
    texts = [(role, part["text"]) for role, part in parts if isinstance(part.get("text"), str)]
    photos = [_photo_url(part) for _, part in parts if part.get("type") == "image_url"]
    if len(photos) != 1:
        raise RequestRefused(400, f"One image is needed, {len(photos)} were given.", parameter="messages")
    instructions = "\n".join(text for role, text in texts if role in ("system", "developer"))
    language = _ANSWER_IN.search(instructions)
    return Prompt(
        photo_url=photos[0],
        locale="en" if language and language[1] == "en" else "ko",
        asks=any(role == "user" and text.strip() for role, text in texts),
        characters=sum(len(text) for _, text in texts),
    )


def _parts(messages: list[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(role, part) of every message; a plain string counts as one text part."""
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
            raise RequestRefused(400, "Every message needs `role` and `content`.", parameter="messages")
        for part in content:
            yield str(message.get("role")), part


def _photo_url(part: dict[str, Any]) -> str:
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(url, str) or not _DATA_URL.match(url):
        raise RequestRefused(
            400,
            "`image_url` must hold a `data:image/...;base64,` URL: nothing is fetched.",
            parameter="messages",
        )
    return url


def analysis(look: Look, prompt: Prompt) -> Analysis:
    """What was seen as an Analysis. What is no waste has a name and no bin."""
    is_waste = look.doubt != "not_waste"
    findings = [
        Finding(
            name=seen.name[prompt.locale],
            category=seen.place.category if is_waste else Category.UNCLASSIFIED,
            material=seen.place.material if is_waste else None,
            confidence=round(seen.confidence, 4),
            condition=list(seen.condition) if is_waste else [Condition.NOT_IDENTIFIABLE],
        )
        for seen in look.seen
    ]
    return Analysis(
        items=findings,
        answer=EXCUSES[prompt.locale] if prompt.asks else None,
        doubt=look.doubt,
        choices=list(look.choices) if is_waste else [],
    )


def completion(answer: str, prompt: Prompt) -> dict[str, object]:
    """The `chat.completion` object around the answer's text."""
    prompt_tokens, completion_tokens = (
        -(-characters // CHARACTERS_PER_TOKEN) for characters in (prompt.characters, len(answer))
    )
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": MODEL_ID,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }
