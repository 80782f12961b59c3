"""Small HTTP servers for tests, each on a free port of loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def served(answering: web.Application | Handler) -> AsyncIterator[str]:
    """Serves an application, or whatever is asked with one handler; yields the address, without a path."""
    runner: web.BaseRunner
    if isinstance(answering, web.Application):
        runner = web.AppRunner(answering, access_log=None, shutdown_timeout=0.1)
    else:
        runner = web.ServerRunner(web.Server(answering), shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield site.name
    finally:
        await runner.cleanup()
