"""How growbin connects to RabbitMQ, and learns that it has lost a connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress

import aio_pika
from aio_pika.abc import AbstractConnection
from aio_pika.connection import make_url
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

from growbin.errors import Unavailable

CLOSE_TIMEOUT_SECONDS = 0.5  # a gateway that is told to stop has two seconds for everything


@contextmanager
def losses_told() -> Iterator[None]:
    """Whatever the library raises when it loses a connection becomes Unavailable."""
    try:
        yield
    except asyncio.CancelledError as error:
        # When heartbeats stay away it cancels its reader, and hands that cancellation on to everybody who
        # waits for the broker. Nobody asked for it: a task that is really cancelled knows so.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Unavailable("rabbitmq", "no heartbeat") from error
    except Exception as error:
        # It has a bare Exception for a connection that closes without a reason.
        if isinstance(error, (*CONNECTION_EXCEPTIONS, TimeoutError)) or type(error) is Exception:
            raise Unavailable("rabbitmq", f"{type(error).__name__}: {error}") from error
        raise


@asynccontextmanager
async def connected(
    urls: Sequence[str], name: str, timeout_seconds: float
) -> AsyncIterator[AbstractConnection]:
    """To the first node that answers; `name` is what the broker shows. Raises what the library raises for
    the last node, or TimeoutError."""
    connection = await _first_that_answers(urls, name, timeout_seconds)
    try:
        yield connection
    finally:
        with suppress(Unavailable), losses_told():
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await connection.close()


async def _first_that_answers(urls: Sequence[str], name: str, timeout_seconds: float) -> AbstractConnection:
    *others, last = urls
    for url in others:
        with suppress(Unavailable), losses_told():
            return await _connect(url, name, timeout_seconds)
    return await _connect(last, name, timeout_seconds)


async def _connect(url: str, name: str, timeout_seconds: float) -> AbstractConnection:
    connection = aio_pika.Connection(make_url(url), client_properties={"connection_name": f"growbin-{name}"})
    try:
        async with asyncio.timeout(timeout_seconds):
            await connection.connect()
    except BaseException:
        # Its finaliser would close it wherever garbage is collected, also in a thread without a loop.
        await connection.close()
        raise
    return connection
