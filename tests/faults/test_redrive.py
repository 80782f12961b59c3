"""Dead letters looked at, driven again and dropped by a person, with the command itself."""

from __future__ import annotations

import asyncio
import json
import math
import time
from asyncio.subprocess import Process
from datetime import UTC, datetime

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage, HeadersType

from growbin.local.parts.seaweedfs import BUCKET
from tests.faults.cluster import Cluster, Servers
from tests.faults.commands import OPERATOR, growbin, said_by
from tests.faults.inspection import Letter, event_of
from tests.faults.instruments.journal import Journal
from tests.faults.instruments.oracle import Stream, TrackedJob
from tests.faults.instruments.proxy import Proxy
from tests.faults.model import NONSENSE, SERVER_ERROR, Reply
from tests.faults.steps import eventually
from tests.faults.surgery import PROGRESS, database, record_of, reject_next, waiting_in

COMMAND_SECONDS = 30
COMMAND_BEGINS_SECONDS = 5
LISTINGS = 25  # a queue's default delivery limit would be 20


async def dead(cluster: Cluster, marker: str) -> TrackedJob:
    """A job whose delivery was rejected: failed, with a letter. The consumer is running afterwards."""
    (consumer,) = cluster.consumers
    await consumer.stop()
    job = await cluster.client.submit(marker)
    job.is_innocent = False
    cluster.client.watch(job)
    await reject_next(cluster)
    await consumer.start()
    assert (await cluster.client.seen(job)).code == "failed: dead_lettered"
    return job


async def dead_letters(cluster: Cluster, *words: str, **settings: str) -> Process:
    return await growbin(cluster, "dead-letters", *words, **settings)


async def run(cluster: Cluster, *words: str) -> tuple[int, str]:
    """Exit status and all that it said."""
    async with asyncio.timeout(COMMAND_SECONDS):
        return await said_by(cluster, "dead-letters", *words)


async def redrive(cluster: Cluster, job: TrackedJob) -> tuple[int, str]:
    return await run(cluster, "redrive", "--job", job.job_id)


def handled(said: str) -> list[dict[str, str]]:
    """The audit lines: what was done, to which job's letter, why it had died, how it went, who asked."""
    lines = [json.loads(line) for line in said.splitlines() if line.startswith('{"')]
    names = ("action", "job_id", "reason", "outcome", "asked_by")
    return [{name: line[name] for name in names} for line in lines if line["event"] == "letter_handled"]


async def letters_of(cluster: Cluster) -> list[Letter]:
    """The letters, once no walk holds any of them."""

    async def is_quiet() -> bool:
        return (await waiting_in(cluster, ".letters")).get("messages_unacknowledged") == 0

    await eventually(is_quiet, "no letter is held")
    return await cluster.messages.letters()


async def run_of(cluster: Cluster, job: TrackedJob) -> int:
    async with database(cluster, PROGRESS) as progress:
        snapshot = await progress.get(f"job:{{{job.job_id}}}:progress")
    return int(json.loads(snapshot)["run"]) if snapshot else 0


def begin_again(cluster: Cluster, job: TrackedJob) -> Stream:
    """The old stream's client comes back with the last id it holds. Of the second run the promises hold
    as of the first: its stream begins with `reset`, and has one end."""
    job.drive_again()
    return cluster.client.watch(job, "second run", resumes_after=job.streams[0].last_id)


async def assert_done_again(cluster: Cluster, job: TrackedJob, stream: Stream) -> None:
    async def has_come() -> bool:
        return bool(stream.events)

    await eventually(has_come, "the client of the old run hears of the new one")
    assert stream.events[0].name == "reset"

    async def has_ended() -> bool:
        return stream.end is not None

    await eventually(has_ended, "the new run's end")
    assert stream.events[-1].code == "done"
    assert len(cluster.model.calls_of(job.marker)) == 1


