"""Stored values and events as another version, or nobody, would have written them.

Each case brings a job as far as it may come, alters one thing of it on the real Redis, and lets everybody
read it: the consumer, the obituary reader, the gateway's calls and a stream. FUZZ_CASES is the dose;
FUZZ_SEED repeats a run.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID, uuid4

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from redis.asyncio import Redis

from growbin.adapters.rabbitmq.job_event import BadEvent, decode_event, encode_event
from growbin.adapters.redis import keys
from growbin.adapters.redis.agenda import RedisAgenda
from growbin.adapters.redis.connection import open_redis
from growbin.adapters.redis.job_records import RedisJobRecords
from growbin.adapters.redis.progress_feed import RedisProgressFeed
from growbin.adapters.redis.progress_log import RedisProgressLog
from growbin.adapters.redis.session_jobs import RedisSessionJobs
from growbin.adapters.redis.sessions import RedisSessions
from growbin.certainty import Thresholds
from growbin.consumer.breakers import Breakers
from growbin.consumer.context import Consumer
from growbin.consumer.handle_job import handle_job
from growbin.consumer.obituaries import end_dead_job
from growbin.gateway.app import build_app
from growbin.gateway.context import Gateway
from growbin.gateway.erasure import Eraser
from growbin.gateway.hub import Hub
from growbin.gateway.notices import Notices
from growbin.gateway.stream_slots import SLOTS
from growbin.job import (
    CleanPhoto,
    ContentType,
    Failure,
    FetchedPhoto,
    Job,
    Locale,
    ModelAnswer,
    Stage,
    Upload,
)
from growbin.ports import Ack, Agenda, Obituary, Retry, Started
from growbin.rules.overlay import load_rulebook
from growbin.rules.things import ThingFinder
from growbin.usage import Usage
from tests.fakes import Clock, FakeJobQueue, FakeOutages, FakePhotoCache, FakeUploadStore
from tests.unit.gateway_node import JPEG, LIMITS

CASES = int(os.environ.get("FUZZ_CASES", "250"))
SEED = int(os.environ.get("FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 1_000_000)
CASE_SECONDS = 10.0
MOST_DELIVERIES = 6  # four starts, and one more for each of two surprises

SEEN = {"name": "병", "category": "recyclable", "material": "glass", "confidence": 0.9, "condition": []}
ANSWER = ModelAnswer(text=json.dumps({"items": [SEEN], "answer": None}), model="test", usage=Usage())

What = Literal["record", "snapshot", "log", "result", "answer", "attempts", "event", "claim", "list"]
Way = Literal["awaiting", "queued", "begun", "answered", "done", "failed", "erased"]
WHATS: tuple[What, ...] = (
    *("record", "snapshot", "log", "result", "answer", "attempts", "event", "claim", "list"),
)
WAYS: tuple[Way, ...] = ("awaiting", "queued", "begun", "answered", "done", "failed", "erased")


class Outside:
    """Photo source, cleaner and model in one; nothing goes wrong here."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    async def fetch(self, key: str, etag: str, length: int) -> FetchedPhoto:
        return FetchedPhoto(JPEG, "cdn", "miss")

    async def clean(self, data: bytes, target: ContentType, **_: object) -> CleanPhoto:
        return CleanPhoto(data, target, 10, 10)

    async def ask(self, photo: CleanPhoto, question: str | None, locale: Locale) -> ModelAnswer:
        self.calls["all"] += 1
        return ANSWER


@dataclass
class World:
    """A gateway's application and a consumer on the real Redis; what lies outside is faked."""

    redis: Redis
    jobs: Redis
    sessions_redis: Redis
    records: RedisJobRecords
    progress: RedisProgressLog
    consumer: Consumer
    uploads: FakeUploadStore
    client: TestClient[Any, Any]
    app: web.Application
    outside: Outside
    outcomes: Counter[str] = field(default_factory=Counter)


