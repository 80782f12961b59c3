"""What a progress stream costs: growbin's gateway beside two common designs, alternating in one run.

    make bench ARGS=streams                     about a quarter of an hour
    python -m bench.streams --rounds 1 --streams 1000

The server has one core to itself, this process (clients and publisher) the other. All three designs are
sent the same messages through the same Valkey; each client checks that it gets every one, once, in order.
"""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from redis.asyncio import Redis

from bench.instruments import Dose, Round, dose_of, in_turn, parser_of, report
from bench.stream_servers import DESIGNS, HOST
from bench.stream_servers import PATH as JOB_PATH
from growbin.adapters.redis import keys
from growbin.adapters.redis.job_records import RedisJobRecords
from growbin.adapters.redis.progress_log import RedisProgressLog
from growbin.adapters.redis.sessions import RedisSessions
from growbin.job import Upload, job_of
from growbin.local.child import draw_port
from growbin.local.parts.valkey import Valkey
from growbin.rates import Bucket, Rate

SERVER_CORE, CLIENT_CORE = 0, 1
ROUNDS = 3
CONNECTING_AT_ONCE = 64
STREAMS_OF_PER_CLIENT = 5_000  # two descriptors a client: ten thousand do not fit into a usual limit
EVENTS_IN_FLIGHT = 1_000
FULL_SPEED_EVENTS = 40_000
STEADY_EVENTS_PER_SECOND = 300
STEADY_SECONDS = 10
SETTLE_SECONDS = 3.0
QUIET_TIMEOUT_SECONDS = 60
TICKETS = Rate("tickets", session=Bucket(1, 60), address=Bucket(1, 60))  # each job's address is its own


@dataclass(frozen=True, slots=True)
class WatchedJob:
    job_id: uuid.UUID
    token: str
    epoch: str
    seq: int  # of the last entry in its log


@dataclass(slots=True)
class Figures:
    """Of one design with one number of streams, in one round."""

    connects_per_second: float
    connect_us: float
    stream_kb: float
    pubsub_connections: int
    full_speed_events_per_second: float
    full_speed_us: float
    steady_us: float
    p50_ms: float
    p99_ms: float
    wrong: int


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
    async def open(cls, valkey: Valkey, jobs: list[WatchedJob]) -> AsyncIterator[Publisher]:
        reader, writer = await asyncio.open_connection(HOST, valkey.port)

        async def discard() -> None:
            while await reader.read(1 << 16):
                pass

        discarding = asyncio.create_task(discard())
        writer.write(f"AUTH {valkey.secrets['password']}\r\n".encode())
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


async def measure(design: str, valkey: Valkey, jobs: list[WatchedJob]) -> Figures:
    """Start the server, connect every stream, publish at full speed and steadily, stop the server."""
    connections: list[asyncio.BaseTransport] = []
    async with serving(design, valkey) as (server, port):
        process = psutil.Process(server.pid)
        delivery = Delivery()
        await warm_up(jobs, port)

        memory_bytes, cpu_seconds, began = process.memory_info().rss, cpu(process), time.monotonic()
        await connect(jobs, port, delivery, connections)
        connect_seconds = time.monotonic() - began
        connect_cpu_seconds = cpu(process) - cpu_seconds
        await asyncio.sleep(SETTLE_SECONDS)
        stream_bytes = (process.memory_info().rss - memory_bytes) / len(jobs)
        pubsub_connections = await count_subscribers(valkey)

        async with Publisher.open(valkey, jobs) as publisher:
            cpu_seconds, began = cpu(process), time.monotonic()
            await at_full_speed(publisher, delivery)
            full_seconds, full_cpu_seconds = time.monotonic() - began, cpu(process) - cpu_seconds
            delivery.delays.clear()
            cpu_seconds = cpu(process)
            await steadily(publisher, delivery)
            steady_cpu_seconds = cpu(process) - cpu_seconds
        for connection in connections:
            connection.close()
        delays = statistics.quantiles(delivery.delays, n=100)
        return Figures(
            connects_per_second=len(jobs) / connect_seconds,
            connect_us=connect_cpu_seconds / len(jobs) * 1e6,
            stream_kb=stream_bytes / 1024,
            pubsub_connections=pubsub_connections,
            full_speed_events_per_second=FULL_SPEED_EVENTS / full_seconds,
            full_speed_us=full_cpu_seconds / FULL_SPEED_EVENTS * 1e6,
            steady_us=steady_cpu_seconds / (STEADY_EVENTS_PER_SECOND * STEADY_SECONDS) * 1e6,
            p50_ms=delays[49] * 1000,
            p99_ms=delays[98] * 1000,
            wrong=delivery.wrong + publisher.sent - delivery.events,
        )


@asynccontextmanager
async def serving(design: str, valkey: Valkey) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """The server on a core of its own, and its port."""
    port = draw_port()
    options = ("--redis", f"{valkey.url}/2", "--port", str(port))
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.stream_servers", design, *options),
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE}),
    )
    try:
        assert server.stdout is not None
        await server.stdout.readline()
        yield server, port
    finally:
        server.kill()
        await server.wait()


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def count_subscribers(valkey: Valkey) -> int:
    """Connections that listen on pub/sub: all are the server's."""
    async with Redis.from_url(valkey.url) as redis:
        return len(await redis.client_list("pubsub"))


