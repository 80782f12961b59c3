"""What the AMQP library raises when it loses a connection, and what of it is a loss."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import AMQPConnectionError

from growbin.adapters.rabbitmq.broker_link import BrokerLink
from growbin.adapters.rabbitmq.connection import connected, losses_told
from growbin.errors import Unavailable


def failing(error: BaseException) -> asyncio.Future[None]:
    """A confirmation that will never come."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future


@pytest.mark.parametrize(
    "error",
    [
        AMQPConnectionError("closed"),
        ConnectionResetError(),
        TimeoutError(),
        RuntimeError("no channel"),
        Exception(),  # a connection that was closed without a reason
        asyncio.CancelledError(),  # heartbeats stayed away
    ],
    ids=repr,
)
async def test_loss_is_unavailable(error: BaseException) -> None:
    """However the library words it."""
    with pytest.raises(Unavailable) as told, losses_told():
        await failing(error)
    assert told.value.__cause__ is error


async def test_task_that_is_cancelled_ends_cancelled() -> None:
    """A cancellation that somebody asked for is none of the broker's."""

    async def wait() -> None:
        with losses_told():
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_own_time_limit_is_unavailable() -> None:
    """A limit cancels what it holds, and is a time-out all the same."""
    with pytest.raises(Unavailable) as told, losses_told():
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()
    assert isinstance(told.value.__cause__, TimeoutError)


async def test_bug_stays_a_bug() -> None:
    """What the library never raises for a loss is not taken for one."""
    with pytest.raises(KeyError), losses_told():
        raise KeyError("bug")


async def test_attempt_that_fails_is_closed() -> None:
    """Left to the library's finaliser, it would be closed wherever garbage is collected: in any thread."""
    with pytest.raises(AMQPConnectionError) as failure:
        async with connected(["amqp://127.0.0.1:1"], "test", 5):
            pass
    attempts = [one for one in gc.get_objects() if type(one) is aio_pika.Connection and one.url.port == 1]
    assert failure.value.__traceback__  # which holds the attempt
    assert [attempt.is_closed for attempt in attempts] == [True]


class Lossy(BrokerLink):
    """Loses a cancellation, as the library does with one that comes just as the broker answers."""

    begun, stands = asyncio.Event(), asyncio.Event()

    async def _stand(self, url: str) -> None:
        self.begun.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        self.stands.set()
        await asyncio.Event().wait()


async def set_up_nothing(_connection: AbstractConnection) -> None:
    pass


async def test_link_is_left_though_the_library_lost_the_cancellation() -> None:
    """The connection stands as if nothing had been said, and is given up all the same."""

    async def come_and_go() -> None:
        async with Lossy.open(["amqp://127.0.0.1"], "test", set_up_nothing) as link:
            assert isinstance(link, Lossy)
            await link.begun.wait()

    visit = asyncio.create_task(come_and_go())
    await asyncio.wait([visit], timeout=30)
    assert (visit.done(), Lossy.stands.is_set()) == (True, True)