@pytest.mark.long
async def test_redriven_job_resets_its_streams_and_is_done(servers: Servers) -> None:
    """A new run of a failed job: its client gets reset, then everything through done; the letter is gone."""
    async with Cluster.running(servers, gateways=2) as cluster:
        job = await dead(cluster, "again")
        assert len(await letters_of(cluster)) == 1
        status, said = await redrive(cluster, job)
        assert (status, "driven again" in said) == (0, True), said
        await assert_done_again(cluster, job, begin_again(cluster, job))
        assert not await letters_of(cluster)
        status, said = await redrive(cluster, job)
        assert (status, "No letter" in said) == (1, True), said
        await cluster.prove()


@pytest.mark.long
@pytest.mark.parametrize("replies", [[NONSENSE], [SERVER_ERROR] * 2], ids=["nonsense", "no answer"])
async def test_job_that_failed_by_its_answers_is_asked_anew(servers: Servers, replies: list[Reply]) -> None:
    """The answer that made no sense is dropped, and the calls of the first run count no more."""
    async with Cluster.running(servers, MAX_PAID_CALLS="2") as cluster:
        cluster.model.script("answerless", *replies)
        job = await cluster.client.submit("answerless")
        job.is_innocent = False
        assert (await cluster.client.follow(job)).name == "failed"
        job.drive_again()
        status, said = await said_by(cluster, "redrive", "--job", job.job_id)
        assert status == 0, said
        cluster.client.watch(job, "second run", resumes_after=job.streams[0].last_id)
        assert (await cluster.client.seen(job)).code == "done"
        assert len(cluster.model.calls_of(job.marker)) == len(replies) + 1
        await cluster.prove()


@pytest.mark.long
async def test_jobs_that_an_outage_ended_are_driven_again_in_one_command(servers: Servers) -> None:
    """They expired while the model was away, and have no letter: each client gets reset, then the new run."""
    async with Cluster.running(servers, JOB_DEADLINE_SECONDS="6") as cluster:
        for link in cluster.links("model"):
            await link.down()
        away_since = time.monotonic()
        jobs = [await cluster.client.submit(f"away-{number}") for number in range(4)]
        for job in jobs:
            job.is_innocent = False
            cluster.client.watch(job)
        assert {(await cluster.client.seen(job)).code for job in jobs} == {"expired"}
        for link in cluster.links("model"):
            await link.passing()

        async with asyncio.timeout(COMMAND_SECONDS):
            # Not those of earlier rows on these servers; it may take the command seconds to begin.
            lately = f"{math.ceil(time.monotonic() - away_since) + COMMAND_BEGINS_SECONDS}s"
            chosen = ("redrive", "--since", lately, "--code", "expired")
            status, said = await said_by(cluster, *chosen, "--dry-run")
            assert (status, said.count("would be driven again")) == (0, len(jobs)), said
            assert {await run_of(cluster, job) for job in jobs} == {1}
            status, said = await said_by(cluster, *chosen)
        assert status == 0, said
        assert said.count('"event": "job_redriven"') == len(jobs)
        for job in jobs:
            await assert_done_again(cluster, job, begin_again(cluster, job))
        await cluster.prove()


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_letters_are_listed_shown_dropped_and_driven_again_as_chosen(servers: Servers) -> None:
    """By job, by reason, all: each choice takes what it names, each change leaves one audit line, and
    looking, however often, loses nothing."""
    async with Cluster.running(servers) as cluster:
        worn, first, second = jobs = await three_dead(cluster)

        def line(action: str, job: TrackedJob, reason: str, outcome: str) -> dict[str, str]:
            return {
                "action": action,
                "job_id": job.job_id,
                "reason": reason,
                "outcome": outcome,
                "asked_by": OPERATOR,
            }

        for _ in range(LISTINGS):
            status, said = await run(cluster, "list")
            assert (status, "3 letters" in said, handled(said)) == (0, True, []), said
            assert all(job.job_id in said for job in jobs)
        status, said = await run(cluster, "list", "--reason", "delivery_limit")
        assert (status, "1 letters" in said, worn.job_id in said) == (0, True, True), said
        status, said = await run(cluster, "show", "--job", first.job_id)
        assert (status, handled(said)) == (0, []), said
        assert "reason  rejected" in said
        assert "case:first" not in said  # no letter holds what its job held
        assert '"stage":"failed"' in said
        assert second.job_id not in said

        status, said = await run(cluster, "drop", "--reason", "delivery_limit")
        assert (status, handled(said)) == (0, [line("drop", worn, "delivery_limit", "dropped")]), said
        assert {letter.job_id for letter in await letters_of(cluster)} == {first.job_id, second.job_id}
        assert (await cluster.client.read(worn))["stage"] == "failed"

        status, said = await redrive(cluster, first)
        assert (status, handled(said)) == (0, [line("redrive", first, "rejected", "driven again")]), said
        await assert_done_again(cluster, first, begin_again(cluster, first))
        status, said = await run(cluster, "redrive", "--all")
        assert (status, handled(said)) == (0, [line("redrive", second, "rejected", "driven again")]), said
        await assert_done_again(cluster, second, begin_again(cluster, second))

        assert not await letters_of(cluster)
        status, said = await run(cluster, "drop", "--all")
        assert (status, "No letter" in said, handled(said)) == (1, True, []), said
        await cluster.prove()


