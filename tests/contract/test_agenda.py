"""The agenda, on a real Redis and as the fake: one suite for both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from uuid import uuid4

import pytest
import pytest_asyncio

from growbin.adapters.redis import keys
from growbin.adapters.redis.agenda import RedisAgenda
from growbin.adapters.redis.connection import ask
from growbin.adapters.redis.progress_log import RedisProgressLog
from growbin.errors import Unavailable
from growbin.job import ModelAnswer
from growbin.ports import Agenda, Erasure, Started
from tests.fakes import Clock, FakeAgenda, FakeProgressLog
from tests.jobs import job_of, upload

CLAIM_SECONDS = 60
PASSES = (0, 60, 600)
DATABASE = 9  # of its own: on that of the other tests gateways work


@dataclass(frozen=True)
class Desk:
    agenda: Agenda
    other: Agenda
    progress: RedisProgressLog | FakeProgressLog
    wait: Callable[[float], Awaitable[None]]

    async def erased(self) -> Erasure:
        """The one pass that is due of a job just deleted."""
        record = upload()
        await self.progress.erase(record.job_id, record.owner)
        [erasure] = [it for it in await self.agenda.claim(10) if it.job_id == record.job_id]
        return erasure


@pytest_asyncio.fixture(params=["fake", "real"])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    if request.param == "fake":
        clock = Clock()
        progress = FakeProgressLog(clock, erased_after_seconds=PASSES)
        agenda = FakeAgenda(clock, progress._wipe, CLAIM_SECONDS)
        progress.agenda = agenda

        async def advance(seconds: float) -> None:
            clock.advance(seconds)

        yield Desk(agenda, agenda, progress, advance)
        return
    url = f"{request.getfixturevalue('parts')['REDIS_URL'].rstrip('/')}/{DATABASE}"
    async with (
        RedisProgressLog.open(
            url=url, image_base_url="http://cdn.test", erased_after_seconds=PASSES
        ) as progress_log,
        RedisAgenda.open(url=url, claim_seconds=CLAIM_SECONDS) as agenda_log,
        RedisAgenda.open(url=url, claim_seconds=CLAIM_SECONDS) as other,
    ):

        async def age(seconds: float) -> None:
            for entry in await ask(agenda_log._redis.zrange(keys.AGENDA, 0, -1)):
                await ask(agenda_log._redis.zincrby(keys.AGENDA, -seconds * 1000, entry))

        yield Desk(agenda_log, other, progress_log, age)
        await ask(agenda_log._redis.delete(keys.AGENDA))


async def test_deleted_job_comes_due_at_once_and_again_later(desk: Desk) -> None:
    """Each pass once; the last stays where it is until its time has come."""
    erasure = await desk.erased()
    assert not erasure.is_repeated
    await desk.agenda.done(erasure)
    assert not await desk.agenda.claim(10)
    await desk.wait(61)
    [second] = await desk.agenda.claim(10)
    assert (second.job_id, second.is_repeated) == (erasure.job_id, False)
    await desk.agenda.done(second)
    await desk.wait(61)
    assert not await desk.agenda.claim(10)


async def test_claimed_pass_is_nobody_elses_for_a_while(desk: Desk) -> None:
    """Two gateways that look at once: one gets it. When that one dies, it comes due again, and says so."""
    record = upload()
    await desk.progress.erase(record.job_id, record.owner)
    one, two = await asyncio.gather(desk.agenda.claim(10), desk.other.claim(10))
    assert len(one) + len(two) == 1
    await desk.wait(CLAIM_SECONDS + 1)
    again = [it for it in await desk.other.claim(10) if it.is_repeated]
    assert [it.job_id for it in again] == [record.job_id]
    await desk.other.done(again[0])
    await desk.wait(CLAIM_SECONDS + 1)
    assert again[0].entry not in [it.entry for it in await desk.agenda.claim(10)]


async def test_no_more_are_claimed_than_are_asked_for(desk: Desk) -> None:
    """The rest stays for whoever asks next."""
    for _ in range(5):
        await desk.progress.erase(uuid4(), "a" * 64)
    assert [len(await desk.agenda.claim(3)), len(await desk.agenda.claim(3))] == [3, 2]


async def test_repeated_deletion_puts_off_no_pass(desk: Desk) -> None:
    """Who deletes again and again does not keep the last pass away."""
    record = upload()
    for _ in range(3):
        await desk.progress.erase(record.job_id, record.owner)
        await desk.wait(30)
    passes = [it.entry for it in await desk.agenda.claim(10)]
    assert len(passes) == 2  # the first and the second


async def test_wiped_job_keeps_its_tombstone(desk: Desk) -> None:
    """Whatever an earlier version's consumer wrote after the deletion goes."""
    record = upload()
    job = job_of(record)
    assert isinstance(await desk.progress.begin(job, alone=False, call_id="1"), Started)
    await desk.progress.keep_answer(job, 1, ModelAnswer(text="{}"), "c1")
    await desk.progress.erase(job.job_id, record.owner)
    await desk.agenda.wipe(job.job_id)
    state = await desk.progress.state(job.job_id)
    assert state is not None
    assert state.is_erased
    if isinstance(desk.progress, RedisProgressLog):
        left = await ask(desk.progress._redis.keys(f"job:{{{job.job_id}}}*"))
        assert left == [keys.result(job.job_id)]


async def test_entry_of_another_version_is_left_to_it(parts: dict[str, str]) -> None:
    """What cannot be read is no reason to read nothing."""
    async with RedisAgenda.open(url=f"{parts['REDIS_URL'].rstrip('/')}/{DATABASE}") as agenda:
        job_id = uuid4()
        await ask(agenda._redis.zadd(keys.AGENDA, {"nonsense": 1, f"{job_id} 7": 2}))
        assert [it.job_id for it in await agenda.claim(10)] == [job_id]
        await ask(agenda._redis.delete(keys.AGENDA))


async def test_agenda_without_redis_is_unavailable() -> None:
    """It is not taken to be empty."""
    async with RedisAgenda.open(url="redis://127.0.0.1:1/2") as agenda:
        with pytest.raises(Unavailable):
            await agenda.claim(10)
