"""A chat-completions server that does what it is told, and writes down every call.

    model.script("some-marker", RATE_LIMITED, ANSWER)   # the next calls for this job, then the default
    model.default = SERVER_ERROR                        # everybody's
    hold = model.hold("some-marker")                    # its next call waits
    await hold.reached(); ...; hold.release()

A job is known by its question, `case:<marker>`; a consumer by its API key, `sk-<consumer>-...`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

from growbin.local.child import draw_port

MODEL_NAME = "scripted-model"
PROBE = "probe"  # the marker of calls that are no job's
NEVER_SECONDS = 600.0
DRIP_SECONDS = 0.2
MARKER = re.compile(r"case:([\w.-]+)")

FINDINGS = {
    "items": [
        {
            "name": "PET bottle",
            "category": "recyclable",
            "material": "clear_pet",
            "confidence": 0.93,
            "condition": ["has_label"],
        }
    ],
    "answer": "Seen for <case>.",  # promises.py: an answer tells whose it is
}


@dataclass(frozen=True)
class Reply:
    """What one call gets. `manner`: answer; silence (never a byte); drip (a space now and then, never an
    end); reset (RST after the request was read)."""

    status: int = 200
    content: str | None = json.dumps(FINDINGS)  # the message's text
    refusal: str | None = None
    body: str | None = None  # instead of a completion
    headers: Mapping[str, str] = field(default_factory=dict)
    manner: Literal["answer", "silence", "drip", "reset"] = "answer"


def refused(status: int, code: str, retry_after_seconds: float | None = None) -> Reply:
    """An error as OpenAI words it."""
    body = json.dumps({"error": {"message": f"no: {code}", "type": code, "param": None, "code": code}})
    headers = {} if retry_after_seconds is None else {"Retry-After": f"{retry_after_seconds:g}"}
    return Reply(status, body=body, headers=headers)


ANSWER = Reply()
RATE_LIMITED = refused(429, "rate_limit_exceeded")
QUOTA_EMPTY = refused(429, "insufficient_quota")
BAD_KEY = refused(401, "invalid_api_key")
SERVER_ERROR = refused(500, "server_error")
SILENCE = Reply(manner="silence")
DRIP = Reply(manner="drip")
RESET = Reply(manner="reset")
GARBAGE = Reply(body="<html>Bad gateway</html>", headers={"Content-Type": "text/html"})
NONSENSE = Reply(content='{"items": "none"}')
REFUSAL = Reply(content=None, refusal="I cannot help with that.")


@dataclass
class Call:
    """One call as the model saw it. `paid`: it was given an HTTP 200 answer to the end, and listened."""

    marker: str
    consumer: str
    began: float
    ended: float | None = None
    status: int | None = None
    paid: bool = False


class Hold:
    """Keeps the next call of one job waiting."""

    def __init__(self) -> None:
        self._reached = asyncio.Event()
        self._released = asyncio.Event()

    async def reached(self, timeout_seconds: float = 30) -> None:
        async with asyncio.timeout(timeout_seconds):
            await self._reached.wait()

    def release(self) -> None:
        self._released.set()

    async def keep(self) -> None:
        self._reached.set()
        await self._released.wait()


class Model:
    def __init__(self) -> None:
        self.port = draw_port()
        self.calls: list[Call] = []
        self._calls_of: dict[str, list[Call]] = defaultdict(list)
        self.default: Reply = ANSWER
        self.delay_seconds: Callable[[str], float] = lambda _marker: 0.05
        self.canaries: set[bytes] = set()  # must not be in any photo it is given
        self.leaks: list[str] = []
        self._scripts: dict[str, deque[Reply]] = defaultdict(deque)
        self._holds: dict[str, deque[Hold]] = defaultdict(deque)
        self._runner: web.AppRunner | None = None

    def script(self, marker: str, *replies: Reply) -> None:
        self._scripts[marker].extend(replies)

    def hold(self, marker: str) -> Hold:
        hold = Hold()
        self._holds[marker].append(hold)
        return hold

    def calls_of(self, marker: str) -> list[Call]:
        return list(self._calls_of.get(marker, ()))

    def paid(self, marker: str) -> int:
        return sum(call.paid for call in self.calls_of(marker))

    def open_calls(self, consumer: str | None = None) -> int:
        return sum(call.ended is None and consumer in (None, call.consumer) for call in self.calls)

    async def __aenter__(self) -> Model:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self._complete)
        # A caller that leaves ends its call here as well: what was not delivered is not counted as paid.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, backlog=1024).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        for hold in (hold for holds in self._holds.values() for hold in holds):
            hold.release()
        await self._runner.cleanup()

    # --- one call

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        call = Call(_marker(body), key.removeprefix("sk-").rpartition("-")[0], time.monotonic())
        self.calls.append(call)
        self._calls_of[call.marker].append(call)
        self._look_for_canaries(call.marker, body)
        try:
            return await self._reply(request, call)
        except ConnectionError:  # the caller has gone in the middle of it
            return web.Response()
        finally:
            call.ended = time.monotonic()

    async def _reply(self, request: web.Request, call: Call) -> web.StreamResponse:
        script, holds = self._scripts.get(call.marker), self._holds.get(call.marker)
        reply = script.popleft() if script else self.default
        if holds:
            await holds.popleft().keep()
        await asyncio.sleep(self.delay_seconds(call.marker))
        if reply.manner == "silence":
            await asyncio.sleep(NEVER_SECONDS)
        if reply.manner == "reset" and request.transport is not None:
            request.transport.abort()
            await asyncio.sleep(NEVER_SECONDS)  # until the connection's end ends this call
        text = reply.body if reply.body is not None else _completion(reply, call.marker)
        headers = {"Content-Type": "application/json", **reply.headers}
        response = web.StreamResponse(status=reply.status, headers=headers)
        if reply.manner == "answer":
            response.content_length = len(text.encode())
        call.status = reply.status
        await response.prepare(request)
        while reply.manner == "drip":
            await response.write(b" ")
            await asyncio.sleep(DRIP_SECONDS)
        await response.write(text.encode())
        await response.write_eof()
        call.paid = reply.status == 200
        return response

    def _look_for_canaries(self, marker: str, body: Any) -> None:
        for data in _photos(body):
            if any(canary in data for canary in self.canaries):
                self.leaks.append(f"the photo of {marker} came to the model with its metadata")


def _marker(body: Any) -> str:
    text = " ".join(_texts(body))
    found = MARKER.search(text)
    return found[1] if found else PROBE if "This is a probe" in text else "unknown"


def _parts(body: Any) -> Iterable[Any]:
    for message in body["messages"]:
        if isinstance(message["content"], list):
            yield from message["content"]


def _texts(body: Any) -> Iterable[str]:
    return (part["text"] for part in _parts(body) if part["type"] == "text")


def _photos(body: Any) -> Iterable[bytes]:
    for part in _parts(body):
        if part["type"] == "image_url":
            yield base64.b64decode(part["image_url"]["url"].partition(",")[2])


def _completion(reply: Reply, marker: str) -> str:
    content = reply.content and reply.content.replace("<case>", marker)
    message = {"role": "assistant", "content": content, "refusal": reply.refusal}
    return json.dumps(
        {
            "id": f"chatcmpl-{marker}",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": MODEL_NAME,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
            "usage": {"prompt_tokens": 500, "completion_tokens": 60, "total_tokens": 560},
        }
    )
