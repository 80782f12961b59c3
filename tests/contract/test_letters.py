"""The letters, on a real RabbitMQ and as the fake: one suite for both."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID, uuid4

import aio_pika
import pytest
import pytest_asyncio

from growbin.adapters.rabbitmq.job_event import encode_event, encode_letter
from growbin.adapters.rabbitmq.letters import RabbitDeadLetters
from growbin.adapters.rabbitmq.topology import Topology
from growbin.errors import Unavailable
from growbin.job import Job
from growbin.ports import DeadLetters, Letter, Obituary
from tests.fakes import FakeDeadLetters
from tests.jobs import job_of, upload


@dataclass(frozen=True)
class Shelf:
    """Letters, and a way to put one more beside them: a job's, or a body that is no event."""

    letters: DeadLetters
    keep: Callable[[Job | bytes], Awaitable[None]]


@pytest_asyncio.fixture(params=["fake", "real"])
async def shelf(request: pytest.FixtureRequest) -> AsyncIterator[Shelf]:
    if request.param == "fake":
        fake = FakeDeadLetters()

        async def keep(what: Job | bytes) -> None:
            fake.kept.append(letter_of(what))

        yield Shelf(fake, keep)
        return
    url = request.getfixturevalue("parts")["RABBITMQ_URL"]
    topology = Topology(f"test-{uuid4().hex[:12]}")
    async with await aio_pika.connect(url) as connection:
        await topology.declare(connection)
        channel = await connection.channel()

        async def put(what: Job | bytes) -> None:
            await channel.default_exchange.publish(aio_pika.Message(body_of(what)), topology.letters)

        async with RabbitDeadLetters.open(urls=[url], queue_name=topology.name) as letters:
            yield Shelf(letters, put)
        for name, _ in topology.queues():
            await channel.queue_delete(name)
        await channel.exchange_delete(topology.dead_exchange)


def obituary_of(what: Job | bytes) -> Obituary:
    job = what if isinstance(what, Job) else None
    return Obituary(job.job_id if job else None, job, "rejected", "2026-01-02T03:04:05+00:00")


def body_of(what: Job | bytes) -> bytes:
    body = encode_event(what) if isinstance(what, Job) else what
    return encode_letter(obituary_of(what), "internal", body)


def letter_of(what: Job | bytes) -> Letter:
    dead = obituary_of(what)
    if dead.job_id is None:
        return Letter(None, "unknown", None, None, body_of(what))
    return Letter(dead.job_id, dead.reason, "internal", dead.died_at, body_of(what))


async def kept(shelf: Shelf, count: int) -> list[Job]:
    jobs = [job_of(upload()) for _ in range(count)]
    for job in jobs:
        await shelf.keep(job)
    return jobs


async def test_listed_letters_stay(shelf: Shelf) -> None:
    """Listing loses none, however often; each letter tells its job, why and when it died, how it ended."""
    assert list(await shelf.letters.list()) == []
    jobs = await kept(shelf, 3)
    for _ in range(25):
        assert {letter.job_id for letter in await shelf.letters.list()} == {job.job_id for job in jobs}
    [letter] = [letter for letter in await shelf.letters.list() if letter.job_id == jobs[0].job_id]
    assert letter == letter_of(jobs[0])


def test_letter_of_a_job_holds_nothing_that_the_event_held() -> None:
    """Only which job, which run, why, how it ended and when."""
    job = job_of(upload()).model_copy(update={"question": "my secret", "run": 2})
    letter = json.loads(body_of(job))
    assert letter == {
        "job_id": str(job.job_id),
        "run": 2,
        "reason": "rejected",
        "code": "internal",
        "died_at": "2026-01-02T03:04:05+00:00",
    }


async def test_what_an_earlier_version_parked_is_read_beside_the_letters(parts: dict[str, str]) -> None:
    """Its queue runs dry: until then people find its letters, and may remove them."""
    topology = Topology(f"test-{uuid4().hex[:12]}")
    old, new = job_of(upload()), job_of(upload())
    async with await aio_pika.connect(parts["RABBITMQ_URL"]) as connection:
        await topology.declare(connection)
        channel = await connection.channel()
        for queue, body in ((topology.parked, encode_event(old)), (topology.letters, body_of(new))):
            await channel.default_exchange.publish(aio_pika.Message(body), queue)
        urls = [parts["RABBITMQ_URL"]]
        async with RabbitDeadLetters.open(urls=urls, queue_name=topology.name) as letters:
            found = await letters.list()
            assert {letter.job_id for letter in found} == {old.job_id, new.job_id}

            async def remove(_: Letter) -> bool:
                return True

            await letters.walk(remove)
            assert not await letters.list()
        for name, _ in topology.queues():
            await channel.queue_delete(name)
        await channel.exchange_delete(topology.dead_exchange)


async def test_letter_whose_body_is_no_event_has_no_job(shelf: Shelf) -> None:
    """People are shown what it is all the same, and may remove it."""
    await shelf.keep(b"nonsense")
    [letter] = await shelf.letters.list()
    assert (letter.job_id, letter.body) == (None, b"nonsense")

    async def remove(_: Letter) -> bool:
        return True

    await shelf.letters.walk(remove)
    assert not await shelf.letters.list()


async def test_walk_removes_just_what_it_is_told_to(shelf: Shelf) -> None:
    """Each letter is shown once; what is not to be removed stays."""
    jobs = [job.job_id for job in await kept(shelf, 3)]
    shown: list[UUID | None] = []

    async def remove_first(letter: Letter) -> bool:
        shown.append(letter.job_id)
        return letter.job_id == jobs[0]

    await shelf.letters.walk(remove_first)
    assert len(shown) == 3
    assert set(shown) == set(jobs)
    assert {letter.job_id for letter in await shelf.letters.list()} == set(jobs[1:])


async def test_walk_that_breaks_off_keeps_what_it_has_done(shelf: Shelf) -> None:
    """What was removed is gone, the letter that failed and those behind it stay."""
    await kept(shelf, 3)
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
    assert shown[0].job_id not in {letter.job_id for letter in left}


async def test_letters_without_a_broker_are_unavailable() -> None:
    """An empty list would tell people that all is well."""
    urls = ["amqp://guest:guest@127.0.0.1:1/"]
    async with RabbitDeadLetters.open(urls=urls, queue_name="nowhere") as letters:
        with pytest.raises(Unavailable, match="rabbitmq"):
            await letters.list()
