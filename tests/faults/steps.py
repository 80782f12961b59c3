"""What several fault rows do, in a word each."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shlex
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from growbin.local.parts.rabbitmq import RabbitMQ
from tests.faults.client import Answer, Refused
from tests.faults.cluster import Cluster, ForeignRabbitMQ, Process
from tests.faults.instruments.oracle import TrackedJob
from tests.faults.model import Hold

ANSWER_SECONDS = 2.0 + 1.0  # any answer, whatever is away; and what a busy machine may add
PAUSE_SECONDS = 0.1
LOAD_PAUSE_SECONDS = 0.3
SETTLE_SECONDS = 90
PATIENCE_SECONDS = 45.0  # for what may take long here and is no promise


async def eventually(
    holds: Callable[[], Awaitable[bool]], what: str, timeout_seconds: float = PATIENCE_SECONDS
) -> float:
    """Wait until `holds`; returns the seconds it took."""
    began = time.monotonic()
    while not await holds():
        assert time.monotonic() - began < timeout_seconds, f"not within {timeout_seconds:g} s: {what}"
        await asyncio.sleep(0.1)
    return time.monotonic() - began


async def begin(cluster: Cluster, marker: str) -> tuple[TrackedJob, Hold]:
    """A watched job whose model call is held."""
    hold = cluster.model.hold(marker)
    job = await cluster.client.submit(marker)
    cluster.client.watch(job)
    await hold.reached()
    return job, hold


async def uploaded(cluster: Cluster, marker: str, photo: bytes | None = None) -> TrackedJob:
    """A job that is ready for its upload-complete."""
    job = cluster.ledger.track(marker, await cluster.client.session())
    await cluster.client.ticket(job)
    await cluster.client.put(job, photo)
    return job


async def accepted_in_the_end(cluster: Cluster, job: TrackedJob) -> float:
    """Repeat the upload-complete until its 202; returns the seconds it took."""

    async def accepted() -> bool:
        return (await cluster.client.complete(job)).status == 202

    return await eventually(accepted, f"{job.marker} is accepted")


async def timed(call: Awaitable[Answer]) -> tuple[Answer, float]:
    """The answer and the seconds it took."""
    began = time.monotonic()
    return await call, time.monotonic() - began


def assert_refused_politely(answer: Answer, seconds: float) -> None:
    """503 with Retry-After, in time."""
    assert answer.status == 503, answer
    assert int(answer.headers["Retry-After"]) >= 1
    assert seconds <= ANSWER_SECONDS, f"answered after {seconds:.2f} s"


async def readiness(process: Process) -> dict[str, bool]:
    return (await readyz(process))[1]


async def readyz(process: Process) -> tuple[int, dict[str, bool]]:
    """The probe's status, and what it shows of the parts."""
    async with aiohttp.ClientSession() as http, http.get(f"{process.probe_url}/readyz") as answer:
        return answer.status, dict((await answer.json())["parts"])


async def assert_works(cluster: Cluster, *, ended: TrackedJob, waiting: TrackedJob) -> None:
    """What needs nothing but Redis answers as ever: tickets, reads, streams (first of an ended job, then
    of the session, in which `waiting` waits for its upload-complete), cancels."""
    job = f"/api/v1/waste/jobs/{ended.job_id}"
    calls = (
        ("POST", "/api/v1/waste/analyze", 201),
        ("GET", job, 200),
        ("GET", "/api/v1/waste/jobs", 200),
        ("GET", f"{job}/events", 200),
        ("POST", f"{job}/cancel", 202),
    )
    for method, path, status in calls:
        answer, seconds = await timed(cluster.client.call(method, path, ended.token))
        assert answer.status == status, f"{method} {path}: {answer}"
        assert seconds <= ANSWER_SECONDS, f"{method} {path} after {seconds:.2f} s"
    headers = {"Authorization": f"Bearer {waiting.token}"}
    url = f"{cluster.gateways[0].url}/api/v1/waste/events"
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        asyncio.timeout(ANSWER_SECONDS),
        http.get(url) as stream,
    ):
        assert stream.status == 200
        while waiting.job_id.encode() not in await stream.content.readline():
            pass