@pytest_asyncio.fixture
async def world(parts: dict[str, str]) -> AsyncIterator[World]:
    server_url = parts["REDIS_URL"].rstrip("/")
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        records = await enter(
            RedisJobRecords.open(
                jobs_url=f"{server_url}/0",
                sessions_url=f"{server_url}/3",
                ticket_seconds=300,
                deadline_seconds=300,
            )
        )
        progress = await enter(
            RedisProgressLog.open(url=f"{server_url}/2", image_base_url="http://cdn.test", lease_seconds=5)
        )
        hub = Hub(progress, buffer_events=64)
        stack.push_async_callback(hub.close)
        hub.attach(
            await enter(
                RedisProgressFeed.open(
                    url=f"{server_url}/2",
                    on_entry=hub.on_entry,
                    on_gap=hub.on_gap,
                    on_loss=hub.on_loss,
                    on_session_job=hub.on_session_job,
                )
            )
        )
        uploads, outside = FakeUploadStore(), Outside()
        sessions = await enter(RedisSessions.open(url=f"{server_url}/3"))
        # Nobody works on it: its entries are the gateways' that other tests start.
        agenda = await enter(RedisAgenda.open(url=f"{server_url}/2"))
        app = app_on(records, sessions, progress, uploads, agenda, hub)
        client = TestClient(TestServer(app), cookie_jar=aiohttp.DummyCookieJar())
        await client.start_server()
        stack.push_async_callback(client.close)
        consumer = Consumer(
            leases=progress,
            progress=progress,
            calls=progress,
            uploads=uploads,
            photos=outside,
            cleaner=outside,
            analyst=outside,
            image_base_url="http://cdn.test",
            cache_seconds=60,
            rules=load_rulebook(None),
            thresholds_of=lambda _answered: Thresholds(sure=0.8, probable=0.5),
            lease_renew_seconds=1,
            max_starts=4,
            breakers=Breakers({}, FakeOutages(Clock())),
        )
        yield World(
            await enter(open_redis(f"{server_url}/2")),
            await enter(open_redis(f"{server_url}/0")),
            await enter(open_redis(f"{server_url}/3")),
            records,
            progress,
            consumer,
            uploads,
            client,
            app,
            outside,
        )


def app_on(
    records: RedisJobRecords,
    sessions: RedisSessions,
    progress: RedisProgressLog,
    uploads: FakeUploadStore,
    agenda: Agenda,
    hub: Hub,
) -> web.Application:
    rules = load_rulebook(None)
    eraser = Eraser(
        agenda=agenda,
        progress=progress,
        records=records,
        uploads=uploads,
        photo_cache=FakePhotoCache(),
    )
    gateway = Gateway(
        limits=LIMITS,
        cdn_base_url="http://cdn.test",
        upload_origin="http://s3.test",
        allowed_origins=frozenset(),
        trusted_proxies=(),
        secure_cookies=False,
        takes_questions=True,
        rules=rules,
        things=ThingFinder(rules),
        records=records,
        sessions=sessions,
        progress=progress,
        session_jobs=RedisSessionJobs(progress),
        uploads=uploads,
        queue=FakeJobQueue(),
        eraser=eraser,
        hub=hub,
        news=progress,
        notices=Notices(FakeOutages(Clock()), FakeJobQueue()),
    )
    return build_app(gateway)


# --- one case ------------------------------------------------------------------------------------


@pytest.mark.timeout(60 + CASES * 0.3)
async def test_altered_values_have_an_outcome_each(world: World) -> None:
    """No call answers 5xx, no message comes for ever, no bug is met, no stream slot is lost, and whoever
    owns the job can delete it."""
    choice = random.Random(SEED)
    print(f"FUZZ_SEED={SEED} FUZZ_CASES={CASES}")
    for number in range(CASES):
        what, way = choice.choice(WHATS), choice.choice(WAYS)
        try:
            async with asyncio.timeout(CASE_SECONDS):
                await _one_case(world, choice, what, way)
        except BaseException as failure:
            failure.add_note(f"case {number} of seed {SEED}: {what} of a job that is {way}")
            raise
    print(dict(sorted(world.outcomes.items())))


