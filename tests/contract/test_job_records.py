"""The records of uploads, on a real Valkey and as the fake: one suite for both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import pytest_asyncio

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import ask, open_redis
from growbin.adapters.redis.job_records import RedisJobRecords
from growbin.errors import Rejected
from growbin.job import (
    Upload,
    job_of,
)
from growbin.ports import JobRecords
from tests.fakes import Clock, FakeJobRecords

TICKET_SECONDS, DEADLINE_SECONDS = 200, 100
HOUR = 3600


def urls(parts: dict[str, str]) -> tuple[str, str]:
    server = parts["REDIS_URL"].rstrip("/")
    return f"{server}/0", f"{server}/3"


@pytest_asyncio.fixture(params=["fake", "real"])
async def records(request: pytest.FixtureRequest) -> AsyncIterator[JobRecords]:
    if request.param == "fake":
        yield FakeJobRecords(Clock(), TICKET_SECONDS)
        return
    jobs_url, sessions_url = urls(request.getfixturevalue("parts"))
    async with RedisJobRecords.open(
        jobs_url=jobs_url,
        sessions_url=sessions_url,
        ticket_seconds=TICKET_SECONDS,
    ) as real:
        yield real


def upload(owner: str | None = None, question: str | None = None) -> Upload:
    job_id = uuid4()
    return Upload(
        job_id=job_id,
        owner=owner or uuid4().hex * 2,
        key=f"incoming/{job_id}.jpg",
        image_url=f"http://cdn.test/{job_id}.jpg",
        content_type="image/jpeg",
        question=question,
        created_at_ms=0,
        ticket_expires_at_ms=0,
    )


def stamped(record: Upload, etag: str) -> Upload:
    stamps = {"etag": etag, "length": 1000, "content_type": "image/png"}
    return record.model_copy(update=stamps | {"accepted_at_ms": 2**41, "deadline_ms": 2**41 + 5})


async def publish(records: JobRecords, record: Upload, etag: str) -> None:
    await records.mark_published(job_of(stamped(record, etag)))


async def test_new_record_is_stamped_where_it_is_stored(records: JobRecords) -> None:
    """Its times are the store's, its ticket runs out after its seconds, and it is read as it was made."""
    made = await records.create(upload(question="이건 뭐예요?"), None)
    assert made.created_at_ms > 0
    assert made.ticket_expires_at_ms == made.created_at_ms + TICKET_SECONDS * 1000
    assert (made.accepted_at_ms, made.deadline_ms, made.published) == (None, None, False)
    assert await records.get(made.job_id) == made


async def test_stamps_of_the_first_publish_that_was_confirmed_stand(records: JobRecords) -> None:
    """Whatever a later try says, who repeats the call finds what is in the queue."""
    made = await records.create(upload(question="뚜껑은요?"), None)
    for etag in ("e1", "e2"):
        await publish(records, made, etag)
        assert await records.get(made.job_id) == stamped(made, "e1").model_copy(update={"published": True})


async def test_what_is_not_there_is_not_made_by_its_publish(records: JobRecords) -> None:
    """An unknown or erased record stays away, whatever is done to it."""
    made = await records.create(upload(), None)
    await records.erase(made.job_id)
    for record in (made, upload()):
        await publish(records, record, "e1")
        await records.erase(record.job_id)
        assert await records.get(record.job_id) is None


async def test_idempotency_key_gives_the_same_job_to_the_same_owner_only(records: JobRecords) -> None:
    """Repeated, it gives the first record, as it is by now; another owner's equal key is another key."""
    owner = uuid4().hex * 2
    first = await records.create(upload(owner), "key")
    await publish(records, first, "e1")
    accepted = stamped(first, "e1").model_copy(update={"published": True})
    assert await records.create(upload(owner), "key") == accepted
    assert (await records.create(upload(owner), "another")).job_id != first.job_id
    assert (await records.create(upload(owner), None)).job_id != first.job_id
    assert (await records.create(upload(), "key")).job_id != first.job_id


async def test_idempotency_key_with_another_request_is_refused(records: JobRecords) -> None:
    """The same key for another wish is a mistake that must not pass in silence."""
    owner = uuid4().hex * 2
    await records.create(upload(owner, "one"), "key")
    with pytest.raises(Rejected, match="new key") as refused:
        await records.create(upload(owner, "two"), "key")
    assert refused.value.code == "idempotency_key_reused"


