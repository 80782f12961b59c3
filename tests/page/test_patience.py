"""What people read while they wait for long: the page beside the terminal, at the moments that count.

`pytest -s -m long tests/page` prints it as a table.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from aiohttp import web
from playwright.async_api import expect

from tests.e2e.client import browsing
from tests.e2e.photos import drawn
from tests.e2e.system import System, free_port, running_system
from tests.load_profile import ONE_ADDRESS
from tests.page.conftest import HostedModel, Visit, Visiting, file, seen
from tests.processes import command, environment

MOMENTS_SECONDS = (1, 5, 15, 20, 60)
AWAY = "is away for the moment"
DEFAULTS = dict.fromkeys(ONE_ADDRESS, "")
PLACE = re.compile(r"(\d+)\w\w in line")
MANY, LONGEST_SECONDS = 45, 240
SHOWS_REFUSAL = re.compile("429|too many|요청이 너무", re.IGNORECASE)

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]


@dataclass
class Provider(HostedModel):
    """A hosted model that is slow, or refuses the key."""

    seconds: float = 0
    refuses: bool = False
    bodies: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.sees(seen("cup", "non_combustible"))

    async def _forward(self, request: web.Request) -> web.Response:
        if self.refuses:
            error = {"message": "Incorrect API key provided.", "code": "invalid_api_key"}
            return web.json_response({"error": error}, status=401)
        await asyncio.sleep(self.seconds)
        return await super()._forward(request)


@asynccontextmanager
async def terminal(server: str) -> AsyncIterator[list[str]]:
    """What `growbin analyze` has written so far, of a photo of its own."""
    lines: list[str] = []
    with tempfile.NamedTemporaryFile(suffix=".jpg") as photo:
        photo.write(drawn("JPEG"))
        photo.flush()
        process = await asyncio.create_subprocess_exec(
            *command("analyze", "--server", server, "--locale", "en", photo.name),
            env=environment({"LC_ALL": "C.UTF-8"}),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )

        async def read() -> None:
            assert process.stderr
            async for line in process.stderr:
                lines.append(line.decode().strip().replace(f"{photo.name}: ", ""))

        reading = asyncio.create_task(read())
        try:
            yield lines
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
            await reading


async def read_on_page(visit: Visit) -> str:
    shown = (await visit.card.locator(part).inner_text() for part in ("h3", ".state", ".clock", ".note"))
    return " · ".join([text.replace("\n", " ") async for text in shown if text])


async def read_at_moments(case: str, visiting: Visiting, system: System) -> Sequence[str]:
    """What the page says at each moment; printed, with the terminal's latest line."""
    told = []
    async with visiting(system.base_url, locale="en-GB") as visit, terminal(system.base_url) as lines:
        begun = asyncio.get_running_loop().time()
        await visit.choose(file(drawn("JPEG")))
        for moment in MOMENTS_SECONDS:
            await asyncio.sleep(begun + moment - asyncio.get_running_loop().time())
            told.append(await read_on_page(visit))
            print(f"| {case} | {moment} s | {told[-1]} | {lines[-1] if lines else ''} |")
    return told


async def test_slow_model_is_waited_for(visiting: Visiting, parts: dict[str, str]) -> None:
    """After a quarter of a minute the page says that it takes longer than usual; then comes the answer."""
    model = Provider(seconds=40)
    async with (
        model.serving() as url,
        running_system(parts, OPENAI_BASE_URL=url, OPENAI_MODEL=model.NAME) as system,
    ):
        told = await read_at_moments("slow model (40 s)", visiting, system)
    assert "longer than usual" not in told[1]
    assert "longer than usual" in told[3]
    assert told[4].startswith("Cup")


async def test_place_in_line_is_told_and_falls(visiting: Visiting, parts: dict[str, str]) -> None:
    """Twenty photos of others are before this one; two are looked at at once, for four seconds each."""
    model = Provider(seconds=4)
    async with (
        model.serving() as url,
        running_system(
            parts, OPENAI_BASE_URL=url, OPENAI_MODEL=model.NAME, CONSUMER_CONCURRENCY="2"
        ) as system,
        browsing(system.base_url) as others,
    ):
        for _ in range(20):
            await others.submit(drawn("JPEG"))
        told = await read_at_moments("queue of 20", visiting, system)
    places = [int(found[1]) for words in told if (found := PLACE.search(words))]
    assert len(places) >= 2
    assert all(later < earlier for earlier, later in pairwise(places))
    assert told[4].startswith("Cup")


@pytest.mark.parametrize("case", ["wrong key", "model unreachable"])
async def test_broken_model_is_told_within_seconds(
    visiting: Visiting, parts: dict[str, str], case: str
) -> None:
    """Who waits reads that a part is away, and that nothing is lost; for as long as it is so."""
    model = Provider(refuses=True)
    async with model.serving() as url:
        broken = url if case == "wrong key" else f"http://127.0.0.1:{free_port()}/v1"
        settings = {"OPENAI_BASE_URL": broken, "OPENAI_MODEL": model.NAME}
        async with running_system(parts, **settings) as system:
            told = await read_at_moments(case, visiting, system)
    assert all(AWAY in words for words in told[1:])


async def test_forty_five_photos_at_the_default_limits_end_though_the_page_is_reloaded(
    visiting: Visiting, parts: dict[str, str]
) -> None:
    """All, in order and with thumbnails; the page takes its time, and nobody reads of limits."""
    read: list[str] = []
    async with running_system(parts, **DEFAULTS) as system, visiting(system.base_url) as visit:
        done = visit.page.locator(".job[data-stage=done]")
        titles = visit.page.locator(".job h3")
        await visit.choose(*[file(drawn("JPEG")) for _ in range(MANY)])
        await expect(done.nth(4)).to_be_attached()
        await visit.page.reload()
        await expect(titles).to_have_count(MANY)
        for number, title in enumerate(await titles.all_text_contents(), start=1):
            assert not title.startswith("사진") or title == f"사진 {number}"  # else it has its answer
        async with asyncio.timeout(LONGEST_SECONDS):
            while await done.count() < MANY:
                read.append(await visit.page.locator("#jobs").inner_text())
                await asyncio.sleep(0.5)
        await visit.page.reload()
        await expect(done).to_have_count(MANY)
        for picture in await visit.page.locator(".job .photo img").all():
            await picture.scroll_into_view_if_needed()
            await expect(picture).to_be_visible()  # it is hidden until it has loaded
        # The console tells of every refusal; the person reads of none.
        visit.errors[:] = [error for error in visit.errors if "429" not in error and "412" not in error]
    assert not any(map(SHOWS_REFUSAL.search, read))
