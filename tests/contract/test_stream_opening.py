"""Opening a stream, on a real Valkey: thousands may come back at once after a failover."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp
import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from growbin.adapters.redis.agenda import RedisAgenda
from growbin.adapters.redis.job_records import RedisJobRecords
from growbin.adapters.redis.progress_feed import RedisProgressFeed
from growbin.adapters.redis.progress_log import RedisProgressLog
from growbin.adapters.redis.sessions import RedisSessions
from growbin.gateway.hub import Hub
from growbin.job import Upload
from growbin.ports import Accepted
from growbin.rates import Bucket, Rate
from tests.contract.test_altered_values import app_on
from tests.fakes import FakeUploadStore
from tests.faults.instruments.proxy import Proxy
from tests.jobs import job_of, upload
from tests.unit.gateway_node import JPEG, Client

DELAY_SECONDS = 0.1
ROUND_TRIP_SECONDS = 2 * DELAY_SECONDS


@dataclass
class Opening:
    """A gateway that reaches its Redis through a proxy, and the way in for one session."""

    client: Client
    proxy: Proxy
    sessions: RedisSessions
    records: RedisJobRecords
    progress: RedisProgressLog
    uploads: FakeUploadStore

    async def ticket(self) -> tuple[Upload, str]:
        """A job that waits for its upload, and its session's token."""
        token, admission = await self.sessions.create(uuid.uuid4().hex, Rate("tickets", None, Bucket(1, 60)))
        assert admission.session is not None
        record = upload().model_copy(update={"owner": admission.session.owner})
        await self.records.create(record, None)
        await self.progress.open_job(record, record.ticket_expires_at_ms)
        await self.records.list_job(record)
        return record, token

    async def queued(self) -> tuple[Upload, str]:
        """A job under way, and its session's token."""
        record, token = await self.ticket()
        await self.progress.queue_job(job_of(record))
        return record, token

    async def first_event(self, path: str, token: str) -> str:
        headers = {"Authorization": f"Bearer {token}"}
        async with self.client.get(path, headers=headers) as stream:
            assert stream.status == 200
            while not (line := await stream.content.readline()).startswith(b"id: "):
                pass
            return line.decode()


@pytest_asyncio.fixture
async def opening(parts: dict[str, str]) -> AsyncIterator[Opening]:
    server = URL(parts["REDIS_URL"])
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        proxy = await enter(Proxy("redis", server.port or 6379))
        url = str(server.with_port(proxy.port)).rstrip("/")
        progress = await enter(RedisProgressLog.open(url=f"{url}/2", image_base_url="http://cdn.test"))
        records = await enter(
            RedisJobRecords.open(jobs_url=f"{url}/0", sessions_url=f"{url}/3", ticket_seconds=300)
        )
        sessions = await enter(RedisSessions.open(url=f"{url}/3"))
        hub = Hub(progress, buffer_events=64)
        stack.push_async_callback(hub.close)
        feed = RedisProgressFeed.open(
            url=f"{url}/2",
            on_entry=hub.on_entry,
            on_gap=hub.on_gap,
            on_loss=hub.on_loss,
            on_session_job=hub.on_session_job,
        )
        hub.attach(await enter(feed))
        agenda = await enter(RedisAgenda.open(url=f"{url}/2"))
        uploads = FakeUploadStore()
        app = app_on(records, sessions, progress, uploads, agenda, hub)
        client = TestClient(TestServer(app), cookie_jar=aiohttp.DummyCookieJar())
        await client.start_server()
        stack.push_async_callback(client.close)
        yield Opening(client, proxy, sessions, records, progress, uploads)


async def test_stream_of_a_job_is_opened_in_two_round_trips(opening: Opening) -> None:
    """The session's look-up and the subscription are under way together; then one read of the log tells whose
    job it is, and its story."""
    record, token = await opening.queued()
    path = f"/api/v1/waste/jobs/{record.job_id}/events"
    await opening.first_event(path, token)  # connected
    await opening.proxy.slow(DELAY_SECONDS)
    took = list[float]()
    for _ in range(5):  # a busy machine adds to some of them, and takes from none
        began = time.monotonic()
        await opening.first_event(path, token)
        took.append((time.monotonic() - began) / ROUND_TRIP_SECONDS)
    print(f"{min(took):.2f} round trips")
    assert min(took) < 2.7