async def three_dead(cluster: Cluster) -> tuple[TrackedJob, TrackedJob, TrackedJob]:
    """Failed, each with a letter: one that was delivered too often, two that were rejected."""
    (consumer,) = cluster.consumers
    await consumer.stop()
    worn = await cluster.client.submit("worn")
    await wear_out_next(cluster)
    first, second = [await cluster.client.submit(marker) for marker in ("first", "second")]
    for job in (worn, first, second):
        job.is_innocent = False
        cluster.client.watch(job)
    for _ in range(2):
        await reject_next(cluster)
    await consumer.start()
    for job in (worn, first, second):
        assert (await cluster.client.seen(job)).code == "failed: dead_lettered"
    return worn, first, second


async def wear_out_next(cluster: Cluster) -> None:
    """Take the next message and give it back, until the broker delivers it no more."""
    async with asyncio.timeout(30), await aio_pika.connect(cluster.servers.rabbitmq.url) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(cluster.queue_name, ensure=False)
        while (await waiting_in(cluster, ".obituaries")).get("messages") != 1:
            while message := await queue.get(timeout=10, fail=False):
                await message.nack(requeue=True)


@pytest.mark.long
async def test_redrive_without_its_photo_is_refused_with_a_reason(servers: Servers) -> None:
    """The job stays failed and its letter where it is; the command says why."""
    async with Cluster.running(servers) as cluster:
        job = await dead(cluster, "gone")
        async with cluster.servers.seaweedfs.client() as s3:
            await s3.delete_object(Bucket=BUCKET, Key=(await record_of(cluster, job))["key"])
        status, said = await redrive(cluster, job)
        assert (status, "the photo is gone" in said) == (1, True), said
        [line] = handled(said)
        assert (line["action"], line["job_id"], line["asked_by"]) == ("redrive", job.job_id, OPERATOR)
        assert line["outcome"].startswith("refused")
        assert len(await letters_of(cluster)) == 1
        assert (await cluster.client.read(job))["stage"] == "failed"
        await cluster.prove()


@pytest.mark.long
async def test_redrive_killed_before_its_publish_may_be_repeated(servers: Servers) -> None:
    """Killed when the new run was begun and not yet published: repeated, it drives the same run, once."""
    async with Cluster.running(servers) as cluster:
        job = await dead(cluster, "halfway")
        port = cluster.servers.rabbitmq.port
        async with Proxy("command", port, Journal()) as amqp, held_store(cluster) as store:
            process = await dead_letters(
                cluster,
                *("redrive", "--job", job.job_id),
                RABBITMQ_URL=cluster.servers.rabbitmq.url.replace(f":{port}/", f":{amqp.port}/"),
                S3_ENDPOINT_URL=f"http://127.0.0.1:{store.port}",
                PUBLISH_TIMEOUT_SECONDS=str(COMMAND_SECONDS),
            )

            async def looks_for_the_photo() -> bool:
                return bool(store.connections)

            await eventually(looks_for_the_photo, "the command looks for the photo")
            await amqp.half_open()  # the letter is in its hands; its publish will get nowhere
            await store.passing()

            async def is_begun() -> bool:
                return await run_of(cluster, job) == 2

            await eventually(is_begun, "the new run is begun")
            process.kill()
            await process.communicate()
        assert len(await letters_of(cluster)) == 1
        status, said = await redrive(cluster, job)
        assert (status, "driven again" in said) == (0, True), said
        assert await run_of(cluster, job) == 2
        await assert_done_again(cluster, job, begin_again(cluster, job))
        await cluster.prove()


