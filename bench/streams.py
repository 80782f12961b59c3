"""What a progress stream costs: growbin's gateway beside two common designs (bench/references/streams.py).

The server has one core to itself; this process (clients and publisher) and the parts share the other. All are
sent the same messages through the same Valkey; each client checks that it gets every one, once, in order.
"""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from redis.asyncio import Redis

from bench.instruments import OURS, Dose, Program, Round, Wanted, in_turn, start
from bench.system import HOST, System, started
from growbin.adapters.redis import keys
from growbin.adapters.redis.job_records import RedisJobRecords
from growbin.adapters.redis.progress_log import RedisProgressLog
from growbin.adapters.redis.sessions import RedisSessions
from growbin.job import job_of
from growbin.local.child import draw_port
from growbin.rates import Bucket, Rate
from tests.jobs import upload

SERVER_CORE, CLIENT_CORE = 0, 1
DESIGNS = (OURS, "shared", "per_client")
STREAMS, QUICK_STREAMS = (1_000, 5_000, 10_000), (1_000,)
STREAMS_OF_PER_CLIENT = 5_000  # two descriptors a client: ten thousand do not fit into a usual limit
JOB_PATH = "/api/v1/waste/jobs/{job_id}/events"
DAY_MS = 24 * 3600 * 1000
CONNECTING_AT_ONCE = 64
EVENTS_IN_FLIGHT = 1_000
FULL_SPEED_EVENTS = 40_000
STEADY_EVENTS_PER_SECOND = 300
STEADY_SECONDS = 10
SETTLE_SECONDS = 3.0
QUIET_TIMEOUT_SECONDS = 60
TICKETS = Rate("tickets", session=Bucket(1, 60), address=Bucket(1, 60))  # each job's address is its own
WRONG = "lost, doubled, disordered"


@dataclass(frozen=True, slots=True)
class WatchedJob:
    job_id: uuid.UUID
    token: str
    epoch: str
    seq: int  # of the last entry in its log


@dataclass
class Delivery:
    """What all clients together have got."""

    events: int = 0
    wrong: int = 0
    delays: list[float] = field(default_factory=list)


class Reader(asyncio.Protocol):
    """One client: counts events, checks their order, notes how long each was on its way."""

    def __init__(self, job: WatchedJob, delivery: Delivery, path: str) -> None:
        self._delivery = delivery
        self._path = path.format(job_id=job.job_id)
        self._job = job
        self._rest = b""
        self._next_seq = job.seq + 1
        self.began = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(
            f"GET {self._path} HTTP/1.1\r\nHost: {HOST}\r\n"
            f"Authorization: Bearer {self._job.token}\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        for block in blocks:
            if b"retry: " in block:
                self.began.set_result(None)
            elif (start := block.find(b"data: {")) >= 0 and b'"sent":' in block:
                self._take(block[start + 6 :])

    def _take(self, text: bytes) -> None:
        # {"sent":<seconds>,"seq":<number>,...
        sent, seq = text[8:].split(b",", 2)[:2]
        self._delivery.events += 1
        self._delivery.delays.append(time.monotonic() - float(sent))
        number = int(seq[6:])
        if number != self._next_seq:
            self._delivery.wrong += 1
        self._next_seq = number + 1

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.began.done():
            self.began.set_exception(ConnectionError("a stream was refused"))


class Publisher:
    """Sends each job's next message, straight to its channel, in the words of the real log."""

    def __init__(self, jobs: list[WatchedJob], writer: asyncio.StreamWriter) -> None:
        self._jobs = jobs
        self._seqs = [job.seq for job in jobs]
        self._writer = writer
        self.sent = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, redis_url: str, jobs: list[WatchedJob]) -> AsyncIterator[Publisher]:
        redis = urlsplit(redis_url)
        reader, writer = await asyncio.open_connection(redis.hostname, redis.port)

        async def discard() -> None:
            while await reader.read(1 << 16):
                pass

        discarding = asyncio.create_task(discard())
        writer.write(f"AUTH {redis.password}\r\n".encode())
        try:
            yield cls(jobs, writer)
        finally:
            discarding.cancel()
            writer.close()

    def publish(self) -> None:
        number = self.sent % len(self._jobs)
        job = self._jobs[number]
        self._seqs[number] += 1
        seq = self._seqs[number]
        data = (
            f'{{"sent":{time.monotonic():.6f},"seq":{seq},"job_id":"{job.job_id}","stage":"analysing",'
            '"progress":45,"message":"Looking at the photo","attempt":1,"updated_at":"2026-01-01T00:00:00Z"}'
        )
        message = f"{job.epoch}.{seq}.0a1b2c3d progress {data}".encode()
        channel = keys.events(job.job_id).encode()
        self._writer.write(
            b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n"
            % (len(channel), channel, len(message), message)
        )
        self.sent += 1


