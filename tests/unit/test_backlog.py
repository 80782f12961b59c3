"""What waits in the queue, as the broker's management tells it: nobody's upload waits for that."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from growbin.adapters.rabbitmq import backlog as counting
from growbin.adapters.rabbitmq.backlog import CountedBacklog
from growbin.ports import Backlog
from tests.loopback import served


async def test_backlog_is_read_behind_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first who asks waits; later what was read before is told at once, and read again once for all. Only
    what is too old is waited for."""
    for name, seconds in (("AGE", 100), ("OLDEST", 200), ("MANAGEMENT_TIMEOUT", 30)):
        monkeypatch.setattr(counting, f"{name}_SECONDS", seconds)
    waiting, asked, may_tell = 7, 0, asyncio.Event()
    may_tell.set()

    async def tell(request: web.BaseRequest) -> web.Response:
        nonlocal asked
        asked += 1
        told = waiting
        await may_tell.wait()
        return web.json_response({"messages_ready": told})

    async with served(tell) as url:
        backlog = CountedBacklog(url, "queues/%2F/jobs")
        assert await asyncio.gather(*(backlog.read() for _ in range(5))) == [Backlog(7, None, 0)] * 5
        assert asked == 1

        waiting = 9
        may_tell.clear()
        backlog._read_at -= 101  # as if it were older
        assert await asyncio.gather(*(backlog.read() for _ in range(5))) == [Backlog(7, None, 0)] * 5
        assert backlog._reading is not None
        may_tell.set()
        await backlog._reading
        assert await backlog.read() == Backlog(9, None, 0)
        assert asked == 2

        waiting = 11
        backlog._read_at -= 201
        assert await backlog.read() == Backlog(11, None, 0)
