"""How growbin talks to Redis: explicit timeouts, one retry, errors translated.

The library's own defaults keep a request to a frozen server hanging for a minute.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from growbin.errors import Unavailable

# A frozen server must become a 503 within two seconds, retry included.
CONNECT_TIMEOUT_SECONDS = 1.0
CALL_TIMEOUT_SECONDS = 1.6
CONNECTIONS = 32


async def ask(call: Any) -> Any:
    """Await one command under the whole-call timeout. Raises Unavailable. (Untyped on purpose: the
    library annotates its commands for both its synchronous and its asynchronous client.)"""
    task = asyncio.current_task()
    assert task is not None
    cancellations = task.cancelling()
    try:
        async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
            return await call
    except (RedisError, OSError, TimeoutError) as error:
        raise Unavailable("redis", f"{type(error).__name__}: {error}") from error
    finally:
        # The library sends under asyncio.wait_for, which until Python 3.12 loses a cancellation that comes
        # while the last bytes go out: a loop that was told to end would go on for ever.
        if task.cancelling() > cancellations:
            raise asyncio.CancelledError


@asynccontextmanager
async def open_redis(url: str) -> AsyncIterator[Redis]:
    """A pool of at most CONNECTIONS; a broken connection is replaced once, a timeout is not retried."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS,
        timeout=CALL_TIMEOUT_SECONDS,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_timeout=CALL_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        decode_responses=True,
        encoding_errors="replace",  # bytes that are no text make a value unreadable, not the connection
    )
    client = Redis(connection_pool=pool)
    try:
        yield client
    finally:
        await client.aclose()
        await pool.aclose()
