"""The page as a person sees it: Chromium, a real gateway and consumer, and a model that can be held."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    FilePayload,
    Locator,
    Page,
    async_playwright,
    expect,
)

from tests.browser import FLAGS, browser_path
from tests.e2e.photos import COFFEE_CUP
from tests.e2e.system import CountedModel, System, running_system

LONGEST_STEP_MS = 20_000
expect.set_options(timeout=LONGEST_STEP_MS)  # its own 5 s are what the page waits before it asks again


def file(content: bytes) -> FilePayload:
    """A file to choose, with the name of a photo whatever is in it."""
    return {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": content}


COFFEE = file(COFFEE_CUP.read_bytes())


class HeldModel(CountedModel):
    """A model server whose answers wait for as long as `is_answering` is not set."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.is_away = False
        self.is_answering = asyncio.Event()
        self.is_answering.set()

    async def _forward(self, request: web.Request) -> web.Response:
        if self.is_away:
            return web.json_response({"error": {"message": "away"}}, status=500)
        await self.is_answering.wait()
        return await super()._forward(request)

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """It fails everybody."""
        self.is_away = True
        try:
            yield
        finally:
            self.is_away = False

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        self.is_answering.clear()
        try:
            yield
        finally:
            self.is_answering.set()


class HostedModel(HeldModel):
    """A model server of somebody else: it says of every photo what `says` holds."""

    NAME = "gpt-4o"

    def __init__(self) -> None:
        super().__init__("")
        self.says: dict[str, Any] = {}

    async def _forward(self, request: web.Request) -> web.Response:
        await self.is_answering.wait()
        message = {"role": "assistant", "content": json.dumps(self.says), "refusal": None}
        completion = {
            "id": "chatcmpl-hosted",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": self.NAME,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 900, "completion_tokens": 60, "total_tokens": 960},
        }
        return web.json_response(completion)

    def sees(self, *items: dict[str, Any], **more: Any) -> None:
        """What it will say: `more` is `doubt`, `choices` or `answer`."""
        self.says = {"items": list(items), "answer": None, "doubt": None, "choices": [], **more}


def seen(
    name: str, category: str, material: str | None = None, *, confidence: float = 0.95
) -> dict[str, Any]:
    """One thing that a model found."""
    return {
        "name": name,
        "category": category,
        "material": material,
        "confidence": confidence,
        "condition": [],
    }


@dataclass
class Visit:
    """One person's browser on the page. What the console called an error is in `errors`."""

    page: Page
    context: BrowserContext
    errors: list[str]

    @property
    def card(self) -> Locator:
        """The newest photo's."""
        return self.page.locator(".job").first

    @property
    def finder(self) -> Locator:
        """The one beside the buttons for photos."""
        return self.page.locator("#find input")

    async def choose(self, *photos: FilePayload) -> None:
        await self.page.locator("#picture-files").set_input_files(photos)

    async def reaches(self, *stages: str) -> Locator:
        """The newest photo's card, once it is in one of these stages."""
        selector = ",".join(f".job:first-child[data-stage={stage}]" for stage in stages)
        card = self.page.locator(selector)
        await card.wait_for()
        return card

    def forget_lost_connections(self) -> None:
        """Chromium calls it an error when the network is away; here it was meant to be."""
        lost = ("net::ERR_", "503")
        self.errors[:] = [error for error in self.errors if not any(word in error for word in lost)]


Visiting = Callable[..., AbstractAsyncContextManager[Visit]]


@pytest_asyncio.fixture(scope="session")
async def model(parts: dict[str, str]) -> AsyncIterator[HeldModel]:
    yield HeldModel(parts["OPENAI_BASE_URL"])


@pytest_asyncio.fixture(scope="session")
async def system(parts: dict[str, str], model: HeldModel) -> AsyncIterator[System]:
    async with (
        model.serving() as model_url,
        running_system({**parts, "OPENAI_BASE_URL": model_url}) as running,
    ):
        yield running


@pytest_asyncio.fixture(scope="session")
async def hosted() -> HostedModel:
    return HostedModel()


@pytest_asyncio.fixture(scope="session")
async def hosted_system(parts: dict[str, str], hosted: HostedModel) -> AsyncIterator[System]:
    """Its model may be asked questions, and says what a test wants."""
    async with (
        hosted.serving() as url,
        running_system({**parts, "OPENAI_BASE_URL": url, "OPENAI_MODEL": hosted.NAME}) as running,
    ):
        yield running


@pytest_asyncio.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=browser_path(), args=FLAGS)
        yield running
        await running.close()


@pytest.fixture
def visiting(browser: Browser) -> Visiting:
    """`async with visiting(base_url) as visit:` opens the page as a newcomer; at the end the console must
    have been quiet."""

    @asynccontextmanager
    async def open_page(base_url: str, locale: str = "ko-KR", **wishes: object) -> AsyncIterator[Visit]:
        context = await browser.new_context(base_url=base_url, locale=locale, **wishes)  # type: ignore[arg-type]  # the wishes are the caller's
        context.set_default_timeout(LONGEST_STEP_MS)
        page = await context.new_page()
        visit = Visit(page, context, [])

        def note_console(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                visit.errors.append(f"{message.text} {message.location.get('url', '')}".rstrip())

        page.on("console", note_console)
        page.on("pageerror", lambda error: visit.errors.append(str(error)))
        await page.goto("/")
        yield visit
        await context.close()
        assert visit.errors == []

    return open_page


@pytest_asyncio.fixture
async def visit(visiting: Visiting, system: System) -> AsyncIterator[Visit]:
    """A Korean newcomer at a desk."""
    async with visiting(system.base_url) as newcomer:
        yield newcomer


@pytest_asyncio.fixture
async def hosted_visit(visiting: Visiting, hosted_system: System) -> AsyncIterator[Visit]:
    """The same person, where a hosted model looks."""
    async with visiting(hosted_system.base_url) as newcomer:
        yield newcomer
