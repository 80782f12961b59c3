"""How growbin talks to Redis: explicit timeouts, one retry, errors translated.

The library's own defaults keep a request to a frozen server hanging for a minute. And they keep connections
to a server that was demoted: it answers on, but refuses every write, while the name points elsewhere.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar
from weakref import WeakSet

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from growbin.adapters.redis.sentinel import pool_options
from growbin.errors import Unavailable

# A frozen server must become a 503 within two seconds, retry included.
CONNECT_TIMEOUT_SECONDS = 1.0
CALL_TIMEOUT_SECONDS = 1.6
CONNECTIONS = 32

Answer = TypeVar("Answer")

# In an answer these say: I am not the primary, or not now. What is asked of it was not done.
_NOT_I = re.compile(r"\b(READONLY|LOADING|MASTERDOWN|CLUSTERDOWN|UNBLOCKED|NOREPLICAS|MOVED|REDIRECT)\b")
_NEEDS_A_PERSON = re.compile(
    r"unknown command|DB index is out of range|SELECT is not allowed in cluster mode"
)


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
        raise Unavailable("redis", reason_of(error)) from error
    finally:
        # The library sends under asyncio.wait_for, which until Python 3.12 loses a cancellation that comes
        # while the last bytes go out: a loop that was told to end would go on for ever.
        if task.cancelling() > cancellations:
            raise asyncio.CancelledError


def reason_of(error: Exception) -> str:
    """For logs and /readyz, with a word where it will not pass by itself."""
    needs_a_person = isinstance(error, AuthenticationError | NoPermissionError) or (
        isinstance(error, ResponseError) and _NEEDS_A_PERSON.search(str(error))
    )
    return f"{type(error).__name__}: {error}" + (
        " (this does not pass by itself: look at REDIS_URL and at the user's rights)"
        if needs_a_person
        else ""
    )


def is_not_primary(error: Exception) -> bool:
    """The library takes the first word off the errors that it knows; a script's error has it in the midst."""
    code = getattr(error, "status_code", None)
    return isinstance(error, RedisError) and _NOT_I.search(f"{code} {error}") is not None


_pools: WeakSet[ConnectionPool] = WeakSet()  # of this process


async def leave_server(pool: ConnectionPool) -> None:
    """Drop every connection of this process to the server of `pool`, whatever its database: also those that
    only read, and would never be told. One in the midst of a call goes after it."""
    address = _address_of(pool)
    for other in [other for other in _pools if _address_of(other) == address]:
        await other.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call]
        with suppress(RedisError, OSError, TimeoutError):
            await other.disconnect(inuse_connections=False)


def _address_of(pool: ConnectionPool) -> tuple[object, object]:
    return pool.connection_kwargs.get("host"), pool.connection_kwargs.get("port")


class _OnceMore(Retry):
    """One more try, over a new connection, where the first had broken or its server said "not I"."""

    def __init__(self, leave: Callable[[], Awaitable[None]]) -> None:
        super().__init__(NoBackoff(), 1, supported_errors=(RedisConnectionError, ResponseError))
        self._leave = leave

    async def call_with_retry(
        self,
        do: Callable[[], Awaitable[Answer]],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> Answer:
        async def failed(error: Exception, *count: int) -> None:
            if is_not_primary(error):
                await self._leave()
            await fail(error, *count)

        def may_pass(error: Exception) -> bool:
            may = isinstance(error, RedisConnectionError) or is_not_primary(error)
            return may and (is_retryable is None or is_retryable(error))

        return await super().call_with_retry(do, failed, may_pass, with_failure_count)


@asynccontextmanager
async def open_redis(url: str) -> AsyncIterator[Redis]:
    """A pool of at most CONNECTIONS; a broken connection is replaced once, a timeout is not retried."""

    async def leave() -> None:  # no method: the library copies its Retry deeply for each connection
        await leave_server(pool)

    server_url, options = pool_options(url)
    pool: ConnectionPool = BlockingConnectionPool.from_url(
        server_url,
        max_connections=CONNECTIONS,
        timeout=CALL_TIMEOUT_SECONDS,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_timeout=CALL_TIMEOUT_SECONDS,
        retry=_OnceMore(leave),
        decode_responses=True,
        encoding_errors="replace",  # bytes that are no text make a value unreadable, not the connection
        **options,
    )
    _pools.add(pool)
    client = Redis(connection_pool=pool)
    try:
        yield client
    finally:
        _pools.discard(pool)
        await client.aclose()
        await pool.aclose()
