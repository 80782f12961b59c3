"""The job queue, on a real RabbitMQ and as the fake: one suite for what is published and what each verdict
does. What only RabbitMQ knows is in test_job_queue.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import aio_pika
import pytest
import pytest_asyncio

from growbin.adapters.rabbitmq.job_event import decode_event
from growbin.adapters.rabbitmq.job_queue import RabbitJobQueue
from growbin.adapters.rabbitmq.letters import RabbitDeadLetters
from growbin.adapters.rabbitmq.topology import Topology
from growbin.errors import Unavailable
from growbin.job import Job
from growbin.ports import (
    Ack,
    DeadLetter,
    DeadLetters,
    HandBack,
    Handler,
    JobQueue,
    Letter,
    Obituary,
    Retry,
    Verdict,
)
from tests.fakes import FakeJobQueue
from tests.jobs import job_of, upload

SOON_SECONDS = 30


@dataclass
class Desk:
    """A queue, its letters, what its obituary reader was told, and what nobody has in hand:
    `take_waiting` takes it out."""

    queue: JobQueue
    letters: DeadLetters
    take_waiting: Callable[[], Awaitable[list[Job]]]
    obituaries: asyncio.Queue[Obituary] = field(default_factory=asyncio.Queue)
    code: str | None = "internal"  # how its job ended, as the reader says
    bugs: list[Exception] = field(default_factory=list)  # what the next obituaries run into

    @asynccontextmanager
    async def consuming(
        self, handle: Handler, concurrency: Callable[[], int] = lambda: 4, grace_seconds: float = 5
    ) -> AsyncIterator[None]:
        async def note_obituary(obituary: Obituary) -> str | None:
            if self.bugs:
                raise self.bugs.pop()
            self.obituaries.put_nowait(obituary)
            return self.code

        async with (
            self.queue.consuming(
                handle, note_obituary, concurrency=concurrency, grace_seconds=grace_seconds
            ) as is_subscribed,
            asyncio.timeout(SOON_SECONDS * 2),
        ):
            while not is_subscribed():
                await asyncio.sleep(0.02)
            yield


@pytest_asyncio.fixture(params=["fake", "real"])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    if request.param == "fake":
        fake = FakeJobQueue()

        async def take_all() -> list[Job]:
            return [fake.waiting.popleft() for _ in range(len(fake.waiting))]

        yield Desk(fake, fake.letters, take_all)
        return
    parts = request.getfixturevalue("parts")
    url = parts["RABBITMQ_URL"]
    topology = Topology(f"test-{uuid4().hex[:12]}")
    async with await aio_pika.connect(url) as connection:
        await topology.declare(connection)
        channel = await connection.channel()
        main = await channel.get_queue(topology.name, ensure=False)

        async def take_waiting() -> list[Job]:
            taken = []
            while (message := await main.get(fail=False)) is not None:
                await message.ack()
                taken.append(decode_event(message.body))
            return taken

        async with (
            RabbitJobQueue.open(
                urls=[url],
                queue_name=topology.name,
                publish_timeout_seconds=SOON_SECONDS,
                management_url=parts["RABBITMQ_MANAGEMENT_URL"],
            ) as queue,
            RabbitDeadLetters.open(urls=[url], queue_name=topology.name) as letters,
        ):
            yield Desk(queue, letters, take_waiting)
        for name, _ in topology.queues():
            await channel.queue_delete(name)
        await channel.exchange_delete(topology.dead_exchange)


def job(*, run: int = 1) -> Job:
    return job_of(upload(), run=run)


async def test_published_job_is_handled_once_and_acknowledged(desk: Desk) -> None:
    """A job goes from publish to handler, as it was, and an acknowledged one is gone."""
    seen: asyncio.Queue[Job] = asyncio.Queue()

    async def handle(delivered: Job) -> Verdict:
        seen.put_nowait(delivered)
        return Ack()

    event = job()
    await desk.queue.publish(event)  # before anybody reads
    async with desk.consuming(handle):
        assert await asyncio.wait_for(seen.get(), SOON_SECONDS) == event
    assert seen.empty()
    assert await desk.take_waiting() == []


async def test_retry_comes_back_after_its_delay(desk: Desk) -> None:
    """A job to retry is delivered again as it was, not before its step."""
    times: list[float] = []
    again: asyncio.Queue[Job] = asyncio.Queue()

    async def handle(delivered: Job) -> Verdict:
        times.append(time.monotonic())
        if len(times) == 1:
            return Retry(1)
        again.put_nowait(delivered)
        return Ack()

    event = job()
    async with desk.consuming(handle):
        await desk.queue.publish(event)
        assert await asyncio.wait_for(again.get(), SOON_SECONDS) == event
    assert times[1] - times[0] >= 1


async def test_dead_letter_gets_an_obituary_and_leaves_a_letter(desk: Desk) -> None:
    """Its reader hears the broker's word for why, and what it says goes to people, without the event."""

    async def handle(_: Job) -> Verdict:
        return DeadLetter("bad_answer")

    event = job()
    async with desk.consuming(handle):
        await desk.queue.publish(event)
        obituary = await asyncio.wait_for(desk.obituaries.get(), SOON_SECONDS)
        letter = await first_letter(desk)
    assert obituary == Obituary(event.job_id, event, "rejected", obituary.died_at)
    assert (letter.job_id, letter.reason, letter.code) == (event.job_id, "rejected", "internal")
    assert letter.died_at is not None
    assert event.owner.encode() not in letter.body
    assert await desk.take_waiting() == []


