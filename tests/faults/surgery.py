"""What the rows do to a running cluster by hand, and how they look inside without asking it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
import redis.asyncio

from growbin.local.parts.programs import Program
from tests.faults.cluster import Cluster, Process
from tests.faults.instruments.oracle import TrackedJob
from tests.faults.model import Hold
from tests.faults.steps import begin

RECORDS, PROGRESS, SESSIONS = 0, 2, 3  # databases
FAKETIME = list(Path("/usr/lib").rglob("libfaketime.so.1"))


# --- jobs ---------------------------------------------------------------------------------------


async def begin_several(cluster: Cluster, count: int) -> tuple[list[TrackedJob], list[Hold]]:
    begun = await asyncio.gather(*(begin(cluster, f"job-{number}") for number in range(count)))
    return [job for job, _ in begun], [hold for _, hold in begun]


# --- Redis --------------------------------------------------------------------------------------


@asynccontextmanager
async def database(cluster: Cluster, number: int) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(
        cluster.servers.valkey.url, db=number, decode_responses=True
    ) as client:
        yield client


async def record_of(cluster: Cluster, job: TrackedJob) -> dict[str, Any]:
    """The upload's record, as the gateways share it."""
    async with database(cluster, RECORDS) as records:
        text = await records.get(f"job:{{{job.job_id}}}")
    return dict(json.loads(text)) if text else {}


async def is_accepted(cluster: Cluster, job: TrackedJob) -> bool:
    """Its upload was accepted, and its event is being published."""
    async with database(cluster, PROGRESS) as progress:
        text = await progress.get(f"job:{{{job.job_id}}}:progress")
    return bool(json.loads(text or "{}").get("accepted"))


async def attempts_of(cluster: Cluster, job: TrackedJob) -> dict[str, int]:
    """token, starts, paid, open."""
    async with database(cluster, PROGRESS) as progress:
        counts = await progress.hgetall(f"job:{{{job.job_id}}}:attempts")
    texts = {"counted", "reserved", "same"}
    return {str(name): int(count) for name, count in counts.items() if str(name) not in texts}


async def flush(cluster: Cluster, *databases: int) -> None:
    cluster.ledger.destroy_history()
    for number in databases:
        async with database(cluster, number) as client:
            await client.flushdb()


# --- RabbitMQ -----------------------------------------------------------------------------------


async def waiting_in(cluster: Cluster, suffix: str = "") -> dict[str, Any]:
    """Our main queue, or the one with this suffix, as the broker's management knows it."""
    return (await cluster.messages.queues())[cluster.queue_name + suffix]


async def reject_next(cluster: Cluster) -> None:
    """Take the next message of the main queue and reject it: it becomes a dead letter."""
    async with asyncio.timeout(10), await aio_pika.connect(cluster.servers.rabbitmq.url) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(cluster.queue_name, ensure=False)
        message = await queue.get(timeout=10)
        assert message is not None
        await message.reject(requeue=False)


# --- processes ----------------------------------------------------------------------------------


async def metric(process: Process, name: str) -> float:
    async with aiohttp.ClientSession() as http, http.get(f"{process.probe_url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


async def set_clock(process: Process, offset: str) -> None:
    """Start the process again, living `offset` away from now ("+3600", in seconds); only the wall clock
    is wrong, as with a machine that nobody keeps in time."""
    await _start_with_clock(process, FAKETIME=offset)


async def make_clock_movable(process: Process) -> Callable[[str], object]:
    """Start the process again with the right time; returns what moves its wall clock while it runs."""
    assert isinstance(process.part, Program)
    offset = process.part.folder / "clock-offset"
    offset.write_text("+0")
    await _start_with_clock(process, FAKETIME_TIMESTAMP_FILE=str(offset), FAKETIME_NO_CACHE="1")
    return offset.write_text


async def _start_with_clock(process: Process, **variables: str) -> None:
    assert FAKETIME, "libfaketime is not installed: run `apt-get install faketime`"
    assert isinstance(process.part, Program)
    await process.stop()
    process.part._environment |= variables | {
        "LD_PRELOAD": str(FAKETIME[0]),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",  # the same, for older releases
    }
    await process.start()