# --- one measurement ----------------------------------------------------------------------------


async def measure(design: str, settings: Mapping[str, str], jobs: list[WatchedJob]) -> Round:
    """Start the server, connect every stream, publish at full speed and steadily, stop the server."""
    async with serving(design, settings) as (server, port):
        await warm_up(jobs, port)
        delivery, figures = Delivery(), dict[str, float]()
        async with connected(jobs, port, delivery, server, figures):
            figures["pub/sub connections"] = await count_subscribers(settings["REDIS_URL"])
            async with Publisher.open(settings["REDIS_URL"], jobs) as publisher:
                before, began = server.cpu(), time.monotonic()
                await at_full_speed(publisher, delivery)
                figures["events/s at full speed"] = FULL_SPEED_EVENTS / (time.monotonic() - began)
                figures["µs an event"] = (server.cpu() - before).own / FULL_SPEED_EVENTS * 1e6
                delivery.delays.clear()
                before = server.cpu()
                await steadily(publisher, delivery)
                events = STEADY_EVENTS_PER_SECOND * STEADY_SECONDS
                figures["µs an event at 300/s"] = (server.cpu() - before).own / events * 1e6
        cuts = statistics.quantiles(delivery.delays, n=100)
        figures |= {f"p{cut} ms": cuts[cut - 1] * 1000 for cut in (50, 99)}
        figures[WRONG] = delivery.wrong + publisher.sent - delivery.events
        return Round(f"{len(jobs):,} streams", design, figures)


@asynccontextmanager
async def serving(design: str, settings: Mapping[str, str]) -> AsyncIterator[tuple[Program, int]]:
    """The server on a core of its own, and its port."""
    port = draw_port()
    name, role = (OURS, "gateway") if design == OURS else ("streams", design)
    async with started(name, role, settings, port) as server:
        server.process.cpu_affinity([SERVER_CORE])
        yield server, port


async def count_subscribers(redis_url: str) -> int:
    """Connections that listen on pub/sub: all are the server's."""
    async with Redis.from_url(redis_url) as redis:
        return len(await redis.client_list("pubsub"))


async def warm_up(jobs: list[WatchedJob], port: int, path: str = JOB_PATH) -> None:
    """Have the server open its pools and load its code, which no single stream is to blame for."""
    for connection in await connect(jobs[:CONNECTING_AT_ONCE], port, Delivery(), path):
        connection.close()
    await asyncio.sleep(SETTLE_SECONDS)


@asynccontextmanager
async def connected(
    jobs: list[WatchedJob],
    port: int,
    delivery: Delivery,
    server: Program,
    figures: dict[str, float],
    path: str = JOB_PATH,
) -> AsyncIterator[list[asyncio.Transport]]:
    """A stream for each job, and what they cost so far."""
    memory_bytes, before, began = server.resident_bytes(), server.cpu(), time.monotonic()
    connections = await connect(jobs, port, delivery, path)
    figures["connects/s"] = len(jobs) / (time.monotonic() - began)
    figures["µs a connect"] = (server.cpu() - before).own / len(jobs) * 1e6
    await asyncio.sleep(SETTLE_SECONDS)
    figures["KB a stream"] = (server.resident_bytes() - memory_bytes) / len(jobs) / 1024
    yield connections
    for connection in connections:
        connection.close()


