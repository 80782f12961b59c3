"""How growbin talks to Redis: explicit timeouts, one retry, errors translated.

The library's own defaults keep a request to a frozen server hanging for a minute. And they keep connections
to a server that was demoted: it answers on, but refuses every write, while the name points elsewhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakSet

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    NoScriptError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from growbin.adapters.redis.patience import Patience
from growbin.adapters.redis.sentinel import pool_options
from growbin.adapters.redis.shared_link import SharedLink
from growbin.errors import Unavailable

# A frozen server must become a 503 within two seconds, retry included.
CONNECT_TIMEOUT_SECONDS = 1.0
CALL_TIMEOUT_SECONDS = 1.6

# In an answer these say: I am not the primary, or not now. What is asked of it was not done.
_NOT_I = re.compile(r"\b(READONLY|LOADING|MASTERDOWN|CLUSTERDOWN|UNBLOCKED|NOREPLICAS|MOVED|REDIRECT)\b")
_NEEDS_A_PERSON = re.compile(
    r"unknown command|DB index is out of range|SELECT is not allowed in cluster mode"
)


_calls = Patience(CALL_TIMEOUT_SECONDS)


async def ask(call: Any) -> Any:
    """Await one command under the whole-call timeout. Raises Unavailable. (Untyped on purpose: the
    library annotates its commands for both its synchronous and its asynchronous client.)"""
    try:
        async with asyncio.timeout(None) as limit:
            _calls.begin(limit)
            try:
                return await call
            finally:
                _calls.end(limit)
    except (RedisError, OSError, TimeoutError) as error:
        raise Unavailable("redis", reason_of(error)) from error


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


_clients: WeakSet[SharedRedis] = WeakSet()  # of this process


def leave_server(pool: ConnectionPool) -> None:
    """Leave every connection of this process to the server of `pool`, whatever its database: also those that
    only read, and would never be told. Calls that are under way have their answers before."""
    address = _address_of(pool)
    for client in [client for client in _clients if _address_of(client.connection_pool) == address]:
        client.leave()


def _address_of(pool: ConnectionPool) -> tuple[object, object]:
    return pool.connection_kwargs.get("host"), pool.connection_kwargs.get("port")


def _may_pass(error: Exception) -> bool:
    """Worth one more try, over a new connection: the first had broken, or its server said "not I"."""
    return isinstance(error, RedisConnectionError) or is_not_primary(error)


class SharedRedis(Redis):
    """The library's client, with all calls over one connection: those made together travel together, so that
    it needs no pipelines."""

    def __init__(self, pool: ConnectionPool) -> None:
        super().__init__(connection_pool=pool)
        self.link_lost = asyncio.Event()  # whoever waits for it clears it
        self._link: SharedLink | None = None
        self._opening: asyncio.Task[SharedLink] | None = None

    def register_script(self, script: str) -> SharedScript:  # type: ignore[override]  # is called alike
        return SharedScript(self, script)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        answer = await self.answer_to(args)
        options.pop("keys", None)  # of a cache that we do not have
        understood = self.response_callbacks.get(args[0])
        return understood(answer, **options) if understood else answer

    async def answer_to(self, command: tuple[Any, ...]) -> Any:
        """As it came."""
        link = await self._usable_link()
        try:
            return await link.call(command)
        except (RedisConnectionError, ResponseError) as error:
            if not _may_pass(error):
                raise
            if is_not_primary(error) and link is self._link:  # else somebody has left it before
                leave_server(self.connection_pool)
            return await (await self._usable_link()).call(command)

    async def _usable_link(self) -> SharedLink:
        if self._link is not None and self._link.is_usable:
            return self._link
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open_link(), name="redis-link")
            self._opening.add_done_callback(lambda opening: opening.cancelled() or opening.exception())
        # Shared: who is cancelled meanwhile takes it from nobody.
        return await asyncio.shield(self._opening)

    async def _open_link(self) -> SharedLink:
        self._link = await SharedLink.open(
            self.connection_pool, CALL_TIMEOUT_SECONDS, on_loss=self.link_lost.set
        )
        return self._link

    def leave(self) -> None:
        """The next call goes over a new connection."""
        if self._link is not None:
            self._link.leave()
        self._link = None

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        self.leave()
        await super().aclose(close_connection_pool)


class SharedScript:
    """The library's own asks at each call what kind of client it has, which takes longer than to send it."""

    def __init__(self, redis: SharedRedis, text: str) -> None:
        self._redis = redis
        self._text = text
        self._sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, keys: Sequence[str] = (), args: Sequence[str | int] = ()) -> Any:
        command = ("EVALSHA", self._sha, len(keys), *keys, *args)
        try:
            return await self._redis.answer_to(command)
        except NoScriptError:
            await self._redis.script_load(self._text)
            return await self._redis.answer_to(command)


@asynccontextmanager
async def open_redis(url: str) -> AsyncIterator[SharedRedis]:
    """A client whose calls share one connection; a broken one is replaced once, a timeout is not retried."""
    server_url, options = pool_options(url)
    pool = ConnectionPool.from_url(
        server_url,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_timeout=CALL_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 1),
        decode_responses=True,
        **options,
    )
    client = SharedRedis(pool)
    _clients.add(client)
    try:
        yield client
    finally:
        _clients.discard(client)
        await client.aclose()
        await pool.aclose()