async def first_letter(desk: Desk) -> Letter:
    async with asyncio.timeout(SOON_SECONDS):
        while not (found := await desk.letters.list()):
            await asyncio.sleep(0.02)
    return found[0]


async def test_dead_letter_of_a_deleted_job_leaves_nothing(desk: Desk) -> None:
    """Its owner wants it gone: the reader says so."""

    async def handle(_: Job) -> Verdict:
        return DeadLetter("internal")

    desk.code = None
    async with desk.consuming(handle):
        await desk.queue.publish(job())
        await asyncio.wait_for(desk.obituaries.get(), SOON_SECONDS)
    assert not await desk.letters.list()


async def test_handler_that_hits_a_bug_makes_a_dead_letter(desk: Desk) -> None:
    """Its job does not come again to hit it again, and the next one is handled."""
    handled: asyncio.Queue[Job] = asyncio.Queue()
    broken, sound = job(), job()

    async def handle(delivered: Job) -> Verdict:
        if delivered == broken:
            raise ZeroDivisionError("bug")
        handled.put_nowait(delivered)
        return Ack()

    async with desk.consuming(handle):
        for event in (broken, sound):
            await desk.queue.publish(event)
        assert await asyncio.wait_for(handled.get(), SOON_SECONDS) == sound
        assert (await asyncio.wait_for(desk.obituaries.get(), SOON_SECONDS)).job == broken
        assert (await first_letter(desk)).job_id == broken.job_id


async def test_obituary_that_hits_a_bug_comes_again(desk: Desk) -> None:
    """Whoever waits for that job must hear its end, however often it takes."""

    async def handle(_: Job) -> Verdict:
        return DeadLetter("internal")

    event = job()
    desk.bugs = [Unavailable("redis", "away"), KeyError("bug")]
    async with desk.consuming(handle):
        await desk.queue.publish(event)
        obituary = await asyncio.wait_for(desk.obituaries.get(), SOON_SECONDS)
    assert obituary.job == event


async def test_job_that_is_handed_back_is_delivered_again(desk: Desk) -> None:
    """It was not touched, and waits for whoever takes it next."""
    seen: asyncio.Queue[Job] = asyncio.Queue()

    async def handle(delivered: Job) -> Verdict:
        seen.put_nowait(delivered)
        return HandBack() if seen.qsize() == 1 else Ack()

    event = job()
    async with desk.consuming(handle):
        await desk.queue.publish(event)
        async with asyncio.timeout(SOON_SECONDS):
            while seen.qsize() < 2:
                await asyncio.sleep(0.02)
    assert [seen.get_nowait(), seen.get_nowait()] == [event, event]
    assert await desk.take_waiting() == []
    assert not await desk.letters.list()