@pytest.mark.parametrize("kind", ["job", "ticket", "session"])
async def test_stream_is_opened_with_few_commands(opening: Opening, kind: str) -> None:
    """One script that looks its session up, a subscription, a read, also before the upload; a session's
    stream reads its list and each job's state besides."""
    record, token = await (opening.ticket() if kind == "ticket" else opening.queued())
    path = f"/api/v1/waste/jobs/{record.job_id}/events"
    paths = {"job": path, "ticket": path, "session": "/api/v1/waste/events"}
    await opening.first_event(paths[kind], token)
    said = list[bytes]()
    opening.proxy.overhear = said.append
    await opening.first_event(paths[kind], token)
    sent = b"".join(said)
    names = (b"EXPIRE", b"SUBSCRIBE", b"EVALSHA", b"GET", b"LRANGE")
    counts = {name.decode(): sent.count(b"\r\n" + name + b"\r\n") for name in names}
    expected = {"EXPIRE": 0, "SUBSCRIBE": 1, "EVALSHA": 2, "GET": 0, "LRANGE": 0}
    if kind == "session":
        expected |= {"SUBSCRIBE": 2, "EVALSHA": 3, "LRANGE": 1}
    assert counts == expected


async def test_streams_that_open_at_once_are_told_from_each_other(opening: Opening) -> None:
    """Their questions travel together: a stranger's, an unknown session's and that of a client who has left
    hinder nobody, and each hears of its own job."""
    made = [await opening.queued() for _ in range(30)]

    async def open_with(record: Upload, token: str) -> str | int:
        headers = {"Authorization": f"Bearer {token}"}
        path = f"/api/v1/waste/jobs/{record.job_id}/events"
        async with opening.client.get(path, headers=headers) as stream:
            if stream.status != 200:
                return stream.status
            while not (line := await stream.content.readline()).startswith(b"data: "):
                pass
            return str(json.loads(line[6:])["job_id"])

    await open_with(*made[0])
    tokens = [token for _, token in made]
    tokens[1], tokens[2] = tokens[0], "unknown"
    await opening.proxy.slow(DELAY_SECONDS)
    opened = [
        asyncio.create_task(open_with(record, token)) for (record, _), token in zip(made, tokens, strict=True)
    ]
    await asyncio.sleep(DELAY_SECONDS / 2)
    opened[3].cancel()
    found = await asyncio.gather(*opened, return_exceptions=True)
    assert found[1:3] == [404, 401]
    assert isinstance(found[3], asyncio.CancelledError)
    others = [0, *range(4, 30)]
    assert [found[number] for number in others] == [str(made[number][0].job_id) for number in others]


async def test_streams_that_open_while_redis_is_away_are_refused_each(opening: Opening) -> None:
    """And all open once it is back."""
    made = [await opening.queued() for _ in range(10)]
    await opening.proxy.down()
    for is_away in (True, False):
        answers = await asyncio.gather(
            *(
                opening.client.get(
                    f"/api/v1/waste/jobs/{record.job_id}/events", headers={"Authorization": f"Bearer {token}"}
                )
                for record, token in made
            )
        )
        assert {answer.status for answer in answers} == {503 if is_away else 200}
        for answer in answers:
            answer.close()
        await opening.proxy.passing()


async def test_stream_of_a_job_that_may_be_in_the_queue_asks_its_record(opening: Opening) -> None:
    """It was accepted, and `queued` could not be written: whoever looks, mends."""
    record, token = await opening.ticket()
    accepted = await opening.progress.accept_job(record, session_most=9, address_most=9, deadline_seconds=300)
    assert isinstance(accepted, Accepted)
    await opening.records.mark_published(job_of(record))
    await opening.first_event(f"/api/v1/waste/jobs/{record.job_id}/events", token)
    state = await opening.progress.state(record.job_id)
    assert state is not None
    assert '"stage":"queued"' in state.entry.data


async def test_calls_of_a_job_ask_redis_eight_times(opening: Opening) -> None:
    """A ticket three times: its session, which lists it; its record; its log. Upload-complete five times: its
    session, its record, room for it in the log, and after the publish record and log again. A session's first
    is kept besides."""
    said = list[bytes]()
    opening.proxy.overhear = said.append

    def counted() -> int:
        sent = b"".join(piece for piece in said if b"canary:" not in piece)  # the feed sings
        said.clear()
        return len(re.findall(rb"\r\n(?:EVALSHA|GET|SET|PUBLISH|LRANGE|ZCARD|EXISTS)\r\n", sent))

    answer = await opening.client.post("/api/v1/sessions")
    token = (await answer.json())["token"]
    headers = {"Authorization": f"Bearer {token}"}
    counts = list[tuple[int, int]]()
    for _ in range(3):  # the first brings the scripts
        said.clear()
        answer = await opening.client.post("/api/v1/waste/analyze", json={}, headers=headers)
        assert answer.status == 201
        job_id = (await answer.json())["job_id"]
        analyzed = counted()
        opening.uploads.put(f"incoming/{job_id}", JPEG)
        answer = await opening.client.post(f"/upload-complete/{job_id}", headers=headers)
        assert answer.status == 202
        counts.append((analyzed, counted()))
    assert counts[-1] == (3, 5)