async def delivered(cluster: Cluster, count: int, timeout_seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until the broker counts that many unacknowledged deliveries of jobs."""

    async def counted() -> bool:
        queue = (await cluster.messages.queues()).get(cluster.queue_name, {})
        return queue.get("messages_unacknowledged") == count

    await eventually(counted, f"{count} deliveries in hand", timeout_seconds)


async def reconnected(process: Process, *, times: int) -> None:
    """Wait until the process has set up a lost connection for consuming that often."""

    async def connected() -> bool:
        lines = process.log.splitlines()
        return sum('"broker_connected"' in line and '"consumer"' in line for line in lines) > times

    await eventually(connected, f"{process.name} is connected again ({times})")


def spoiled(body: bytes, **changes: Any) -> bytes:
    """A job event with other fields in its data; None takes a field away."""
    event = json.loads(body)
    event["data"] = {name: value for name, value in (event["data"] | changes).items() if value is not None}
    return json.dumps(event).encode()


async def rabbitmqctl(node: RabbitMQ, *words: str) -> str:
    """What an operator does on the broker's machine; for a broker that is not ours, RABBITMQCTL tells how."""
    if isinstance(node, ForeignRabbitMQ):
        assert "RABBITMQCTL" in os.environ, "set RABBITMQCTL, as in RABBITMQCTL='ssh my-broker rabbitmqctl'"
        command, environment = shlex.split(os.environ["RABBITMQCTL"]), dict(os.environ)
    else:
        command = [str(Path(node.command()[0]).with_name("rabbitmqctl"))]
        environment = node.environment()
    process = await asyncio.create_subprocess_exec(
        *command,
        *words,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


class Load:
    """One job after the other, from a few clients at once; each upload-complete is repeated until its
    202, and must be refused politely until then. `may_be_forgotten`: Redis may lose what was not accepted."""

    def __init__(self, cluster: Cluster, clients: int = 6, *, may_be_forgotten: bool = False) -> None:
        self._cluster = cluster
        self._may_be_forgotten = may_be_forgotten
        self._numbers = itertools.count()
        self._clients = clients
        self._is_over = asyncio.Event()
        self.jobs: list[TrackedJob] = []
        self.refusals = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._clients):
                group.create_task(self._submit())
            try:
                yield
            finally:
                self._is_over.set()

    async def _submit(self) -> None:
        while not self._is_over.is_set():
            try:
                job = await uploaded(self._cluster, f"load-{next(self._numbers)}")
            except Refused:
                if not self._may_be_forgotten:
                    raise
                continue
            self.jobs.append(job)
            while True:
                answer, seconds = await timed(self._cluster.client.complete(job))
                if answer.status == 202:
                    self._cluster.client.watch(job)
                    break
                if self._may_be_forgotten and answer.status in (401, 404):
                    break
                assert_refused_politely(answer, seconds)
                self.refusals += 1
                await asyncio.sleep(PAUSE_SECONDS)
            await asyncio.sleep(LOAD_PAUSE_SECONDS)

    def published_after(self, moment: float) -> float:
        """Seconds from `moment` to the first 202 that was asked for and given after it."""
        times = (job.accepted_at for job in self.jobs if job.accepted_at is not None)
        return min(at for at in times if at > moment) - moment

    def consumed_after(self, moment: float) -> float:
        """Seconds from `moment` to the first model call for a job that was accepted after it."""
        later = {job.marker for job in self.jobs if job.accepted_at is not None and job.accepted_at > moment}
        return min(call.began for call in self._cluster.model.calls if call.marker in later) - moment


async def use(cluster: Cluster, over: asyncio.Event, jobs_each_second: float) -> None:
    """A new job every now and then, each followed to its end, whatever is away meanwhile."""

    async def one(marker: str) -> None:
        job = await cluster.client.submit(marker)
        await cluster.client.follow(job, SETTLE_SECONDS)

    async with asyncio.TaskGroup() as people:
        number = 0
        while not over.is_set():
            people.create_task(one(f"job-{number}"))
            number += 1
            await asyncio.sleep(1 / jobs_each_second)
