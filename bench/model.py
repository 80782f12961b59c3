"""A model that answers the same after a fixed time: a process of its own, so that nobody is billed for it.

    python -m bench.model PORT SECONDS

A GET tells how often it was asked; `/hold` keeps all answers back, until `/release`.
"""

from __future__ import annotations

import asyncio
import json
import sys

from aiohttp import web

from tests.model_personalities import ANSWER

COMPLETION = {
    "id": "chatcmpl-bench",
    "object": "chat.completion",
    "created": 1_700_000_000,
    "model": "bench",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": ANSWER, "refusal": None},
            "finish_reason": "stop",
            "logprobs": None,
        }
    ],
    "usage": {"prompt_tokens": 500, "completion_tokens": 60, "total_tokens": 560},
}


async def main(port: int, seconds: float) -> None:
    body = json.dumps(COMPLETION).encode()
    calls, may_answer = 0, asyncio.Event()
    may_answer.set()

    async def answer(request: web.BaseRequest) -> web.Response:
        nonlocal calls
        match request.path:
            case "/hold":
                may_answer.clear()
            case "/release":
                may_answer.set()
        if request.method == "GET":
            return web.Response(text=str(calls))
        while await request.content.readany():
            pass
        calls += 1
        await asyncio.sleep(seconds)
        await may_answer.wait()
        return web.Response(body=body, content_type="application/json")

    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=2048).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
