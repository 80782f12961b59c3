"""The clients that people use, as they come: npm's `eventsource` and `eventsource-parser`, and Chromium."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import async_playwright

from tests.browser import FLAGS, browser_path
from tests.e2e.photos import drawn
from tests.stream_conformance.conftest import Service
from tests.stream_conformance.proxy import Proxy
from tests.stream_conformance.scripted_model import ScriptedModel
from tests.stream_conformance.story import check_whole_story
from tests.stream_conformance.visitor import Visitor, new_word, visiting
from tests.stream_conformance.wire import Event

CLIENTS = Path(__file__).parent / "clients"
LONGEST_SECONDS = 40

BROWSER_SESSION = """async () => {
  const answer = await fetch("/api/v1/waste/analyze", {
    method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({question: %s}),
  });
  return await answer.json();
}"""
BROWSER_WATCH = """async (address) => {
  window.heard = [];
  window.opens = 0;
  const source = new EventSource(address);
  source.addEventListener("open", () => { window.opens += 1; });
  window.analysing = new Promise((reached) => {
    for (const name of ["progress", "done", "failed", "cancelled", "expired", "reset"])
      source.addEventListener(name, (event) => {
        window.heard.push({id: event.lastEventId, name, text: event.data});
        if (JSON.parse(event.data).stage === "analysing") reached();
      });
  });
  window.stopped = new Promise((done) => source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) done();
  }));
}"""


class Program:
    """A client that says what it heard, a line of JSON at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, script: str, *arguments: str) -> AsyncIterator[Program]:
        assert (CLIENTS / "node_modules").is_dir(), f"npm ci has not been run in {CLIENTS.name}/"
        process = await asyncio.create_subprocess_exec(
            "node", str(CLIENTS / script), *arguments, stdout=asyncio.subprocess.PIPE
        )
        try:
            yield cls(process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def line(self) -> dict[str, Any] | None:
        """The next line, or None at the end of the program."""
        assert self._process.stdout is not None
        async with asyncio.timeout(LONGEST_SECONDS):
            text = await self._process.stdout.readline()
        return json.loads(text) if text else None

    async def events(self, most: int = 1_000) -> list[Event]:
        """Up to `most` events; fewer at the program's end."""
        events: list[Event] = []
        while len(events) < most and (line := await self.line()) is not None:
            if "name" in line:
                events.append(Event(**line))
            assert "error" not in line, line
        return events


@pytest.mark.own_service
async def test_npm_eventsource_hears_all_through_a_cut_and_stops_at_204(
    visitor: Visitor, model: ScriptedModel
) -> None:
    """It reconnects by itself after a cut, misses nothing, and is stopped by the 204 after the end."""
    word = new_word()
    gate = model.hold(word)
    job_id = await visitor.submit(word)
    proxy = Proxy(visitor.base_url)
    async with proxy.serving() as at:
        url = visitor.events_url(job_id).replace(visitor.base_url, at)
        async with Program.running("eventsource.mjs", url, visitor.token) as program:
            heard = await program.events(most=4)
            assert heard[-1].data["stage"] == "analysing"
            proxy.cut_all()
            gate.set()
            while (line := await program.line()) is not None and "closed" not in line:
                if "name" in line:
                    heard.append(Event(**line))
            assert line == {"closed": 204}
    check_whole_story(heard, job_id)
    assert heard == await visitor.told(job_id)


async def test_npm_eventsource_parser_reads_what_was_sent(visitor: Visitor) -> None:
    """Parsed by others, fed byte by byte: the same events, one reconnect time, no complaint."""
    job_id, told = await visitor.finished()
    async with Proxy(visitor.base_url, piece_bytes=1).serving() as at:
        url = visitor.events_url(job_id).replace(visitor.base_url, at)
        async with Program.running("parser.mjs", url, visitor.token) as program:
            lines = []
            while (line := await program.line()) is not None:
                lines.append(line)
    assert [Event(**line) for line in lines if "name" in line] == told
    assert [2000 <= line["retry"] <= 4000 for line in lines if "retry" in line] == [True]
    assert lines[-1] == {"ended": True}
    assert not any("error" in line for line in lines)


@pytest.mark.own_service
async def test_chromium_hears_all_through_a_cut_and_stops_at_204(
    service: Service, model: ScriptedModel
) -> None:
    """A browser's own EventSource, with its cookie: cut in mid-course, whole at the end, then closed."""
    word = new_word()
    gate = model.hold(word)
    proxy = Proxy(service.base_url)
    async with (
        proxy.serving() as at,
        visiting(service.base_url) as uploader,
        async_playwright() as playwright,
    ):
        browser = await playwright.chromium.launch(executable_path=browser_path(), args=FLAGS)
        page = await browser.new_page()
        await page.goto(at)
        ticket = await page.evaluate(BROWSER_SESSION % json.dumps(word))
        await page.evaluate(BROWSER_WATCH, ticket["links"]["events"])
        assert await uploader.client.put(ticket, drawn("JPEG")) == 200
        await page.evaluate(
            "(address) => fetch(address, {method: 'POST'})", ticket["links"]["upload_complete"]
        )
        await page.evaluate("window.analysing")
        proxy.cut_all()
        gate.set()
        await page.evaluate("window.stopped")
        heard = [Event(**line) for line in await page.evaluate("window.heard")]
        assert await page.evaluate("window.opens") == 2
        await browser.close()
    check_whole_story(heard, ticket["job_id"])
    assert heard[-1].name == "done"