@pytest.mark.long
async def test_redrive_of_a_job_that_is_done_is_refused(servers: Servers) -> None:
    """An earlier version may have parked it all the same: the command says how the job ended, and changes
    nothing."""
    async with Cluster.running(servers) as cluster:
        job = await cluster.client.submit("ended")
        job.is_innocent = False
        assert (await cluster.client.follow(job)).code == "done"
        letter = await event_of(cluster.servers, job)
        await cluster.messages.publish(letter, queue=f"{cluster.queue_name}.parked", message_id=job.job_id)
        status, said = await redrive(cluster, job)
        assert (status, "it is done" in said) == (1, True), said

        async def is_kept() -> bool:
            return bool((await waiting_in(cluster, ".parked")).get("messages") == 1)

        await eventually(is_kept, "the letter is still there")
        assert len(cluster.model.calls) == 1
        await cluster.prove()


@pytest.mark.long
async def test_delivery_of_an_older_run_is_acknowledged_unseen(servers: Servers) -> None:
    """The new run has been begun by a person and is still on its way: the old event starts nothing."""
    async with Cluster.running(servers) as cluster:
        (consumer,) = cluster.consumers
        job = await dead(cluster, "older")
        await consumer.stop()
        status, said = await redrive(cluster, job)
        assert (status, "driven again" in said) == (0, True), said
        new = await take_next(cluster)
        await cluster.messages.publish(await event_of(cluster.servers, job), message_id=job.job_id)

        async def holds(count: int) -> bool:
            return (await waiting_in(cluster)).get("messages") == count

        await eventually(lambda: holds(1), "the old event waits")
        await consumer.start()
        await eventually(lambda: holds(0), "the old event is acknowledged")
        assert not cluster.model.calls
        await cluster.messages.publish(new.body, message_id=new.message_id)
        await assert_done_again(cluster, job, begin_again(cluster, job))
        await cluster.prove()


def held_store(cluster: Cluster) -> Proxy:
    """An S3 that accepts connections and says nothing."""
    proxy = Proxy("store of the command", cluster.servers.seaweedfs.port, Journal())
    proxy.mode = "half open"
    return proxy


@pytest.mark.long
async def test_letter_moved_back_by_hand_is_retried_like_any_other(servers: Servers) -> None:
    """An operator's tool puts it back with its `x-death`. Copied on, that would make the broker take the
    retry for a cycle, and drop it."""
    async with Cluster.running(servers, JOB_DEADLINE_SECONDS="20") as cluster:
        (consumer,) = cluster.consumers
        await consumer.stop()
        cluster.model.script("moved", SERVER_ERROR)
        job = await cluster.client.submit("moved")
        await move_by_hand(cluster)
        await consumer.start()
        assert (await cluster.client.follow(job)).code == "done"
        assert len(cluster.model.calls_of("moved")) == 2
        await cluster.prove()


async def take_next(cluster: Cluster) -> AbstractIncomingMessage:
    """The next message of the main queue, which has it no more."""
    async with asyncio.timeout(10), await aio_pika.connect(cluster.servers.rabbitmq.url) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(cluster.queue_name, ensure=False)
        message = await queue.get(timeout=10)
        assert message is not None
        await message.ack()
    return message


async def move_by_hand(cluster: Cluster) -> None:
    """The next message of the main queue, as if it had died there of too many deliveries."""
    message = await take_next(cluster)
    headers: HeadersType = {
        "x-death": [
            {
                "queue": cluster.queue_name,
                "reason": "delivery_limit",
                "count": 1,
                "exchange": "",
                "routing-keys": [cluster.queue_name],
                "time": datetime.now(UTC),
            }
        ]
    }
    await cluster.messages.publish(message.body, headers=headers, message_id=message.message_id)
