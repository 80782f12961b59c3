"""A chat-completions server that answers when the test says so; a word in the question names the job."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

from aiohttp import web

from tests.loopback import served

ANALYSIS = {
    "items": [
        {"name": "종이컵", "category": "recyclable", "material": "paper", "confidence": 0.9, "condition": []}
    ],
    "answer": None,
}


class ScriptedModel:
    """At once and well, unless it is away for everybody, or a word in the question is known here."""

    def __init__(self) -> None:
        self.is_away = False
        self._gates: dict[str, asyncio.Event] = {}
        self._stumbles: set[str] = set()
        self.asked: list[tuple[str, str]] = []  # each call's model and Authorization

    def hold(self, word: str) -> asyncio.Event:
        """Questions with this word are answered once the event is set."""
        return self._gates.setdefault(word, asyncio.Event())

    def stumble(self, word: str) -> None:
        """The next question with this word meets a server error."""
        self._stumbles.add(word)

    def release_all(self) -> None:
        for gate in self._gates.values():
            gate.set()

    async def _answer(self, request: web.Request) -> web.Response:
        question = await request.text()
        self.asked.append((json.loads(question)["model"], request.headers.get("Authorization", "")))
        if self.is_away:
            return web.json_response({"error": {"message": "away"}}, status=500)
        if word := next((word for word in self._stumbles if word in question), None):
            self._stumbles.remove(word)
            return web.json_response({"error": {"message": "try later"}}, status=500)
        for word, gate in list(self._gates.items()):
            if word in question:
                await gate.wait()
        message = {"role": "assistant", "content": json.dumps(ANALYSIS, ensure_ascii=False)}
        return web.json_response(
            {
                "id": "scripted",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": "scripted",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 40, "total_tokens": 140},
            }
        )

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Yields the address to be used as OPENAI_BASE_URL."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self._answer)
        async with served(app) as url:
            yield f"{url}/v1"
