"""The moving picture of the README: gateway and consumer are killed in mid-job, and the page goes on.

    python -m bench.restart_picture docs/restart.gif

It starts `growbin stack` beside a model that takes its time, opens the page, sends the example photo, kills
both with SIGKILL, and puts what page and terminal show side by side.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import escape
from pathlib import Path

from aiohttp import web
from PIL import Image
from playwright.async_api import Page, ViewportSize, async_playwright

from growbin.local.child import draw_port
from tests.browser import FLAGS, browser_path
from tests.loopback import served
from tests.processes import Stack, command

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "examples" / "coffee-cup.jpg"
THINKING_SECONDS = 3
KILL_AFTER_SECONDS = 2.5
LONGEST_SECONDS = 20
FRAME_SECONDS = 0.5
PHONE: ViewportSize = {"width": 390, "height": 700}
TERMINAL: ViewportSize = {"width": 560, "height": 700}
CUP: dict[str, object] = {
    "name": "cup",
    "category": "non_combustible",
    "material": None,
    "confidence": 0.95,
    "condition": [],
}
SCREEN = """<body style="margin:0;padding:20px;background:#0d1411;color:#e9f1ec;font:15px/1.6 monospace">
<pre style="white-space:pre-wrap">{}</pre>"""


@asynccontextmanager
async def slow_model() -> AsyncIterator[str]:
    async def think(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(THINKING_SECONDS)
        says = json.dumps({"items": [CUP], "answer": None, "doubt": None, "choices": []})
        choice = {"index": 0, "message": {"role": "assistant", "content": says}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 900, "completion_tokens": 60, "total_tokens": 960}
        told = {"id": "slow", "object": "chat.completion", "created": 1, "model": "slow", "usage": usage}
        return web.json_response({**told, "choices": [choice]})

    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", think)
    async with served(app) as url:
        yield f"{url}/v1"


async def record(stack: Stack, address: str) -> list[Image.Image]:
    """A frame each half second, from the photo's choice to a moment after its answer."""
    frames: list[Image.Image] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=browser_path(), args=FLAGS)
        phone = await (await browser.new_context(locale="en-GB", viewport=PHONE)).new_page()
        terminal = await (await browser.new_context(viewport=TERMINAL)).new_page()
        await phone.goto(address)
        await phone.locator("#picture-files").set_input_files(PHOTO)
        begun, killed, done_at, typed = time.monotonic(), False, 0.0, "$ make run\n…\nReady.\n"
        while (seconds := time.monotonic() - begun) < LONGEST_SECONDS and not 0 < done_at < seconds - 2:
            if not killed and seconds > KILL_AFTER_SECONDS:
                killed = True
                for name in ("gateway", "consumer"):
                    os.killpg(stack.pids[name], signal.SIGKILL)
                typed += "\n$ kill -9 gateway consumer\n\n"
            log = stack.log.read_text().partition("Ctrl-C ends it.")[2]
            lines = [line for line in log.strip().splitlines() if not line.startswith("model ")]
            told = "\n".join(line.replace(str(stack.data), "var") for line in lines)
            frames.append(await _frame(phone, terminal, typed + told))
            if not done_at and await phone.locator(".job[data-stage=done]").count():
                done_at = seconds
            await asyncio.sleep(FRAME_SECONDS - (time.monotonic() - begun) % FRAME_SECONDS)
        await browser.close()
    assert done_at, "the photo has no answer yet"
    return frames


async def _frame(phone: Page, terminal: Page, text: str) -> Image.Image:
    await terminal.set_content(SCREEN.format(escape(text)))
    left, right = [Image.open(io.BytesIO(await page.screenshot())) for page in (phone, terminal)]
    frame = Image.new("RGB", (left.width + right.width, left.height))
    frame.paste(left, (0, 0))
    frame.paste(right, (left.width, 0))
    return frame.resize((frame.width * 3 // 4, frame.height * 3 // 4), Image.Resampling.LANCZOS)


async def frames_of_a_restart() -> list[Image.Image]:
    port = draw_port()
    with tempfile.TemporaryDirectory() as folder:
        async with slow_model() as model_url:
            words = command("stack", "--port", str(port))
            stack = Stack(Path(folder), words, OPENAI_BASE_URL=model_url, OPENAI_API_KEY="none")
            try:
                await asyncio.to_thread(stack.wait_until_ready)
                await asyncio.sleep(THINKING_SECONDS + 2)  # the stack asks the model once
                return await record(stack, f"http://127.0.0.1:{port}")
            finally:
                await asyncio.to_thread(stack.stop_in_a_hurry)


def save(frames: list[Image.Image], target: Path) -> None:
    small = [frame.quantize(64, dither=Image.Dither.NONE) for frame in frames]
    small[0].save(
        target,
        save_all=True,
        append_images=small[1:],
        duration=int(FRAME_SECONDS * 1000),
        loop=0,
        optimize=True,
    )
    print(f"{target}: {len(frames) * FRAME_SECONDS:.0f} s, {target.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    save(asyncio.run(frames_of_a_restart()), Path(sys.argv[1]))
