"""What a photo takes of the consumer's memory while the model thinks."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
import tracemalloc

import psutil
import pytest
from aiohttp import web

from growbin.adapters.model.analyst import OpenAIAnalyst
from growbin.job import CleanPhoto
from tests.loopback import served

# Raw photos come and go between what jobs keep.
PHOTOS = """
import sys
from growbin.wiring.consumer import map_photos
if sys.argv[1] == "mapped":
    map_photos()
del (first := bytearray(2 << 20))[:]
raw, kept = [], []
for _ in range(40):
    raw.append(b"x" * (2 << 20))
    kept.append(b"x" * 100_000)
del raw
print("let go", flush=True)
sys.stdin.readline()
"""


def resident_megabytes(how: str) -> float:
    process = subprocess.Popen(
        [sys.executable, "-c", PHOTOS, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"let go\n"
        resident: int = psutil.Process(process.pid).memory_info().rss
        process.communicate(b"\n")
    return resident / 1_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="other C libraries have rules of their own")
def test_memory_of_raw_photos_goes_back_to_the_system() -> None:
    """However it lies between what is kept: 80 MB of them, all let go."""
    assert resident_megabytes("as it is") - resident_megabytes("mapped") > 60


async def test_photo_is_in_memory_once_while_the_model_thinks() -> None:
    """Its base64, a third longer, is gone with the last byte that was sent."""
    photo = CleanPhoto(secrets.token_bytes(6_000_000), "image/jpeg", 4, 3)
    thinks, may_answer = asyncio.Event(), asyncio.Event()

    async def think(request: web.BaseRequest) -> web.Response:
        while await request.content.readany():
            pass
        thinks.set()
        await may_answer.wait()
        return web.Response(status=500)

    tracemalloc.start()
    try:
        async with (
            served(think) as url,
            OpenAIAnalyst.open(api_key="k", base_url=f"{url}/v1", model="m", timeout_seconds=60) as analyst,
        ):
            before, _ = tracemalloc.get_traced_memory()
            asking = asyncio.create_task(analyst.ask(photo, None, "ko"))
            await thinks.wait()
            held, most = (value - before for value in tracemalloc.get_traced_memory())
            may_answer.set()
            await asyncio.wait([asking])
    finally:
        tracemalloc.stop()
    assert isinstance(asking.exception(), Exception)
    assert held < 500_000
    assert most < 2_000_000  # also while it is sent


async def test_photo_is_gone_with_its_answer() -> None:
    """The connection stays open, and keeps nothing of it."""

    async def answer(request: web.BaseRequest) -> web.Response:
        while await request.content.readany():
            pass
        return web.json_response({"choices": [{"message": {"content": "A bottle."}}]})

    async with (
        served(answer) as url,
        OpenAIAnalyst.open(api_key="k", base_url=f"{url}/v1", model="m", timeout_seconds=60) as analyst,
    ):
        tracemalloc.start()
        try:
            await analyst.ask(CleanPhoto(secrets.token_bytes(6_000_000), "image/jpeg", 4, 3), None, "ko")
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert kept < 2_000_000
