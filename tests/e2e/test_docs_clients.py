"""The clients that `/docs` offers, run as they stand there, each in a folder of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from html import unescape
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.e2e.photos import COFFEE_CUP
from tests.e2e.system import System
from tests.loopback import served

NODE_MODULES = Path(__file__).parents[1] / "stream_conformance" / "clients" / "node_modules"
LONGEST_SECONDS = 90
PERCENT = re.compile(r'"progress":(\d+)|^(?:progress|done|reset) (\d+)', re.MULTILINE)
STORY = [0, 10, 25, 45, 90, 100]
CLIENTS = {"client.py": ["client.py"], "client.ts": ["client.ts", "run.ts"], "client.sh": ["client.sh"]}
TYPESCRIPT = [
    *("--strict", "--noUncheckedIndexedAccess", "--noUnusedLocals", "--target", "es2022"),
    *("--module", "nodenext", "--lib", "es2023,dom,dom.asynciterable", "--types", "node"),
]


class Grudging:
    """Between a client and the gateway: refuses what it is told to, once each, and cuts the first stream."""

    def __init__(self, upstream: str, *refusals: tuple[str, int], loses_history: bool = False) -> None:
        self._upstream = upstream
        self._refusals = list(refusals)  # path's end and status
        self._loses_history = loses_history
        self.streams: list[str | None] = []  # the last ids that were asked for
        self.sessions = 0

    async def forward(self, request: web.BaseRequest) -> web.StreamResponse:
        self.sessions += request.path.endswith("/sessions")
        for refusal in self._refusals:
            if request.path.endswith(refusal[0]):
                self._refusals.remove(refusal)
                code = "session_unknown" if refusal[1] == 401 else "too_many_requests"
                return web.json_response(
                    {"status": refusal[1], "code": code, "detail": "Not so."},
                    status=refusal[1],
                    content_type="application/problem+json",
                    headers={"Retry-After": "1"} if refusal[1] == 429 else {},
                    dumps=lambda problem: json.dumps(problem, separators=(",", ":")),
                )
        headers = {name: value for name, value in request.headers.items() if name != "Host"}
        if request.path.endswith("/events"):
            self.streams.append(request.headers.get("Last-Event-ID"))
            if self._loses_history and self.streams[-1]:
                headers["Last-Event-ID"] = "0a.1.lost"
        async with (
            aiohttp.ClientSession() as http,
            http.request(
                request.method, self._upstream + request.path_qs, data=await request.read(), headers=headers
            ) as answer,
        ):
            if not request.path.endswith("/events") or answer.status != 200:
                return web.Response(
                    body=await answer.read(), status=answer.status, content_type=answer.content_type
                )
            stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await stream.prepare(request)
            events = 0
            async for line in answer.content:
                await stream.write(line)
                events += line.startswith(b"data:")
                if events == 2 and len(self.streams) == 1:
                    await stream.write(b"\n")
                    break
            return stream


async def run(*words: str | Path, cwd: Path, status: int = 0) -> tuple[str, str]:
    """What a command says, on both outputs."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd)}
    process = await asyncio.create_subprocess_exec(
        *map(str, words),
        cwd=cwd,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(LONGEST_SECONDS):
        said, told = await process.communicate()
    assert process.returncode == status, said.decode() + told.decode()
    return said.decode(), told.decode()


async def shown_in_docs(system: System) -> dict[str, str]:
    """The sources by their names, read out of the page as a person would copy them."""
    async with aiohttp.ClientSession() as http, http.get(f"{system.base_url}/docs") as answer:
        page = await answer.text()
    found = re.findall(r"download>([\w.]+)</a></p><pre><code>(.*?)</code></pre>", page, re.DOTALL)
    return {name: unescape(source) for name, source in found}


@pytest.fixture(params=list(CLIENTS))
async def client(request: pytest.FixtureRequest, system: System, tmp_path: Path) -> list[str]:
    """The command that runs it, in a folder that holds nothing else. Types are checked on the way."""
    sources = await shown_in_docs(system)
    for name in CLIENTS[request.param]:
        (tmp_path / name).write_text(sources[name])
    if request.param == "client.sh":
        return ["sh", "client.sh"]
    if request.param == "client.py":
        checked = ["-m", "mypy", "--strict", "--no-incremental", "--config-file", "", "client.py"]
        await run(sys.executable, *checked, cwd=tmp_path)
        return [sys.executable, "-I", "client.py"]
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    await run("node", NODE_MODULES / "typescript" / "bin" / "tsc", *TYPESCRIPT, "run.ts", cwd=tmp_path)
    return ["node", "run.js"]


def percents(told: str) -> list[int]:
    return [int(one or other) for one, other in PERCENT.findall(told)]


async def test_client_of_the_docs_brings_a_photo_to_its_result(
    client: list[str], system: System, tmp_path: Path
) -> None:
    """Against the running service: each stage once and in order, and the result on the standard output."""
    said, told = await run(*client, system.base_url, COFFEE_CUP, cwd=tmp_path)
    assert percents(told) == STORY
    assert '"bin"' in said


async def test_client_of_the_docs_minds_refusals_and_a_cut(
    client: list[str], system: System, tmp_path: Path
) -> None:
    """A session that has ended (401) is begun anew, "not now" (429) is waited out, and a cut stream is taken
    up with the last id: nothing twice, nothing missing."""
    grudging = Grudging(
        system.base_url, ("/sessions", 429), ("/analyze", 401), ("/analyze", 429), ("/events", 429)
    )
    async with served(grudging.forward) as server:
        said, told = await run(*client, server, COFFEE_CUP, cwd=tmp_path)
    assert percents(told) == STORY
    assert '"bin"' in said
    assert grudging.sessions == 3  # one was refused, one has ended
    assert len(grudging.streams) == 2
    assert grudging.streams[0] is None
    assert grudging.streams[1]


async def test_client_of_the_docs_survives_lost_history(
    client: list[str], system: System, tmp_path: Path
) -> None:
    """The service no longer knows the id that the client holds: it gets `reset`, and then the end."""
    grudging = Grudging(system.base_url, loses_history=True)
    async with served(grudging.forward) as server:
        said, told = await run(*client, server, COFFEE_CUP, cwd=tmp_path)
    assert percents(told)[-1] == 100
    assert '"bin"' in said


async def test_client_of_the_docs_says_why_a_photo_is_refused(
    client: list[str], system: System, tmp_path: Path
) -> None:
    """Nothing is asked again where it would help nothing."""
    (tmp_path / "note.jpg").write_text("Dear sorting centre, this is no photo.")
    said, told = await run(
        *client, system.base_url, tmp_path / "note.jpg", cwd=tmp_path, status=22 if "sh" in client else 1
    )
    assert "unsupported_photo" in said + told
