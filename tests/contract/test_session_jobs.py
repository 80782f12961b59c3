"""What is asked of many jobs at once, on a real Valkey and as the fake: one suite for both."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import uuid4

import pytest
import pytest_asyncio

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import open_redis
from growbin.adapters.redis.progress_log import RedisProgressLog
from growbin.adapters.redis.session_jobs import RedisSessionJobs
from growbin.job import Job, Stage, Upload, job_of
from growbin.messages import failure
from growbin.ports import Accepted, SessionJobs
from growbin.rates import Holder
from tests import jobs
from tests.contract.round_trips import counting
from tests.fakes import Clock, FakeProgressLog, FakeSessionJobs

FAR_MS = 2**46  # a deadline that no test lives to see
DEADLINE_SECONDS = 100


@dataclass(frozen=True)
class Desk:
    jobs: SessionJobs
    progress: FakeProgressLog | RedisProgressLog

    async def admit(self, upload: Upload, session_most: int = 100, address_most: int = 100) -> Holder | None:
        """Who has too many already."""
        found = await self.progress.accept_job(
            upload,
            session_most=session_most,
            address_most=address_most,
            deadline_seconds=DEADLINE_SECONDS,
        )
        assert found != "over"
        return None if isinstance(found, Accepted) else found


def database(parts: dict[str, str]) -> str:
    return f"{parts['REDIS_URL'].rstrip('/')}/2"


@pytest_asyncio.fixture(params=["fake", "real"])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    if request.param == "fake":
        progress = FakeProgressLog(Clock())
        yield Desk(FakeSessionJobs(progress), progress)
        return
    url = database(request.getfixturevalue("parts"))
    async with (
        RedisProgressLog.open(url=url, image_base_url="https://cdn.test") as log,
    ):
        yield Desk(RedisSessionJobs(log), log)


def an_owner() -> str:
    return uuid4().hex * 2


def upload(owner: str, address: str | None = None) -> Upload:
    times = {
        "created_at_ms": 1,
        "ticket_expires_at_ms": 2,
        "accepted_at_ms": FAR_MS - 1,
        "deadline_ms": FAR_MS,
    }
    return jobs.upload(owner=owner, address_hash=address, **times)


async def opened(desk: Desk, owner: str, address: str | None = None) -> Job:
    made = upload(owner, address)
    await desk.progress.open_job(made, FAR_MS)
    return job_of(made)


# --- states --------------------------------------------------------------------------------------


async def test_states_are_what_each_job_says_for_itself(desk: Desk) -> None:
    """Waiting, queued, ended, deleted, unknown: the same as one by one, in the order of the question."""
    owner = an_owner()
    waiting, queued, failed, deleted = [await opened(desk, owner) for _ in range(4)]
    for job in (queued, failed, deleted):
        await desk.progress.queue_job(job)
    await desk.progress.finish(failed, None, failure("internal", "ko"))
    await desk.progress.erase(deleted.job_id, owner)
    asked = [waiting.job_id, queued.job_id, uuid4(), failed.job_id, deleted.job_id]
    states = await desk.jobs.states(asked)
    alone = [await desk.progress.state(job_id) for job_id in asked]
    told = [(state.entry, state.run, state.owner, state.image_url) if state else None for state in states]
    assert told == [
        (state.entry, state.run, state.owner, state.image_url) if state else None for state in alone
    ]
    assert [state and state.entry.event for state in states] == [
        "progress",
        "progress",
        None,
        "failed",
        "deleted",
    ]
    assert await desk.jobs.states([]) == []


async def test_list_of_fifty_jobs_is_one_round_trip(parts: dict[str, str]) -> None:
    """However far each of them has come."""
    async with (
        counting(database(parts)) as (url, sent),
        RedisProgressLog.open(url=url, image_base_url="https://cdn.test") as log,
    ):
        jobs = [await opened(Desk(RedisSessionJobs(log), log), an_owner()) for _ in range(50)]
        for job in jobs[:20]:
            await log.queue_job(job)
        for job in jobs[:10]:
            await log.finish(job, None, failure("internal", "ko"))
        before = len(sent)
        states = await RedisSessionJobs(log).states([job.job_id for job in jobs])
        assert len(sent) - before == 1
        assert [state is not None and state.entry.ends for state in states] == [True] * 10 + [False] * 40


async def test_job_that_is_due_is_expired_by_who_looks_at_the_list(desk: Desk) -> None:
    """A list shows no job that should have ended."""
    made = upload(an_owner())
    await desk.progress.open_job(made, 1)
    [state] = await desk.jobs.states([made.job_id])
    assert state is not None
    assert state.entry.event == "expired"


@pytest.mark.parametrize("change", [{"attempt": "x"}, {"seq": 0.5}, {"message": 7}, {"stage": "sorting"}])
async def test_snapshot_of_another_version_is_read_as_it_is_alone(
    parts: dict[str, str], change: dict[str, object]
) -> None:
    """What we would not write ourselves, the script reads."""
    url = database(parts)
    async with (
        open_redis(url) as redis,
        RedisProgressLog.open(url=url, image_base_url="https://cdn.test") as log,
    ):
        job = await opened(Desk(RedisSessionJobs(log), log), an_owner())
        name = keys.progress(job.job_id)
        await redis.set(name, json.dumps(json.loads(str(await redis.get(name))) | change))
        [state] = await RedisSessionJobs(log).states([job.job_id])
        alone = await log.state(job.job_id)
        assert (state and state.entry) == (alone and alone.entry)


# --- unfinished ----------------------------------------------------------------------------------


async def test_session_has_no_more_unfinished_jobs_than_it_may(desk: Desk) -> None:
    """The third of two is refused and counted nowhere; to repeat the first changes nothing."""
    owner = an_owner()
    first, second, third = [upload(owner) for _ in range(3)]
    assert [await desk.admit(it, session_most=2) for it in (first, second, first, third, third)] == [
        None,
        None,
        None,
        "session",
        "session",
    ]
    assert await desk.admit(upload(an_owner()), session_most=2) is None


async def test_address_has_no_more_unfinished_jobs_than_it_may(desk: Desk) -> None:
    """Whatever the sessions; and what its address refuses is not counted for the session."""
    address, owner = uuid4().hex[:16], an_owner()
    for _ in range(2):
        assert await desk.admit(upload(an_owner(), address), address_most=2) is None
    assert await desk.admit(upload(owner, address), session_most=1, address_most=2) == "address"
    assert await desk.admit(upload(owner), session_most=1) is None


@pytest.mark.parametrize("end", ["done", "cancelled", "deleted", "failed unreadable"])
async def test_job_that_has_ended_makes_room(desk: Desk, end: str) -> None:
    """For its session and for its address, however it ended."""
    owner, address = an_owner(), uuid4().hex[:16]
    job = await opened(desk, owner, address)
    counted = upload(owner, address).model_copy(update={"job_id": job.job_id})
    assert await desk.admit(counted, session_most=1, address_most=1) is None
    await desk.progress.queue_job(job)
    assert await desk.admit(upload(owner), session_most=1) == "session"
    assert await desk.admit(upload(an_owner(), address), address_most=1) == "address"
    if end == "done":
        await desk.progress.finish(job, None, failure("internal", "ko"))
    elif end == "cancelled":
        assert await desk.progress.cancel(job.job_id)
    elif end == "deleted":
        await desk.progress.erase(job.job_id, owner)
    else:
        await desk.progress.fail_unreadable(job.job_id, "bad_event")
    assert await desk.admit(upload(owner, address), session_most=1, address_most=1) is None


async def test_end_that_is_written_from_nothing_makes_room_too(desk: Desk) -> None:
    """Where the log was lost, the event tells whose it was."""
    owner, address = an_owner(), uuid4().hex[:16]
    lost = upload(owner, address)
    assert await desk.admit(lost, session_most=1, address_most=1) is None
    await desk.progress.finish(job_of(lost), None, failure("internal", "ko"))
    assert await desk.admit(upload(owner, address), session_most=1, address_most=1) is None


async def test_job_whose_deadline_has_passed_makes_room(parts: dict[str, str]) -> None:
    """Though nobody told of its end; and the set itself goes with the last deadline."""
    url = database(parts)
    async with (
        open_redis(url) as redis,
        RedisProgressLog.open(url=url, image_base_url="https://cdn.test") as log,
    ):
        owner = an_owner()
        desk = Desk(RedisSessionJobs(log), log)
        assert await desk.admit(upload(owner), session_most=1) is None
        name = keys.unfinished(owner)
        assert DEADLINE_SECONDS - 5 < await redis.ttl(name) <= DEADLINE_SECONDS
        for member in await redis.zrange(name, 0, -1):
            await redis.zincrby(name, -(2.0**50), str(member))
        assert await desk.admit(upload(owner), session_most=1) is None


async def test_ticket_that_nobody_uses_leaves_nothing_after_its_hour(parts: dict[str, str]) -> None:
    """Its log lives as long as its record, not until an hour after a deadline; once queued it lives on."""
    url = database(parts)
    async with (
        open_redis(url) as redis,
        RedisProgressLog.open(url=url, image_base_url="https://cdn.test", unused_ticket_seconds=900) as log,
    ):
        job = await opened(Desk(RedisSessionJobs(log), log), an_owner())
        names = (keys.progress(job.job_id), keys.events(job.job_id))
        assert [800 < await redis.ttl(name) <= 900 for name in names] == [True, True]
        await log.queue_job(job)
        assert [await redis.ttl(name) > 3600 for name in names] == [True, True]
        cancelled = await opened(Desk(RedisSessionJobs(log), log), an_owner())
        await log.cancel(cancelled.job_id)
        assert 3500 < await redis.ttl(keys.result(cancelled.job_id)) <= 3600
        assert (await log.state(cancelled.job_id)).entry.event == Stage.CANCELLED  # type: ignore[union-attr]  # else it fails
