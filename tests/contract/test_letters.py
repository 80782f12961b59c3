"""The parked dead letters, on a real RabbitMQ and as the fake: one suite for both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from uuid import uuid4

import aio_pika
import pytest
import pytest_asyncio

from growbin.adapters.rabbitmq.job_event import encode_event
from growbin.adapters.rabbitmq.letters import RabbitDeadLetters
from growbin.adapters.rabbitmq.topology import Topology
from growbin.errors import Unavailable
from growbin.job import Job
from growbin.ports import DeadLetters, Letter
from tests.contract.jobs import job_of, upload
from tests.fakes import FakeDeadLetters


@dataclass(frozen=True)
class Shelf:
    """Letters, and a way to put one more beside them: a job's, or a body that is no event."""

    letters: DeadLetters
    park: Callable[[Job | bytes], Awaitable[None]]


@pytest_asyncio.fixture(params=["fake", "real"])
async def shelf(request: pytest.FixtureRequest) -> AsyncIterator[Shelf]:
    if request.param == "fake":
        fake = FakeDeadLetters()

        async def keep(what: Job | bytes) -> None:
            job = what if isinstance(what, Job) else None
            body = encode_event(what) if isinstance(what, Job) else what
            fake.parked.append(Letter(job.job_id if job else None, job, "unknown", None, body))

        yield Shelf(fake, keep)
        return
    url = request.getfixturevalue("parts")["RABBITMQ_URL"]
    topology = Topology(f"test-{uuid4().hex[:12]}")
    async with await aio_pika.connect(url) as connection:
        await topology.declare(connection)
        channel = await connection.channel()

        async def park(what: Job | bytes) -> None:
            body = encode_event(what) if isinstance(what, Job) else what
            await channel.default_exchange.publish(aio_pika.Message(body), topology.parked)

        async with RabbitDeadLetters.open(urls=[url], queue_name=topology.name) as letters:
            yield Shelf(letters, park)
        for name, _ in topology.queues():
            await channel.queue_delete(name)
        await channel.exchange_delete(topology.dead_exchange)


async def parked(shelf: Shelf, count: int) -> list[Job]:
    jobs = [job_of(upload()) for _ in range(count)]
    for job in jobs:
        await shelf.park(job)
    return jobs


async def test_listed_letters_stay(shelf: Shelf) -> None:
    """Listing loses none, however often; each letter tells its job, why it died, and its body."""
    assert list(await shelf.letters.list()) == []
    jobs = await parked(shelf, 3)
    for _ in range(25):
        assert {letter.job for letter in await shelf.letters.list()} == set(jobs)
    [letter] = [letter for letter in await shelf.letters.list() if letter.job == jobs[0]]
    assert (letter.job_id, letter.reason, letter.body) == (jobs[0].job_id, "unknown", encode_event(jobs[0]))


async def test_letter_whose_body_is_no_event_has_no_job(shelf: Shelf) -> None:
    """People are shown what it is all the same, and may remove it."""
    await shelf.park(b"nonsense")
    [letter] = await shelf.letters.list()
    assert (letter.job_id, letter.job, letter.body) == (None, None, b"nonsense")

    async def remove(_: Letter) -> bool:
        return True

    await shelf.letters.walk(remove)
    assert not await shelf.letters.list()


async def test_walk_removes_just_what_it_is_told_to(shelf: Shelf) -> None:
    """Each letter is shown once; what is not to be removed stays."""
    jobs = await parked(shelf, 3)
    shown: list[Job | None] = []

    async def remove_first(letter: Letter) -> bool:
        shown.append(letter.job)
        return letter.job == jobs[0]

    await shelf.letters.walk(remove_first)
    assert len(shown) == 3
    assert set(shown) == set(jobs)
    assert {letter.job for letter in await shelf.letters.list()} == set(jobs[1:])


async def test_walk_that_breaks_off_keeps_what_it_has_done(shelf: Shelf) -> None:
    """What was removed is gone, the letter that failed and those behind it stay."""
    await parked(shelf, 3)
    shown: list[Letter] = []

    async def remove_one(letter: Letter) -> bool:
        shown.append(letter)
        if len(shown) == 2:
            raise Unavailable("redis", "away")
        return True

    with pytest.raises(Unavailable, match="redis"):
        await shelf.letters.walk(remove_one)
    left = await shelf.letters.list()
    assert len(left) == 2
    assert shown[0].job not in {letter.job for letter in left}


async def test_letters_without_a_broker_are_unavailable() -> None:
    """An empty list would tell people that all is well."""
    urls = ["amqp://guest:guest@127.0.0.1:1/"]
    async with RabbitDeadLetters.open(urls=urls, queue_name="nowhere") as letters:
        with pytest.raises(Unavailable, match="rabbitmq"):
            await letters.list()