async def test_leaving_waits_for_running_jobs_and_their_acknowledgements(desk: Desk) -> None:
    """A graceful stop finishes what is in hand and acknowledges it; what waits is left to others."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def handle(_: Job) -> Verdict:
        begun.set()
        await asyncio.sleep(0.5)
        ended.set()
        return Ack()

    waiting = job()
    async with desk.consuming(handle, concurrency=lambda: 1):
        await desk.queue.publish(job())
        await asyncio.wait_for(begun.wait(), SOON_SECONDS)
        await desk.queue.publish(waiting)
    assert ended.is_set()
    assert await desk.take_waiting() == [waiting]


async def test_job_that_outlasts_the_grace_is_handed_back(desk: Desk) -> None:
    """When the grace is over the job is cancelled and returns to the queue."""
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def handle(_: Job) -> Verdict:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return Ack()

    event = job()
    async with desk.consuming(handle, grace_seconds=0.2):
        await desk.queue.publish(event)
        await asyncio.wait_for(begun.wait(), SOON_SECONDS)
    assert cancelled.is_set()
    assert await desk.take_waiting() == [event]


async def test_at_concurrency_zero_only_obituaries_are_read_until_it_grows(desk: Desk) -> None:
    """A dead letter's end is written though no job may be taken; then as many at once as are allowed."""
    wanted, most = 0, 0
    in_hand: set[Job] = set()
    handled: asyncio.Queue[Job] = asyncio.Queue()

    async def die(_: Job) -> Verdict:
        return DeadLetter("internal")

    async def handle(delivered: Job) -> Verdict:
        nonlocal most
        in_hand.add(delivered)
        most = max(most, len(in_hand))
        await asyncio.sleep(0.2)
        in_hand.discard(delivered)
        handled.put_nowait(delivered)
        return Ack()

    dead, events = job(), [job() for _ in range(4)]
    desk.bugs = [KeyError("bug")]
    async with desk.consuming(die):
        await desk.queue.publish(dead)
        async with asyncio.timeout(SOON_SECONDS):
            while desk.bugs:
                await asyncio.sleep(0.01)
    async with desk.consuming(handle, concurrency=lambda: wanted):
        for event in events:
            await desk.queue.publish(event)
        assert (await asyncio.wait_for(desk.obituaries.get(), SOON_SECONDS)).job == dead
        await asyncio.sleep(0.3)
        assert not in_hand
        assert handled.empty()
        wanted = 2
        taken = [await asyncio.wait_for(handled.get(), SOON_SECONDS) for _ in events]
    assert set(taken) == set(events)
    assert most == 2


async def test_duplicate_while_running_shares_the_running_task(desk: Desk) -> None:
    """A second message for a job in hand waits for the first one's verdict and starts nothing; another run
    of it is another job."""
    starts: list[int] = []
    may_end = asyncio.Event()

    async def handle(delivered: Job) -> Verdict:
        starts.append(delivered.run)
        await may_end.wait()
        return Ack()

    event = job()
    async with desk.consuming(handle):
        for delivered in (event, event, event.model_copy(update={"run": 2})):
            await desk.queue.publish(delivered)
        async with asyncio.timeout(SOON_SECONDS):
            while len(starts) < 2:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        may_end.set()
    assert sorted(starts) == [1, 2]
    assert await desk.take_waiting() == []


async def test_backlog_is_what_waits(desk: Desk) -> None:
    """It counts published jobs that nobody consumes."""
    for _ in range(3):
        await desk.queue.publish(job())
    async with asyncio.timeout(SOON_SECONDS * 2):
        while (backlog := await desk.queue.backlog()) is None or backlog.waiting != 3:
            await asyncio.sleep(0.3)