async def test_idempotency_key_of_an_erased_job_is_free_again(records: JobRecords) -> None:
    """There is nothing left that it could name: the next request makes a new job, which it names then."""
    owner = uuid4().hex * 2
    first = await records.create(upload(owner), "key")
    await records.erase(first.job_id)
    second = await records.create(upload(owner), "key")
    assert second.job_id != first.job_id
    assert (await records.create(upload(owner), "key")).job_id == second.job_id


async def test_erased_record_leaves_nothing_of_its_idempotency_key(parts: dict[str, str]) -> None:
    """The key was the client's own word, and led to the job."""
    jobs_url, sessions_url = urls(parts)
    owner = uuid4().hex * 2
    async with (
        RedisJobRecords.open(jobs_url=jobs_url, sessions_url=sessions_url, ticket_seconds=300) as records,
        open_redis(jobs_url) as redis,
    ):
        made = await records.create(upload(owner), "key")
        await publish(records, made, "e1")
        assert await ask(redis.keys(f"*{owner}*"))
        await records.erase(made.job_id)
        assert await ask(redis.keys(f"*{owner}*")) == []


async def test_parallel_requests_with_one_key_make_one_job(records: JobRecords) -> None:
    """Whoever is told a job is told the same one."""
    owner = uuid4().hex * 2
    made = await asyncio.gather(*(records.create(upload(owner), "key") for _ in range(10)))
    again = await records.create(upload(owner), "key")
    assert {record.job_id for record in made} == {again.job_id}


async def test_recent_jobs_come_newest_first(records: JobRecords) -> None:
    """Of one owner, at most as many as asked for; a job that is listed again keeps its place."""
    owner = uuid4().hex * 2
    uploads = [upload(owner) for _ in range(3)]
    for listed in (*uploads, uploads[0], upload()):
        await records.list_job(listed)
    made = [listed.job_id for listed in uploads]
    assert list(await records.recent(owner, 10)) == made[::-1]
    assert list(await records.recent(owner, 2)) == made[:0:-1]


async def test_owners_list_keeps_the_latest_hundred(records: JobRecords) -> None:
    """The oldest makes room."""
    owner = uuid4().hex * 2
    uploads = [upload(owner) for _ in range(101)]
    for listed in uploads:
        await records.list_job(listed)
    assert list(await records.recent(owner, 200)) == [listed.job_id for listed in uploads[:0:-1]]


async def test_record_lives_an_hour_and_from_its_upload_on_a_day(parts: dict[str, str]) -> None:
    """A stranger's ticket goes soon; what was uploaded is kept for 24 hours, whatever is written into it
    afterwards. So is its key."""
    jobs_url, sessions_url = urls(parts)
    async with (
        RedisJobRecords.open(
            jobs_url=jobs_url,
            sessions_url=sessions_url,
            ticket_seconds=TICKET_SECONDS,
            unused_ticket_seconds=HOUR,
        ) as records,
        open_redis(jobs_url) as redis,
    ):
        made = await records.create(upload(), "key")
        name = keys.record(made.job_id)
        [key] = [found async for found in redis.scan_iter(match=f"idempotency:{{{made.owner}}}:*")]
        for kept in (name, key):
            assert HOUR - 60 < await redis.ttl(kept) <= HOUR
        await publish(records, made, "e1")
        for kept in (name, key):
            assert 24 * HOUR - 60 < await redis.ttl(kept) <= 24 * HOUR
            await redis.expire(kept, 23 * HOUR)  # an hour later
        await records.create(upload(made.owner), "key")
        await publish(records, made, "e2")
        for kept in (name, key):
            assert 22 * HOUR < await redis.ttl(kept) <= 23 * HOUR


async def test_list_of_jobs_lives_as_long_as_its_session(parts: dict[str, str]) -> None:
    """A stranger's list goes with the session that never completed an upload."""
    jobs_url, sessions_url = urls(parts)
    async with (
        RedisJobRecords.open(
            jobs_url=jobs_url,
            sessions_url=sessions_url,
            ticket_seconds=TICKET_SECONDS,
        ) as records,
        open_redis(sessions_url) as redis,
    ):
        listed = upload()
        await redis.set(keys.session(listed.owner), "1", ex=HOUR)
        await records.list_job(listed)
        assert HOUR - 60 < await redis.ttl(keys.session_jobs(listed.owner)) <= HOUR
