"""Streams by the thousand: exact whatever breaks, drained in time, back without a stampede."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tests.faults.client import Client
from tests.faults.cluster import Cluster, Process, Servers
from tests.faults.instruments.oracle import Stream, TrackedJob
from tests.faults.photos import photo_for
from tests.faults.steps import PATIENCE_SECONDS, eventually, uploaded

HEARTBEAT_SECONDS = 15.0  # the default: thousands of streams at the short one would be mostly heartbeats
SETTINGS = {
    "STREAM_HEARTBEAT_SECONDS": f"{HEARTBEAT_SECONDS:g}",
    "JOB_DEADLINE_SECONDS": "280",
}
UPLOADING_AT_ONCE = 16
OPEN_SECONDS = 120.0
END_SECONDS = 240.0
RETRY_SECONDS = (2.0, 4.0)
RETRY_WINDOW_SECONDS = 0.25


# --- a crowd --------------------------------------------------------------------------------------


@asynccontextmanager
async def crowd(
    cluster: Cluster, *, through_links: bool = False, obeys_retry: bool = False
) -> AsyncIterator[Client]:
    """Clients for thousands of streams: without the proxies, which would be the first to give in."""

    def addresses() -> Sequence[str]:
        running = [gateway for gateway in cluster.gateways if gateway.is_running] or cluster.gateways
        return [gateway.url if through_links else direct(gateway) for gateway in running]

    client = Client(
        cluster.ledger,
        addresses,
        photo_for,
        silence_seconds=3 * HEARTBEAT_SECONDS,
        obeys_retry=obeys_retry,
    )
    try:
        yield client
    finally:
        await client.close()


def direct(gateway: Process) -> str:
    return f"http://127.0.0.1:{gateway.links['http'].upstream_port}"


async def watched(cluster: Cluster, client: Client, jobs: int, streams_each: int) -> list[TrackedJob]:
    """Uploaded jobs, each with that many open streams, of which one comes back after every event."""
    turns = asyncio.Semaphore(UPLOADING_AT_ONCE)

    async def one(number: int) -> TrackedJob:
        async with turns:
            job = await uploaded(cluster, f"job-{number}")
            for place in range(streams_each):
                client.watch(job, f"stream-{place}", is_nervous=place == 0)
            return job

    made = await asyncio.gather(*(one(number) for number in range(jobs)))

    async def all_open() -> bool:
        return all(stream.events for stream in streams_of(made))

    await eventually(all_open, "every stream has begun", OPEN_SECONDS)
    return made


def streams_of(jobs: Sequence[TrackedJob]) -> list[Stream]:
    return [stream for job in jobs for stream in job.streams]


async def complete(cluster: Cluster, jobs: Sequence[TrackedJob], jobs_each_second: float) -> None:
    """Upload-complete for one job after the other, each repeated until its 202."""

    async def one(job: TrackedJob) -> None:
        while (await cluster.client.complete(job)).status != 202:
            await asyncio.sleep(0.2)

    async with asyncio.TaskGroup() as people:
        for job in jobs:
            people.create_task(one(job))
            await asyncio.sleep(1 / jobs_each_second)


async def prove_each_stream(cluster: Cluster, client: Client, jobs: Sequence[TrackedJob], count: int) -> None:
    """Every stream has its end, and I1 to I7 hold: no gap, no repeat, no disorder, no `reset`."""
    await asyncio.gather(*(client.seen(job, END_SECONDS) for job in jobs))
    await cluster.prove(END_SECONDS)
    streams = streams_of(jobs)
    assert len(streams) == count
    assert all(stream.end for stream in streams)
    events = sum(len(stream.events) for stream in streams)
    print(f"{count} streams, {events} events, {sum(len(one.connections) for one in streams)} connections")


# --- the cases ------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_five_thousand_streams_stay_exact_whatever_breaks(servers: Servers) -> None:
    """A gateway is killed, Redis is killed and frozen, the other gateway restarted, all under the same
    5,000 streams: each gets every event once, in order, to its end."""
    async with (
        Cluster.running(servers, gateways=2, consumers=2, **SETTINGS) as cluster,
        crowd(cluster) as client,
    ):
        jobs = await watched(cluster, client, 500, 10)
        async with asyncio.TaskGroup() as group:
            group.create_task(complete(cluster, jobs, jobs_each_second=8))
            await asyncio.sleep(5)
            for harm in (kill_and_start(cluster.gateways[0]), kill_and_start(cluster.redis)):
                await harm
                await asyncio.sleep(5)
            cluster.redis.freeze()
            await asyncio.sleep(5)
            cluster.redis.thaw()
            await asyncio.sleep(5)
            await cluster.gateways[1].stop()
            await cluster.gateways[1].start()
        await prove_each_stream(cluster, client, jobs, 5_000)


async def kill_and_start(target: Any) -> None:
    await target.kill()
    await target.start()


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_thousand_clients_cut_at_once_all_go_on_exactly(servers: Servers) -> None:
    """Every connection to the only gateway is reset in the same moment, three times."""
    async with (
        Cluster.running(servers, gateways=1, consumers=1, **SETTINGS) as cluster,
        crowd(cluster, through_links=True) as client,
    ):
        jobs = await watched(cluster, client, 100, 10)
        async with asyncio.TaskGroup() as group:
            group.create_task(complete(cluster, jobs, jobs_each_second=8))
            for _ in range(3):
                await asyncio.sleep(3)
                await cluster.gateways[0].links["http"].cut()
        await prove_each_stream(cluster, client, jobs, 1_000)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_rolling_restart_under_two_thousand_streams_is_no_stampede(servers: Servers) -> None:
    """Each gateway leaves within two seconds; no quarter of a second holds more than twice the mean rate
    of the retry window; nothing is lost."""
    async with (
        Cluster.running(servers, gateways=2, consumers=1, **SETTINGS) as cluster,
        crowd(cluster, obeys_retry=True) as client,
    ):
        jobs = await watched(cluster, client, 200, 10)
        async with asyncio.TaskGroup() as group:
            group.create_task(complete(cluster, jobs[:100], jobs_each_second=4))
            for gateway in cluster.gateways:
                await restart_gently(gateway, client, streams_of(jobs))
            group.create_task(complete(cluster, jobs[100:], jobs_each_second=8))
        await prove_each_stream(cluster, client, jobs, 2_000)


async def restart_gently(gateway: Process, client: Client, streams: Sequence[Stream]) -> None:
    """Stop one gateway, look how its clients come back, start it again."""
    before = client.open_at[direct(gateway)]
    # Half of all by chance, and one in ten, after its first event, waits out its retry.
    assert before >= 800, f"only {before} streams at {gateway.name}"
    began = time.monotonic()
    code = await gateway.stop()
    seconds = time.monotonic() - began
    assert code == 0
    assert seconds <= 2.0, f"{gateway.name} left after {seconds:.2f} s"
    await asyncio.sleep(RETRY_SECONDS[1] + 1)
    tries = sorted(at for stream in streams for at in stream.tried_at if at > began)
    most = max(
        sum(begin <= at < begin + RETRY_WINDOW_SECONDS for at in tries[place : place + before])
        for place, begin in enumerate(tries)
    )
    mean = len(tries) * RETRY_WINDOW_SECONDS / (RETRY_SECONDS[1] - RETRY_SECONDS[0])
    print(
        f"{gateway.name}: {before} streams drained in {seconds:.2f} s, {len(tries)} came back, "
        f"at most {most} in a quarter of a second (mean {mean:.0f})"
    )
    assert most <= 2 * mean
    await gateway.start()


@pytest.mark.long
async def test_client_that_vanished_without_a_word_frees_its_place(servers: Servers) -> None:
    """A peer that acknowledges nothing any more (no FIN, no RST) is given up within 35 seconds."""
    async with Cluster.running(
        servers, gateways=1, consumers=1, **SETTINGS | {"MAX_STREAMS_PER_SESSION": "1"}
    ) as cluster:
        job = await uploaded(cluster, "vanishing")
        gateway = cluster.gateways[0]
        request = (
            f"GET /api/v1/waste/jobs/{job.job_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {job.token}\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.links["http"].upstream_port)
        writer.write(request.encode())
        await reader.readuntil(b"event: progress")
        vanish(writer.get_extra_info("socket"))
        assert await open_streams(gateway) == 1

        async def freed() -> bool:
            return await open_streams(gateway) == 0

        seconds = await eventually(freed, "the place is free", PATIENCE_SECONDS)
        print(f"freed after {seconds:.1f} s")
        assert seconds <= 35
        writer.transport.abort()
        await cluster.client.complete(job)
        await cluster.prove()


def vanish(connection: socket.socket) -> None:
    """Drop whatever arrives for it inside the kernel, acknowledgements' causes included: to its peer it
    looks like a phone that lost its network."""
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0
    program = struct.pack("HP", 1, ctypes.addressof(drop_all))
    so_attach_filter = 26
    connection.setsockopt(socket.SOL_SOCKET, so_attach_filter, program)


async def open_streams(gateway: Process) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{gateway.probe_url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith("growbin_open_streams "))))
