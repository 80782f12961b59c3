"""Three servers of progress streams, to be measured beside each other by bench/streams.py:

growbin     the gateway as it is: session, ownership, log, hub, canary, heartbeats, caps
shared      the least that works: one pattern subscription, a queue for each client
per_client  what most tutorials show: one pub/sub connection for each client
"""

from __future__ import annotations

import argparse
import asyncio
from collections import defaultdict
from contextlib import AsyncExitStack
from typing import Any, cast

from aiohttp import web
from redis.asyncio import Redis

from growbin.adapters.redis import keys
from growbin.adapters.redis.job_records import RedisJobRecords
from growbin.adapters.redis.outages import RedisOutages
from growbin.adapters.redis.progress_feed import RedisProgressFeed
from growbin.adapters.redis.progress_log import RedisProgressLog
from growbin.adapters.redis.sessions import RedisSessions
from growbin.config import Settings
from growbin.gateway.app import build_app
from growbin.gateway.context import Gateway, GatewayLimits
from growbin.gateway.hub import Hub
from growbin.gateway.notices import Notices
from growbin.wiring.gateway import limits_of
from growbin.wiring.parts import serving
from tests.load_profile import LOAD_PROFILE

HOST = "127.0.0.1"
PATH = "/api/v1/waste/jobs/{job_id}/events"
HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
QUEUED_EVENTS = 64


async def growbin(stack: AsyncExitStack, redis_url: str, limits: GatewayLimits) -> web.Application:
    """Streams touch neither broker nor S3 nor CDN: those ports stay empty."""
    records = await stack.enter_async_context(
        RedisJobRecords.open(
            jobs_url=redis_url, sessions_url=redis_url, ticket_seconds=600, deadline_seconds=300
        )
    )
    sessions = await stack.enter_async_context(RedisSessions.open(url=redis_url))
    progress = await stack.enter_async_context(
        RedisProgressLog.open(url=redis_url, image_base_url="http://cdn.test")
    )
    outages = await stack.enter_async_context(RedisOutages.open(url=redis_url))
    hub = Hub(progress, QUEUED_EVENTS)
    stack.push_async_callback(hub.close)
    feed = RedisProgressFeed.open(
        url=redis_url,
        on_entry=hub.on_entry,
        on_gap=hub.on_gap,
        on_loss=hub.on_loss,
        on_session_job=hub.on_session_job,
    )
    hub.attach(await stack.enter_async_context(feed))
    unused = cast("Any", None)
    gateway = Gateway(
        limits=limits,
        cdn_base_url="http://cdn.test",
        upload_origin="http://s3.test",
        allowed_origins=frozenset(),
        trusted_proxies=(),
        secure_cookies=False,
        takes_questions=True,
        rules=unused,
        things=unused,
        records=records,
        sessions=sessions,
        progress=progress,
        session_jobs=unused,
        uploads=unused,
        queue=unused,
        eraser=unused,
        hub=hub,
        news=progress,
        notices=Notices(outages, unused),
    )
    return build_app(gateway)


def encode(text: str) -> bytes:
    entry_id, event, data = text.split(" ", 2)
    return f"id: {entry_id}\nevent: {event}\ndata: {data}\n\n".encode()


async def begin(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers=HEADERS)
    await response.prepare(request)
    await response.write(b"retry: 3000\n\n")
    return response


async def shared(stack: AsyncExitStack, redis_url: str, _limits: GatewayLimits) -> web.Application:
    redis = await stack.enter_async_context(Redis.from_url(redis_url, decode_responses=True))
    queues: defaultdict[str, set[asyncio.Queue[str]]] = defaultdict(set)

    async def dispatch() -> None:
        async with redis.pubsub() as pubsub:
            await pubsub.psubscribe("job:*")
            async for message in pubsub.listen():
                if message["type"] == "pmessage":
                    for queue in queues.get(message["channel"], ()):
                        queue.put_nowait(message["data"])

    async def stream(request: web.Request) -> web.StreamResponse:
        channel = keys.events(cast("Any", request.match_info["job_id"]))
        queue: asyncio.Queue[str] = asyncio.Queue(QUEUED_EVENTS)
        queues[channel].add(queue)
        try:
            response = await begin(request)
            while True:
                await response.write(encode(await queue.get()))
        finally:
            queues[channel].discard(queue)

    dispatcher = asyncio.create_task(dispatch())
    stack.callback(dispatcher.cancel)
    app = web.Application()
    app.router.add_get(PATH, stream)
    return app


async def per_client(stack: AsyncExitStack, redis_url: str, _limits: GatewayLimits) -> web.Application:
    redis = await stack.enter_async_context(
        Redis.from_url(redis_url, decode_responses=True, max_connections=100_000)
    )

    async def stream(request: web.Request) -> web.StreamResponse:
        async with redis.pubsub() as pubsub:
            await pubsub.subscribe(keys.events(cast("Any", request.match_info["job_id"])))
            response = await begin(request)
            async for message in pubsub.listen():
                if message["type"] == "message":
                    await response.write(encode(message["data"]))
        return response

    app = web.Application()
    app.router.add_get(PATH, stream)
    return app


DESIGNS = {"growbin": growbin, "shared": shared, "per_client": per_client}


async def serve(design: str, redis_url: str, port: int) -> None:
    settings = Settings.model_validate({name.lower(): value for name, value in LOAD_PROFILE.items()})
    async with AsyncExitStack() as stack:
        app = await DESIGNS[design](stack, redis_url, limits_of(settings))
        await stack.enter_async_context(serving(app, HOST, port, "PORT"))
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("design", choices=DESIGNS)
    parser.add_argument("--redis", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    asyncio.run(serve(given.design, given.redis, given.port))
