"""The whole system in its three designs, on the same servers, and a client that does jobs as a page does.

growbin  gateway and consumer as they are
naive    the same libraries in the obvious way (bench/references/naive.py)
floor    the least code with the same I/O (bench/references/floor.py)
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import psutil
from PIL import Image, ImageFilter
from redis.asyncio import Redis

from bench.instruments import OURS, ROOT, Program, growbin, parts, program
from growbin.adapters.model.request import CallShape
from growbin.capabilities import CallWishes
from growbin.local.child import draw_port

HOST = "127.0.0.1"
NAIVE, FLOOR = "naive", "floor"
DESIGNS = (OURS, NAIVE, FLOOR)
CONCURRENCY = 32
IN_FLIGHT = 12
Ticket = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Photo:
    name: str
    width: int
    height: int
    size_bytes: int

    def drawn(self) -> bytes:
        """The same each time: soft shapes under grain, in the quality that comes nearest to the size."""
        chance = random.Random(self.name)  # noqa: S311  # chance is for pictures
        small = Image.frombytes("RGB", (64, 48), chance.randbytes(64 * 48 * 3))
        shapes = small.resize((self.width, self.height), Image.Resampling.BICUBIC)
        tile = Image.frombytes("RGB", (256, 256), chance.randbytes(256 * 256 * 3))
        grain = Image.new("RGB", shapes.size)
        for x in range(0, self.width, 256):
            for y in range(0, self.height, 256):
                grain.paste(tile, (x, y))
        picture = Image.blend(shapes, grain.filter(ImageFilter.GaussianBlur(1)), 0.3)

        def encoded(quality: int) -> bytes:
            output = io.BytesIO()
            picture.save(output, "JPEG", quality=quality)
            return output.getvalue()

        return min(map(encoded, range(30, 96, 5)), key=lambda data: abs(len(data) - self.size_bytes))


SMALL, LARGE = Photo("300 KB", 1600, 1200, 300_000), Photo("2 MB", 4032, 3024, 2_000_000)


class Client:
    """Does jobs at one gateway, each in a session of its own: no answer is shared."""

    def __init__(self, http: aiohttp.ClientSession, address: str) -> None:
        self._http = http
        self._address = address

    async def session(self) -> str:
        async with self._http.post(f"{self._address}/api/v1/sessions") as answer:
            return str((await answer.json())["token"])

    async def ticket(self, token: str) -> Ticket:
        url, wanted = f"{self._address}/api/v1/waste/analyze", {"content_type": "image/jpeg"}
        async with self._http.post(url, json=wanted, headers=_bearer(token)) as answer:
            assert answer.status == 201, await answer.text()
            ticket: Ticket = await answer.json()
            return ticket

    async def upload(self, ticket: Ticket, photo: bytes) -> None:
        url, headers = ticket["upload_url"], ticket["upload_headers"]
        async with self._http.put(url, data=photo, headers=headers) as answer:
            assert answer.status == 200, await answer.text()

    async def complete(self, ticket: Ticket, token: str) -> None:
        url = f"{self._address}{ticket['links']['upload_complete']}"
        async with self._http.post(url, headers=_bearer(token)) as answer:
            assert answer.status == 202, await answer.text()

    async def follow(self, ticket: Ticket, token: str, until: bytes = b"done") -> None:
        """Its stream, until such an event."""
        url = f"{self._address}{ticket['links']['events']}"
        async with self._http.get(url, headers=_bearer(token)) as stream:
            async for line in stream.content:
                if line.startswith(b"event: "):
                    event = line[len(b"event: ") :].strip()
                    assert event in (b"progress", b"notice", b"done"), line
                    if event == until:
                        return
        raise AssertionError("a stream ended before its job")

    async def do(self, token: str, photo: bytes) -> None:
        ticket = await self.ticket(token)
        await self.upload(ticket, photo)
        await self.complete(ticket, token)
        await self.follow(ticket, token)

    async def do_many(self, tokens: Sequence[str], photo: bytes, in_flight: int = IN_FLIGHT) -> None:
        """So many at once, always; they do not come in step."""
        left = iter(tokens)

        async def one_after_the_other(delay_seconds: float) -> None:
            await asyncio.sleep(delay_seconds)
            for token in left:
                await self.do(token, photo)

        async with asyncio.TaskGroup() as group:
            for number in range(in_flight):
                group.create_task(one_after_the_other(number / in_flight))


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@dataclass(frozen=True, slots=True)
class Design:
    """A running gateway, its client, and a consumer where one is wanted."""

    name: str
    client: Client
    gateway: Program
    consumer: Program | None


@dataclass(frozen=True, slots=True)
class System:
    """What the designs share."""

    settings: Mapping[str, str]
    valkey: Program
    rabbitmq: Program
    http: aiohttp.ClientSession

    @classmethod
    @asynccontextmanager
    async def running(cls, *, model_seconds: float = 1.0, **chosen: str) -> AsyncIterator[System]:
        """The servers, a model that answers after so long, and the settings for whoever uses them."""
        async with AsyncExitStack() as stack:
            model = await stack.enter_async_context(model_server(model_seconds))
            servers = stack.enter_context(parts(**model))
            connector = aiohttp.TCPConnector(limit=0)
            http = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
            await stack.enter_async_context(http)
            settings = {
                **servers.settings,
                **model,
                **_asked_of(model["OPENAI_MODEL"]),
                "CONSUMER_CONCURRENCY": str(CONCURRENCY),
                "QUEUE_NAME": "bench.jobs",
                **chosen,
            }
            valkey, rabbitmq = (
                Program(psutil.Process(servers.pids[part])) for part in ("valkey", "rabbitmq")
            )
            yield cls(settings, valkey, rabbitmq, http)

    async def valkey_commands(self) -> int:
        """All that it has carried out, also within scripts."""
        async with Redis.from_url(self.settings["REDIS_URL"]) as redis:
            stats = await redis.info("commandstats")
        return sum(one["calls"] for one in stats.values())

    async def tell_model(self, word: str) -> str:
        """See bench/model.py; its answer is how often it was asked."""
        url = f"{self.settings['OPENAI_BASE_URL'].removesuffix('/v1')}/{word}"
        async with self.http.get(url) as answer:
            return await answer.text()

    @asynccontextmanager
    async def design(self, name: str, *, consumes: bool = True) -> AsyncIterator[Design]:
        port, consumer = draw_port(), None
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            gateway = await enter(started(name, "gateway", self.settings, port))
            if consumes:
                consumer = await enter(started(name, "consumer", self.settings, draw_port()))
            yield Design(name, Client(self.http, f"http://{HOST}:{port}"), gateway, consumer)


@asynccontextmanager
async def model_server(seconds: float) -> AsyncIterator[dict[str, str]]:
    """The settings that lead to it."""
    port = draw_port()
    url = f"http://{HOST}:{port}"
    async with program([sys.executable, "-m", "bench.model", str(port), str(seconds)], {}, url):
        yield {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "sk-bench", "OPENAI_MODEL": "bench"}


def _asked_of(model: str) -> dict[str, str]:
    """What the references ask: what ours asks."""
    shape = CallShape.of(model, CallWishes())
    prompt = (ROOT / "src/growbin/data/prompt.txt").read_text(encoding="utf-8")
    return {"BENCH_PROMPT": prompt, "BENCH_RESPONSE_FORMAT": json.dumps(shape.response_format_sent())}


def started(
    name: str, role: str, settings: Mapping[str, str], port: int
) -> AbstractAsyncContextManager[Program]:
    """A design's gateway on that port, or its consumer."""
    if name == OURS:
        return growbin(role, {**settings, "PORT": str(port)})
    words = [sys.executable, "-m", f"bench.references.{name}", role, str(port)]
    return program(words, settings, f"http://{HOST}:{port}/")
