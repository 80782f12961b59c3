"""What its owner deletes goes for good, and what has no result shows no photo, whoever leaves or dies.

`DELETIONS=1000 SEED=7` make the random rows longer, or repeat one.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import aio_pika
import aiohttp
import pytest
import redis.asyncio

from growbin.local.parts.seaweedfs import BUCKET
from tests.faults.client import Refused
from tests.faults.cluster import Cluster, Process, Servers
from tests.faults.instruments.oracle import TrackedJob
from tests.faults.steps import begin, eventually, uploaded

DELETIONS = int(os.environ.get("DELETIONS", "30"))
SEED = int(os.environ.get("SEED", "0")) or random.randrange(1, 10_000)
AT_ONCE = 8
LETTERS = 2000
# The waits of a deletion, shortened: the passes and their order are the same.
ERASE_AGAIN_SECONDS, TICKET_SECONDS = 2, 8
LAST_PASS_SECONDS = (
    TICKET_SECONDS + 5 + 25
)  # the pass, a look, and the claim of a gateway that was killed over it
LONGEST_MOMENT_SECONDS = 3.0  # of a job's life, from before its upload to after its end


def deleting(
    servers: Servers, *, gateways: int = 1, consumers: int = 1, ticket_seconds: int = TICKET_SECONDS
) -> AbstractAsyncContextManager[Cluster]:
    return Cluster.running(
        servers,
        gateways=gateways,
        consumers=consumers,
        ERASE_AGAIN_SECONDS=str(ERASE_AGAIN_SECONDS),
        TICKET_SECONDS=str(ticket_seconds),
        JOB_DEADLINE_SECONDS="20",
    )


@pytest.mark.long
@pytest.mark.timeout(180 + DELETIONS)
async def test_job_deleted_at_any_moment_leaves_nothing_but_a_tombstone(servers: Servers) -> None:
    """Clients leave, gateways and consumers are killed, answers and uploads come late, 2,000 letters wait:
    after the last pass there is no key but the tombstone, no object, no letter that tells of the job, and the
    CDN has nothing. A deletion is about as quick as a cancel."""
    print(f"SEED={SEED} DELETIONS={DELETIONS}")
    choice = random.Random(SEED)
    async with deleting(servers, gateways=2, consumers=2) as cluster:
        await fill_letters(cluster)
        cluster.model.delay_seconds = lambda _marker: choice.uniform(0, 2)
        deleted: list[TrackedJob] = []
        seconds: dict[str, list[float]] = {"DELETE": [], "cancel": []}
        turns = asyncio.Semaphore(AT_ONCE)
        async with killing(choice, cluster.gateways, cluster.consumers), asyncio.TaskGroup() as group:
            for number in range(DELETIONS):
                one = deleted_at_some_moment(
                    cluster, f"gone-{number}", random.Random(f"{SEED} {number}"), turns, seconds
                )
                group.create_task(one).add_done_callback(lambda task: deleted.append(task.result()))
        await assert_gone(cluster, deleted)
        cluster.ledger.unreadable_letters = LETTERS
        print({name: f"p95 {percentile(took):.3f} s" for name, took in seconds.items()})
        await cluster.prove()


async def deleted_at_some_moment(
    cluster: Cluster,
    marker: str,
    choice: random.Random,
    turns: asyncio.Semaphore,
    seconds: dict[str, list[float]],
) -> TrackedJob:
    async with turns:
        job = await uploaded(cluster, marker)
        submitting = asyncio.create_task(submitted(cluster, job))
        await asyncio.sleep(choice.uniform(0, LONGEST_MOMENT_SECONDS))
        if choice.random() < 0.3:
            await leave_early(cluster, job, choice)
        if choice.random() < 0.3:
            seconds["cancel"].append(await timed_call(cluster, job, "POST", "/cancel"))
        seconds["DELETE"].append(await timed_call(cluster, job, "DELETE", ""))
        job.accepted_at = None  # the promise went with it
        await submitting
        job.accepted_at = None
        if choice.random() < 0.5:  # the old ticket still opens S3
            await asyncio.sleep(choice.uniform(0, 2))
            with suppress(Refused):
                await cluster.client.put(job)
            assert (await cluster.client.complete(job)).status in (0, 404, 503)
        return job


async def submitted(cluster: Cluster, job: TrackedJob) -> None:
    """As soon as a gateway takes it, unless it is deleted before."""
    while (await cluster.client.complete(job)).status in (0, 503):
        await asyncio.sleep(0.1)


async def leave_early(cluster: Cluster, job: TrackedJob, choice: random.Random) -> None:
    """Ask, and be gone 4 to 16 ms later."""
    asking = asyncio.create_task(cluster.client.call("DELETE", f"/api/v1/waste/jobs/{job.job_id}", job.token))
    await asyncio.sleep(choice.uniform(0.004, 0.016))
    asking.cancel()
    await asyncio.wait([asking])


async def timed_call(cluster: Cluster, job: TrackedJob, method: str, suffix: str) -> float:
    """Until a gateway answers; the seconds that the last try took. A cancel of what is gone is a 404."""
    while True:
        began = time.monotonic()
        path = f"/api/v1/waste/jobs/{job.job_id}{suffix}"
        answer = await cluster.client.call(method, path, job.token)
        if answer.status in (202, 204, 404):
            return time.monotonic() - began
        await asyncio.sleep(0.1)


@asynccontextmanager
async def killing(choice: random.Random, *groups: Sequence[Process]) -> AsyncIterator[None]:
    """While the block runs, one process after the other is killed, and comes back."""

    async def harm(processes: Sequence[Process]) -> None:
        while not is_over.is_set():
            victim = choice.choice(processes)
            await asyncio.sleep(choice.uniform(0.5, 2))
            await victim.kill()
            await victim.start()

    is_over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for processes in groups:
            group.create_task(harm(processes))
        try:
            yield
        finally:
            is_over.set()


async def fill_letters(cluster: Cluster) -> None:
    """Letters of no job: a deletion must cost the same."""
    async with await aio_pika.connect(cluster.servers.rabbitmq.url) as connection:
        channel = await connection.channel(publisher_confirms=False)
        for _ in range(LETTERS):
            message = aio_pika.Message(b"a letter of no job", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(message, f"{cluster.queue_name}.letters")


def percentile(took: Sequence[float]) -> float:
    return sorted(took)[int(0.95 * (len(took) - 1))] if took else 0.0


async def assert_gone(cluster: Cluster, jobs: Sequence[TrackedJob]) -> None:
    """After the last pass."""

    async def agenda_is_done() -> bool:
        async with redis.asyncio.Redis.from_url(
            cluster.servers.valkey.url, db=2, decode_responses=True
        ) as progress:
            entries = [entry async for entry, _ in progress.zscan_iter("agenda")]
        return not any(str(entry).startswith(job.job_id) for entry in entries for job in jobs)

    await eventually(agenda_is_done, "the agenda is done", LAST_PASS_SECONDS + 20)
    async with aiohttp.ClientSession() as http:
        for job in jobs:
            assert await keys_left(cluster, job) == [f"job:{{{job.job_id}}}:result"], job.marker
            assert await objects_left(cluster, job) == [], job.marker
            async with http.get(job.ticket["image_url"]) as shown:
                assert shown.status in (403, 404), f"the CDN shows {job.marker}"
            gateway = next(gateway.url for gateway in cluster.gateways if gateway.is_running)
            path = f"/api/v1/waste/jobs/{job.job_id}"
            answer = await cluster.client.call("GET", path, job.token, gateway=gateway)
            assert answer.status == 404, job.marker
    letters = "".join(letter.body for letter in await cluster.messages.letters())
    assert "case:" not in letters  # no question, and so no event


async def keys_left(cluster: Cluster, job: TrackedJob) -> list[str]:
    left: list[str] = []
    for number in (0, 2):
        async with redis.asyncio.Redis.from_url(cluster.servers.valkey.url, db=number) as database:
            left += [key.decode() async for key in database.scan_iter(match=f"*{job.job_id}*", count=1000)]
    return sorted(left)


async def objects_left(cluster: Cluster, job: TrackedJob) -> list[str]:
    left: list[str] = []
    async with cluster.servers.seaweedfs.client() as s3:
        for prefix in (f"incoming/{job.job_id}", job.job_id):
            listed = await s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
            left += [item["Key"] for item in listed.get("Contents", [])]
    return left


@pytest.mark.long
async def test_deletion_of_a_gateway_killed_after_its_204_is_finished_by_the_other(servers: Servers) -> None:
    """S3 was silent for it: it had promised, and deleted nothing. The other gateway takes over."""
    async with deleting(servers, gateways=2) as cluster:
        one, other = cluster.gateways
        job = await cluster.client.submit("promised")
        assert (await cluster.client.follow(job)).code == "done"
        await other.stop()
        await one.links["s3"].half_open()
        path = f"/api/v1/waste/jobs/{job.job_id}"
        assert (await cluster.client.call("DELETE", path, job.token, gateway=one.url)).status == 204
        job.accepted_at = None
        job.streams.clear()
        await one.kill()
        assert len(await objects_left(cluster, job)) == 2
        await other.start()
        await assert_gone(cluster, [job])
        await one.links["s3"].passing()
        await one.start()
        await cluster.prove()


@pytest.mark.long
async def test_upload_with_an_old_ticket_goes_with_the_last_pass(servers: Servers) -> None:
    """S3 cannot take a ticket back: what comes with it after the deletion becomes no job, and goes."""
    async with deleting(servers, ticket_seconds=20) as cluster:
        job = await uploaded(cluster, "late")
        path = f"/api/v1/waste/jobs/{job.job_id}"
        assert (await cluster.client.call("DELETE", path, job.token)).status == 204

        entries = [f"{job.job_id} {number}{again}" for number in (1, 2) for again in ("", " again")]

        async def awaits_last_pass() -> bool:
            async with redis.asyncio.Redis.from_url(servers.valkey.url, db=2) as progress:
                return not any([await progress.zscore("agenda", entry) for entry in entries])

        await eventually(awaits_last_pass, "two passes are done")
        assert not await objects_left(cluster, job)
        await cluster.client.put(job)
        assert len(await objects_left(cluster, job)) == 1
        assert (await cluster.client.complete(job)).status == 404
        await assert_gone(cluster, [job])
        await cluster.prove()


@pytest.mark.long
async def test_photo_put_by_a_consumer_that_died_before_the_end_is_withdrawn(servers: Servers) -> None:
    """The job was cancelled meanwhile: whoever gets its delivery finds it ended, and takes its photo back."""
    async with Cluster.running(servers) as cluster:
        (consumer,) = cluster.consumers
        job, hold = await begin(cluster, "put-and-died")
        job.is_innocent = False
        await consumer.links["s3"].slow(1.0)
        hold.release()

        async def is_public() -> bool:
            return f"{job.job_id}.jpg" in await objects_left(cluster, job)

        await eventually(is_public, "the photo is put, and nobody is told")
        await consumer.kill()
        assert (await cluster.client.cancel(job)).status == 202
        assert (await cluster.client.seen(job)).code == "cancelled"
        assert await is_public()
        await consumer.links["s3"].passing()
        await consumer.start()
        await cluster.prove()
        assert not await is_public()


@pytest.mark.long
@pytest.mark.timeout(180 + DELETIONS)
async def test_jobs_cancelled_or_expired_with_consumers_killed_show_no_photo(servers: Servers) -> None:
    """At random moments: after the drain only what is done is public."""
    print(f"SEED={SEED} DELETIONS={DELETIONS}")
    choice = random.Random(SEED)
    async with Cluster.running(servers, consumers=2, JOB_DEADLINE_SECONDS="6") as cluster:
        cluster.model.delay_seconds = lambda _marker: choice.uniform(0, 2)
        turns = asyncio.Semaphore(AT_ONCE)

        async def ended_somehow(marker: str, chosen: random.Random) -> None:
            async with turns:
                job = await cluster.client.submit(marker)
                job.is_innocent = False
                cluster.client.watch(job)
                await asyncio.sleep(chosen.uniform(0, LONGEST_MOMENT_SECONDS))
                if chosen.random() < 0.7:
                    await cluster.client.cancel(job)
                await cluster.client.seen(job)

        async with killing(choice, cluster.consumers), asyncio.TaskGroup() as group:
            for number in range(DELETIONS):
                marker = f"dropped-{number}"
                group.create_task(ended_somehow(marker, random.Random(f"{SEED} {number}")))
        await cluster.prove()
        for job in cluster.ledger.jobs.values():
            assert job.end is not None
            is_public = f"{job.job_id}.jpg" in await objects_left(cluster, job)
            assert is_public == (job.end.name == "done"), f"{job.marker} is {job.end.code}"
