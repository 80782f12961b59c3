"""Two servers of progress streams for bench/streams.py, without any guarantee:

shared      the least that works: one pattern subscription, a queue for each client
per_client  what most tutorials show: one pub/sub connection for each client

python -m bench.references.streams shared PORT
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import web
from redis.asyncio import Redis

from growbin.adapters.redis import keys

PATH = "/api/v1/waste/jobs/{job_id}/events"
HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
QUEUED_EVENTS = 64
MOST_CONNECTIONS = 100_000
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def shared(redis: Redis) -> Handler:
    queues: defaultdict[str, set[asyncio.Queue[str]]] = defaultdict(set)

    async def dispatch() -> None:
        async with redis.pubsub() as pubsub:
            await pubsub.psubscribe("job:*")
            async for message in pubsub.listen():
                if message["type"] == "pmessage":
                    for queue in queues.get(message["channel"], ()):
                        queue.put_nowait(message["data"])

    async def stream(request: web.Request) -> web.StreamResponse:
        queue: asyncio.Queue[str] = asyncio.Queue(QUEUED_EVENTS)
        queues[channel_of(request)].add(queue)
        try:
            response = await begin(request)
            while True:
                await response.write(encode(await queue.get()))
        finally:
            queues[channel_of(request)].discard(queue)

    dispatching.append(asyncio.create_task(dispatch()))
    return stream


dispatching: list[asyncio.Task[None]] = []  # as long as the process


async def per_client(redis: Redis) -> Handler:
    async def stream(request: web.Request) -> web.StreamResponse:
        async with redis.pubsub() as pubsub:
            await pubsub.subscribe(channel_of(request))
            response = await begin(request)
            async for message in pubsub.listen():
                if message["type"] == "message":
                    await response.write(encode(message["data"]))
        return response

    return stream


def channel_of(request: web.Request) -> str:
    return keys.events(cast("Any", request.match_info["job_id"]))


async def begin(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers=HEADERS)
    await response.prepare(request)
    await response.write(b"retry: 3000\n\n")
    return response


def encode(text: str) -> bytes:
    entry_id, event, data = text.split(" ", 2)
    return f"id: {entry_id}\nevent: {event}\ndata: {data}\n\n".encode()


async def ready(_request: web.Request) -> web.Response:
    return web.Response()


async def serve(design: str, port: int) -> None:
    url = f"{os.environ['REDIS_URL'].rstrip('/')}/2"
    redis = Redis.from_url(url, decode_responses=True, max_connections=MOST_CONNECTIONS)
    app = web.Application()
    app.router.add_get(PATH, await {"shared": shared, "per_client": per_client}[design](redis))
    app.router.add_get("/", ready)
    # A vanished client must end its handler, or streams leak.
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