async def test_result_of_a_newer_version_is_handed_on_as_it_was_written(world: World) -> None:
    """A client may know more of a result than this gateway does: reads and streams show it whole."""
    caller, owner = await _newcomer(world)
    job, _ = await _made(world, owner, "done")
    key = keys.result(job.job_id)
    stored = json.loads(await _answer(world.redis.get(key)))
    doubt = {"reason": "far", "text": "가까이서 찍어 주세요", "choices": []}
    stored["data"]["result"] |= {"certainty": "unsure", "ask_back": doubt}
    stored["data"]["notes"] = []
    await _answer(world.redis.set(key, json.dumps(stored, ensure_ascii=False)))
    await _answer(world.redis.delete(keys.progress(job.job_id), keys.events(job.job_id)))  # an hour later
    path = f"/api/v1/waste/jobs/{job.job_id}"
    async with world.client.get(path, headers=caller.headers) as answer:
        assert (await answer.json())["result"] == stored["data"]["result"]
    async with world.client.get(f"{path}/events", headers=caller.headers) as stream:
        told = (await stream.text()).partition("data: ")[2].partition("\n")[0]
    assert json.loads(told) == stored["data"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stage":"done"}', '{"stage":7,"run":"x"}'])
async def test_end_that_cannot_be_read_is_an_end_and_is_left_alone(world: World, text: str) -> None:
    """Nothing is written over it and nothing is paid again: a newer version may be able to read it."""
    _, owner = await _newcomer(world)
    job, _ = await _made(world, owner, "done")
    await _answer(world.redis.set(keys.result(job.job_id), text))
    calls = world.outside.calls["all"]
    assert await _delivered(world, encode_event(job)) == "acknowledged"
    state = await world.progress.state(job.job_id)
    assert state is not None
    assert (state.entry.event, state.is_readable) == ("failed", False)
    assert await _answer(world.redis.get(keys.result(job.job_id))) == text
    assert job.public_key in world.uploads.published  # it may have been done: nobody takes its photo back
    assert world.outside.calls["all"] == calls


async def test_end_of_which_only_the_owner_can_be_read_is_told_and_can_be_deleted(world: World) -> None:
    """When the record has gone, its client still hears an end, and DELETE works."""
    caller, owner = await _newcomer(world)
    job, _ = await _made(world, owner, "done")
    await world.records.erase(job.job_id)
    await _answer(world.redis.set(keys.result(job.job_id), json.dumps({"owner": owner, "stage": "done"})))
    await _answer(world.redis.delete(keys.progress(job.job_id), keys.events(job.job_id)))
    path = f"/api/v1/waste/jobs/{job.job_id}"
    async with world.client.get(path, headers=caller.headers) as answer:
        assert (await answer.json())["failure"]["code"] == "internal"
    async with world.client.get(f"{path}/events", headers=caller.headers) as stream:
        assert "event: failed" in await stream.text()
    assert await caller.delete(path) == 204


@pytest.mark.parametrize(
    "odd",
    [
        '"x":1e999',
        '"x":' + "[" * 900 + "]" * 900,
        '"x":[]',
        '"epoch":"ZZ yy"',
        '"owner":"é"',
        '"run":1e300',
    ],
)
@pytest.mark.parametrize("what", ["snapshot", "record"])
async def test_value_that_one_side_reads_and_the_other_cannot_write_holds_nothing_up(
    world: World, what: What, odd: str
) -> None:
    """Numbers, depths and texts that JSON, Lua and Python see differently: every call answers, the message is
    settled, and the job can be deleted."""
    caller, owner = await _newcomer(world)
    job, _ = await _made(world, owner, "begun" if what == "snapshot" else "awaiting")
    redis, key = (
        (world.redis, keys.progress(job.job_id))
        if what == "snapshot"
        else (world.jobs, keys.record(job.job_id))
    )
    text = await _answer(redis.get(key))
    await _answer(redis.set(key, f"{text[:-1]},{odd}}}", keepttl=True))
    path = f"/api/v1/waste/jobs/{job.job_id}"
    await caller.get(path)
    await caller.get("/api/v1/waste/jobs")
    await caller.post(f"/upload-complete/{job.job_id}")
    assert await _delivered(world, encode_event(job)) == "acknowledged"
    await caller.post(f"{path}/cancel")
    assert await caller.delete(path) == 204


@pytest.mark.parametrize("name", [keys.progress, keys.result, keys.events])
async def test_key_of_another_type_holds_nothing_up(world: World, name: Callable[[UUID], str]) -> None:
    """Somebody else's hash under a key of ours counts as a value that cannot be read."""
    caller, owner = await _newcomer(world)
    job, _ = await _made(world, owner, "begun")
    await _answer(world.redis.delete(name(job.job_id)))
    await _answer(world.redis.hset(name(job.job_id), "a", "b"))
    await caller.get(f"/api/v1/waste/jobs/{job.job_id}")
    assert await _delivered(world, encode_event(job)) == "acknowledged"
    assert await caller.delete(f"/api/v1/waste/jobs/{job.job_id}") == 204


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stage":"fetching"}', '{"stage":7,"run":"x"}'])
async def test_snapshot_that_cannot_be_read_counts_as_lost(world: World, text: str) -> None:
    """The job goes on with a new history, as after a lost disk; who has the old one gets `reset`."""
    _, owner = await _newcomer(world)
    job, _ = await _made(world, owner, "begun")
    before = await world.progress.history(job.job_id, None)
    assert before is not None
    await _answer(world.redis.set(keys.progress(job.job_id), text))
    assert await _delivered(world, encode_event(job)) == "acknowledged"
    after = await world.progress.history(job.job_id, before.entries[-1].id)
    assert after is not None
    assert after.reset
    assert after.state.entry.event == "done"


async def test_log_with_an_entry_that_cannot_be_read_gives_a_reset(world: World) -> None:
    """A stream cannot go on over it: its client gets the whole present instead."""
    _, owner = await _newcomer(world)
    job, _ = await _made(world, owner, "done")
    await _answer(world.redis.lset(keys.events(job.job_id), 2, "nonsense"))
    history = await world.progress.history(job.job_id, None)
    assert history is not None
    assert history.reset
    assert [entry.event for entry in history.entries] == ["done"]


async def _one_case(world: World, choice: random.Random, what: What, way: Way) -> None:
    caller, owner = await _newcomer(world)
    job, idempotency_key = await _made(world, owner, way)
    body = encode_event(job)
    if what == "event":
        body = _altered(choice, body.decode())
    else:
        await _alter(world, choice, what, job, owner, idempotency_key)

    await caller.get(f"/api/v1/waste/jobs/{job.job_id}")
    await _delivered(world, body)
    await _read_stream(caller, job.job_id, choice)
    await caller.get("/api/v1/waste/jobs")
    await caller.post(f"/upload-complete/{job.job_id}")
    await caller.post("/api/v1/waste/analyze", {"Idempotency-Key": idempotency_key})
    await caller.post(f"/api/v1/waste/jobs/{job.job_id}/cancel")
    deleted = await caller.delete(f"/api/v1/waste/jobs/{job.job_id}")
    # The owner is known from the record, or from what is kept of the job: one alteration leaves one of them.
    assert deleted == 204, f"DELETE answered {deleted}"
    state = await world.progress.state(job.job_id)
    assert state is not None
    assert state.is_erased
    assert await _delivered(world, encode_event(job)) == "acknowledged"  # late: it brings nothing back
    assert not world.app[SLOTS]._by_owner
    world.outcomes[what] += 1


async def _made(world: World, owner: str, way: Way) -> tuple[Job, str]:
    """A job that has come as far as `way`, and the idempotency key that made it."""
    job_id, idempotency_key = uuid4(), str(uuid4())
    upload = await world.records.create(
        Upload(
            job_id=job_id,
            owner=owner,
            key=f"incoming/{job_id}.jpg",
            image_url=f"http://cdn.test/{job_id}.jpg",
            created_at_ms=0,
            ticket_expires_at_ms=0,
        ),
        idempotency_key,
    )
    await world.records.list_job(upload)
    await world.progress.open_job(upload, upload.created_at_ms + 600_000)
    world.uploads.put(upload.key, JPEG)
    stored = await world.uploads.look(upload.key)
    assert stored is not None
    accepted = await world.records.accept(job_id, stored.etag, stored.length, "image/jpeg")
    assert accepted is not None
    job = Job.model_validate(accepted.model_dump(include=set(Job.model_fields)))
    if way == "awaiting":
        return job, idempotency_key
    await world.records.mark_published(job_id)
    await world.progress.queue_job(job)
    if way == "queued":
        return job, idempotency_key
    start = await world.progress.begin(job, alone=False, call_id="test")
    assert isinstance(start, Started)
    await world.progress.announce(job, start.attempt, Stage.FETCHING)
    if way == "begun":  # and the holder died: its lease lapsed
        await world.redis.delete(keys.lease(job_id))
        return job, idempotency_key
    await world.progress.count_paid_call(job, start.attempt, "a")
    await world.progress.keep_answer(job, ANSWER, "a")
    if way in ("answered", "erased"):
        await world.progress.release(job, start.attempt)
        if way == "erased":
            await world.progress.erase(job_id, owner)
        return job, idempotency_key
    if way == "done":
        await world.progress.release(job, start.attempt)
        assert await handle_job(job, world.consumer) == Ack()
        return job, idempotency_key
    await world.progress.finish(job, start.attempt, Failure(code="internal", detail="a", retryable=True))
    return job, idempotency_key


async def _delivered(world: World, body: bytes) -> str:
    """Deliver the event as the queue would, until it is settled."""
    for _ in range(MOST_DELIVERIES):
        try:
            job = decode_event(body)
        except BadEvent as error:
            await end_dead_job(Obituary(error.job_id, None, "rejected"), world.progress, world.uploads)
            return "no event"
        verdict = await handle_job(job, world.consumer)
        if verdict == Ack():
            return "acknowledged"
        assert isinstance(verdict, Retry), f"{verdict}: a bug was met"
    raise AssertionError(f"not settled after {MOST_DELIVERIES} deliveries")


# --- altering ------------------------------------------------------------------------------------


async def _alter(
    world: World, choice: random.Random, what: What, job: Job, owner: str, idempotency_key: str
) -> None:
    """Alter one stored thing of the job, if it is there."""
    key_hash = hashlib.sha256(idempotency_key.encode()).hexdigest()
    texts: dict[What, tuple[Redis, str]] = {
        "record": (world.jobs, keys.record(job.job_id)),
        "snapshot": (world.redis, keys.progress(job.job_id)),
        "result": (world.redis, keys.result(job.job_id)),
        "answer": (world.redis, keys.answer(job.job_id)),
        "claim": (world.jobs, keys.idempotency(owner, key_hash)),
    }
    if what in texts:
        redis, key = texts[what]
        text = await _answer(redis.get(key))
        # One of record and state must go on telling whose the job is: that is all the proof there is.
        if text:
            await redis.set(key, _altered(choice, text), keepttl=True)
    elif what == "log":
        name = keys.events(job.job_id)
        length = await _answer(world.redis.llen(name))
        if length:
            place = choice.randrange(length)
            text = await _answer(world.redis.lindex(name, place))
            altered: Any = _altered(choice, text)
            await _answer(world.redis.lset(name, place, altered))
    elif what == "attempts":
        field_name = choice.choice(["token", "starts", "paid", "open", "counted", "unknown"])
        value = choice.choice(["", "x", "-1", "1.5", "1e99", "nan", "99999999999999999999", "{}"])
        await _answer(world.redis.hset(keys.attempts(job.job_id), field_name, value))
    elif what == "list":
        await _answer(world.sessions_redis.lpush(keys.session_jobs(owner), choice.choice(["", "x", "{}"])))


async def _answer(call: Any) -> Any:
    """The library annotates its commands for both of its clients."""
    return await call


def _altered(choice: random.Random, text: str) -> bytes:
    """A field gone, added, or of another type, at any depth; now and then no JSON at all."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict) or choice.random() < 0.15:
        cut = choice.randrange(len(text) + 1)
        texts = ["", "null", "[]", "{}", "7", text[:cut], text[:cut] + "\x00\n" + text[cut:]]
        return choice.choice([*(text.encode() for text in texts), text.encode() + b"\xff\xfe"])
    parent = value
    while nested := [item for item in parent.values() if isinstance(item, dict) and item]:
        if choice.random() < 0.4:
            break
        parent = choice.choice(nested)
    name = choice.choice(sorted(parent))
    match choice.randrange(4):
        case 0:
            del parent[name]
        case 1:
            parent["another_version_wrote_this"] = _anything(choice)
        case 2:
            parent[name] = _anything(choice)
        case _ if isinstance(parent[name], int):
            parent[name] = choice.choice([-1, 0, 2**31, 2**53, 2**63, 10**30, 1e300, 0.5, not parent[name]])
        case _:
            parent[name] = _anything(choice)
    return json.dumps(value).encode()


def _anything(choice: random.Random) -> Any:
    return choice.choice(
        [
            *(
                None,
                True,
                0,
                -7,
                0.5,
                math.inf,
                math.nan,
                12345678901234567,
                "",
                "x",
                "é",
                "\ud800",
                "a\x00b",
            ),
            *("ㅁ" * 600, [], [1], {}, {"text": "x"}, [{}], json.loads("[" * 300 + "]" * 300)),
        ]
    )


# --- calling -------------------------------------------------------------------------------------


@dataclass
class _Caller:
    """Somebody with a session; no call may answer 5xx."""

    client: TestClient[Any, Any]
    headers: dict[str, str]

    async def _call(self, method: str, path: str, headers: dict[str, str] | None = None) -> int:
        async with self.client.request(method, path, headers=self.headers | (headers or {})) as answer:
            text = await answer.text()
            assert answer.status < 500, f"{method} {path} answered {answer.status}: {text}"
            if text:
                json.loads(text)
            return answer.status

    async def get(self, path: str) -> int:
        return await self._call("GET", path)

    async def post(self, path: str, headers: dict[str, str] | None = None) -> int:
        return await self._call("POST", path, headers)

    async def delete(self, path: str) -> int:
        return await self._call("DELETE", path)


async def _newcomer(world: World) -> tuple[_Caller, str]:
    """A caller with a session of its own, and the hash that owns its jobs."""
    token = (await (await world.client.post("/api/v1/sessions")).json())["token"]
    caller = _Caller(world.client, {"Authorization": f"Bearer {token}"})
    return caller, hashlib.sha256(token.encode()).hexdigest()


async def _read_stream(caller: _Caller, job_id: UUID, choice: random.Random) -> None:
    """Open the job's stream, take what comes at once, and go."""
    headers = dict(caller.headers)
    if choice.random() < 0.5:
        headers["Last-Event-ID"] = choice.choice(["0.0.0", "abc.1.abc", "nonsense"])
    path = f"/api/v1/waste/jobs/{job_id}/events"
    async with caller.client.get(path, headers=headers) as stream:
        assert stream.status in (200, 204, 404), await stream.text()
        if stream.status == 200:
            assert (await stream.content.readline()).startswith(b"retry: ")