async def warm_up(jobs: list[WatchedJob], port: int, path: str = JOB_PATH) -> None:
    """Have the server open its pools and load its code, which no single stream is to blame for."""
    connections: list[asyncio.BaseTransport] = []
    await connect(jobs[:CONNECTING_AT_ONCE], port, Delivery(), connections, path)
    for connection in connections:
        connection.close()
    await asyncio.sleep(SETTLE_SECONDS)


async def connect(
    jobs: list[WatchedJob],
    port: int,
    delivery: Delivery,
    connections: list[asyncio.BaseTransport],
    path: str = JOB_PATH,
) -> None:
    """Open a stream for each job; returns when the last has its first bytes."""
    turns = asyncio.Semaphore(CONNECTING_AT_ONCE)
    loop = asyncio.get_running_loop()

    async def open_one(job: WatchedJob) -> None:
        async with turns:
            transport, reader = await loop.create_connection(lambda: Reader(job, delivery, path), HOST, port)
            connections.append(transport)
            await reader.began

    await asyncio.gather(*(open_one(job) for job in jobs))


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
    wanted = publisher.sent
    for number in range(STEADY_EVENTS_PER_SECOND * STEADY_SECONDS):
        await asyncio.sleep(began + number / STEADY_EVENTS_PER_SECOND - time.monotonic())
        publisher.publish()
        wanted += 1
    gives_up_at = time.monotonic() + QUIET_TIMEOUT_SECONDS
    while delivery.events < wanted and time.monotonic() < gives_up_at:
        await asyncio.sleep(0.01)


# --- the run ------------------------------------------------------------------------------------


async def make_jobs(valkey: Valkey, count: int) -> list[WatchedJob]:
    """Jobs as the gateway makes them, each of a session of its own."""
    url = f"{valkey.url}/2"
    async with (
        RedisSessions.open(url=url) as sessions,
        RedisProgressLog.open(url=url, image_base_url="http://cdn.test") as progress,
        RedisJobRecords.open(
            jobs_url=url, sessions_url=url, ticket_seconds=600, deadline_seconds=300
        ) as records,
    ):

        async def make() -> WatchedJob:
            job_id = uuid.uuid4()
            token, admission = await sessions.create(uuid.uuid4().hex, TICKETS)
            assert admission.session is not None
            owner = admission.session.owner
            now_ms = int(time.time() * 1000)
            upload = Upload(
                job_id=job_id,
                owner=owner,
                key=f"incoming/{job_id}.jpg",
                image_url=f"http://cdn.test/images/{job_id}.jpg",
                content_type="image/jpeg",
                created_at_ms=now_ms,
                ticket_expires_at_ms=now_ms + 600_000,
                etag="e",
                length=1,
                accepted_at_ms=now_ms,
                deadline_ms=now_ms + 24 * 3600 * 1000,
            )
            await records.create(upload, None)
            await progress.open_job(upload, now_ms + 24 * 3600 * 1000)
            await records.list_job(upload)
            await progress.queue_job(job_of(upload))
            state = await progress.state(job_id)
            assert state is not None
            return WatchedJob(job_id, token, state.entry.epoch, state.entry.seq)

        jobs: list[WatchedJob] = []
        for _ in range(0, count, CONNECTING_AT_ONCE):
            jobs += await asyncio.gather(*(make() for _ in range(CONNECTING_AT_ONCE)))
        return jobs[:count]


COLUMNS = {
    "connects/s": "connects_per_second",
    "µs a connect": "connect_us",
    "KB a stream": "stream_kb",
    "pub/sub connections": "pubsub_connections",
    "events/s at full speed": "full_speed_events_per_second",
    "µs an event": "full_speed_us",
    "µs an event at 300/s": "steady_us",
    "p50 ms": "p50_ms",
    "p99 ms": "p99_ms",
    "lost, doubled, disordered": "wrong",
}


async def run(dose: Dose, streams: list[int]) -> bool:
    """False when any client missed an event or got one twice."""
    os.sched_setaffinity(0, {CLIENT_CORE})
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rounds = list[Round]()
    with tempfile.TemporaryDirectory() as folder:
        valkey = Valkey(Path(folder))
        await valkey.start()
        try:
            await valkey.ready()
            jobs = await make_jobs(valkey, max(streams))
            for count in streams:
                designs = [name for name in DESIGNS if name != "per_client" or count <= STREAMS_OF_PER_CLIENT]
                for design in in_turn(designs, dose.rounds):
                    measured = await measure(design, valkey, jobs[:count])
                    figures = {told: getattr(measured, name) for told, name in COLUMNS.items()}
                    rounds.append(Round(f"{count:,} streams", design, figures))
                    print(rounds[-1], file=sys.stderr)
        finally:
            await valkey.stop()
    report("streams", rounds, (), dose.folder)
    return not any(one.figures["lost, doubled, disordered"] for one in rounds)


if __name__ == "__main__":
    parser = parser_of(__doc__, ROUNDS)
    parser.add_argument("--streams", type=int, nargs="+")
    given = parser.parse_args()
    dose = dose_of(given, ROUNDS)
    streams = given.streams or ([1_000] if dose.is_quick else [1_000, 5_000, 10_000])
    sys.exit(0 if asyncio.run(run(dose, streams)) else 1)
