"""What waits in the queue, as the broker's management tells it: nobody's upload waits for that."""

from __future__ import annotations

import asyncio
import time

from aiohttp import web

from growbin.adapters.rabbitmq.backlog import CountedBacklog
from growbin.ports import Backlog
from tests.loopback import served


async def test_backlog_is_read_behind_whoever_asks() -> None:
    """The first who asks waits; later what was read before is told at once, and read again once for all. Only
    what is too old is waited for."""
    waiting, asked, delay_seconds = 7, 0, 0.0

    async def tell(request: web.BaseRequest) -> web.Response:
        nonlocal asked
        asked += 1
        told = waiting
        await asyncio.sleep(delay_seconds)
        return web.json_response({"messages_ready": told})

    async with served(tell) as url:
        backlog = CountedBacklog(url, "queues/%2F/jobs")
        assert await asyncio.gather(*(backlog.read() for _ in range(5))) == [Backlog(7, None, 0)] * 5
        assert asked == 1

        waiting, delay_seconds = 9, 0.3
        backlog._read_at -= 0.7  # as if it were older
        began = time.monotonic()
        assert await asyncio.gather(*(backlog.read() for _ in range(5))) == [Backlog(7, None, 0)] * 5
        assert time.monotonic() - began < 0.2
        assert backlog._reading is not None
        await backlog._reading
        assert await backlog.read() == Backlog(9, None, 0)
        assert asked == 2

        waiting = 11
        backlog._read_at -= 1.1
        assert await backlog.read() == Backlog(11, None, 0)