async def connect(
    jobs: list[WatchedJob], port: int, delivery: Delivery, path: str
) -> list[asyncio.Transport]:
    """Open a stream for each job; returns when the last has its first bytes."""
    turns = asyncio.Semaphore(CONNECTING_AT_ONCE)
    loop = asyncio.get_running_loop()

    async def open_one(job: WatchedJob) -> asyncio.Transport:
        async with turns:
            transport, reader = await loop.create_connection(lambda: Reader(job, delivery, path), HOST, port)
            await reader.began
            return transport

    return await asyncio.gather(*(open_one(job) for job in jobs))


async def at_full_speed(publisher: Publisher, delivery: Delivery) -> None:
    """As fast as the server delivers, never more than EVENTS_IN_FLIGHT ahead of it."""
    gives_up_at = time.monotonic() + QUIET_TIMEOUT_SECONDS
    while delivery.events < FULL_SPEED_EVENTS and time.monotonic() < gives_up_at:
        room = min(delivery.events + EVENTS_IN_FLIGHT, FULL_SPEED_EVENTS) - publisher.sent
        for _ in range(room):
            publisher.publish()
        await asyncio.sleep(0)


async def steadily(publisher: Publisher, delivery: Delivery) -> None:
    began = time.monotonic()
    for number in range(STEADY_EVENTS_PER_SECOND * STEADY_SECONDS):
        await asyncio.sleep(began + number / STEADY_EVENTS_PER_SECOND - time.monotonic())
        publisher.publish()
    gives_up_at = time.monotonic() + QUIET_TIMEOUT_SECONDS
    while delivery.events < publisher.sent and time.monotonic() < gives_up_at:
        await asyncio.sleep(0.01)


# --- the run ------------------------------------------------------------------------------------


@asynccontextmanager
async def system_for_streams() -> AsyncIterator[System]:
    """All on the clients' core, and with as many descriptors as may be."""
    os.sched_setaffinity(0, {CLIENT_CORE})
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    async with System.running() as system:
        yield system


async def make_jobs(settings: Mapping[str, str], count: int) -> list[WatchedJob]:
    """Jobs as the gateway makes them, each of a session of its own."""
    jobs_url, progress_url, sessions_url = (f"{settings['REDIS_URL'].rstrip('/')}/{db}" for db in (0, 2, 3))
    async with (
        RedisSessions.open(url=sessions_url) as sessions,
        RedisProgressLog.open(url=progress_url, image_base_url="http://cdn.test") as progress,
        RedisJobRecords.open(jobs_url=jobs_url, sessions_url=sessions_url, ticket_seconds=600) as records,
    ):

        async def make() -> WatchedJob:
            token, admission = await sessions.create(uuid.uuid4().hex, TICKETS)
            assert admission.session is not None
            deadline_ms = int(time.time() * 1000) + DAY_MS
            uploaded = upload(owner=admission.session.owner, deadline_ms=deadline_ms)
            await records.create(uploaded, None)
            await progress.open_job(uploaded, deadline_ms)
            await records.list_job(uploaded)
            await progress.queue_job(job_of(uploaded))
            state = await progress.state(uploaded.job_id)
            assert state is not None
            return WatchedJob(uploaded.job_id, token, state.entry.epoch, state.entry.seq)

        jobs: list[WatchedJob] = []
        for _ in range(0, count, CONNECTING_AT_ONCE):
            jobs += await asyncio.gather(*(make() for _ in range(CONNECTING_AT_ONCE)))
        return jobs[:count]


async def measured(dose: Dose) -> AsyncIterator[Round]:
    counts = QUICK_STREAMS if dose.is_quick else STREAMS
    async with system_for_streams() as system:
        jobs = await make_jobs(system.settings, max(counts))
        for count in counts:
            designs = [name for name in DESIGNS if name != "per_client" or count <= STREAMS_OF_PER_CLIENT]
            for design in in_turn(designs, dose.rounds):
                yield await measure(design, system.settings, jobs[:count])


if __name__ == "__main__":
    start("streams", measured, __doc__, Wanted(WRONG, 0, always=True))
