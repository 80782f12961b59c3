"""The broker killed, stopped, unreachable, silent, full, and rude to its clients (rows 4 to 8 and 23)."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import aio_pika
import pytest
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, DeliveryError
from yarl import URL

from growbin.adapters.rabbitmq.job_queue import RabbitJobQueue
from growbin.errors import Unavailable
from growbin.job import Job
from growbin.local.child import is_open
from growbin.local.parts.rabbitmq import RabbitMQ
from tests.faults.cluster import DECLARED_FOR_GOOD_SECONDS, Cluster, Process, Servers
from tests.faults.inspection import event_of
from tests.faults.instruments.oracle import TrackedJob, count_by, outcome
from tests.faults.model import SERVER_ERROR
from tests.faults.steps import (
    ANSWER_SECONDS,
    PATIENCE_SECONDS,
    Load,
    accepted_in_the_end,
    assert_refused_politely,
    assert_works,
    begin,
    eventually,
    rabbitmqctl,
    readiness,
    reconnected,
    spoiled,
    timed,
    uploaded,
)
from tests.faults.surgery import waiting_in

RETRY_ROUND_SECONDS = 2.3  # a publish that times out, and the pause after it
RESUMED_SECONDS = 2.0
NOTICED_SECONDS = 35.0
PUBLISHES_EACH_SECOND = 200
AWAY_SECONDS = float(os.environ.get("BROKER_AWAY_SECONDS", "10"))
CONSUMER_TIMEOUT_MS = 3_000
DEAD_LETTER_RETRY_MS = 3_000
LETTER_SECONDS = 20.0
BROKER_DEFAULTS_MS = {
    "consumer_timeout": 1_800_000,
    "channel_tick_interval": 60_000,
    "dead_letter_worker_publisher_confirm_timeout": 180_000,
}


async def accepts(rabbitmq: RabbitMQ) -> float:
    """Wait until the broker takes connections; returns the moment."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            if is_open(rabbitmq.port):
                try:
                    async with await aio_pika.connect(rabbitmq.url) as connection:
                        await connection.channel()
                        return time.monotonic()
                except CONNECTION_EXCEPTIONS:
                    pass
            await asyncio.sleep(0.05)


# --- row 4: gone while publishing -----------------------------------------------------------------


async def kill(cluster: Cluster) -> None:
    await cluster.broker.kill()


async def start(cluster: Cluster) -> None:
    await cluster.broker.start()


async def stop_app(cluster: Cluster) -> None:
    cluster.journal.begin("rabbitmq", "stop_app")
    await rabbitmqctl(cluster.servers.rabbitmq, "stop_app")


async def start_app(cluster: Cluster) -> None:
    await rabbitmqctl(cluster.servers.rabbitmq, "start_app")
    cluster.journal.end("rabbitmq")


@pytest.mark.parametrize(
    ("leave", "come_back"),
    [
        pytest.param(kill, start, id="kill -9", marks=pytest.mark.long),
        pytest.param(stop_app, start_app, id="stop_app", marks=pytest.mark.long),
    ],
)
async def test_broker_gone_while_publishing_loses_nothing_and_is_used_again_at_once(
    servers: Servers,
    leave: Callable[[Cluster], Awaitable[None]],
    come_back: Callable[[Cluster], Awaitable[None]],
) -> None:
    """Every 202 ends done; what could not be published was told so in time, and the repeated call
    publishes; the first confirm and the first delivery come within 2 s of the broker's return."""
    async with Cluster.running(servers, gateways=2, consumers=2) as cluster:
        await asyncio.sleep(cluster.broker.declared_at + DECLARED_FOR_GOOD_SECONDS - 2 - time.monotonic())
        load = Load(cluster)
        async with load.running():
            await asyncio.sleep(2)
            await leave(cluster)
            await asyncio.sleep(1)
            accepting = asyncio.create_task(accepts(servers.rabbitmq))
            await come_back(cluster)
            back_at = await accepting
            await asyncio.sleep(RESUMED_SECONDS + 1)
        published, consumed = load.published_after(back_at), load.consumed_after(back_at)
        print(f"broker accepting -> confirmed {published:.2f} s, consumed {consumed:.2f} s")
        await cluster.prove()
        assert count_by(load.jobs, outcome) == {"done": len(load.jobs)}
        assert [len(cluster.model.calls_of(job.marker)) for job in load.jobs] == [1] * len(load.jobs)
        assert published <= RESUMED_SECONDS
        assert consumed <= RESUMED_SECONDS


@pytest.mark.long
async def test_broker_killed_under_200_publishes_a_second_keeps_what_it_confirmed(servers: Servers) -> None:
    """Each publish is confirmed or refused in time, and every confirmed message is in the queue of the
    broker that came back; so is what was refused and arrived all the same, at most once each."""
    async with Cluster.running(servers, consumers=0) as cluster:
        (gateway,) = cluster.gateways  # its link to the broker is ours, too
        confirmed: set[UUID] = set()
        refused: set[UUID] = set()

        async def publish_one() -> None:
            job = a_job()
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await queue.publish(job)
                confirmed.add(job.job_id)
            except Unavailable:
                refused.add(job.job_id)

        async def publish_all(group: asyncio.TaskGroup) -> None:
            for number in itertools.count():
                if time.monotonic() > ends_at:
                    break
                group.create_task(publish_one())
                await asyncio.sleep(began + number / PUBLISHES_EACH_SECOND - time.monotonic())

        opened = RabbitJobQueue.open(
            urls=[str(URL(servers.rabbitmq.url).with_port(gateway.links["amqp"].port))],
            queue_name=cluster.queue_name,
        )
        async with opened as queue, asyncio.TaskGroup() as group:
            await queue.publish(first := a_job())
            confirmed.add(first.job_id)
            await asyncio.sleep(DECLARED_FOR_GOOD_SECONDS)
            ends_at = float("inf")
            began = time.monotonic()
            publishing = group.create_task(publish_all(group))
            await asyncio.sleep(3)
            await cluster.broker.kill()
            await cluster.broker.start()
            before = len(confirmed)
            await asyncio.sleep(3)
            ends_at = 0.0
            await publishing
        rate = (len(confirmed) + len(refused)) / (time.monotonic() - began)
        print(f"{len(confirmed)} confirmed, {len(refused)} refused, {rate:.0f} a second")
        assert refused
        assert len(confirmed) > before > 1
        found = [json.loads(body)["data"]["job_id"] for body in await bodies(servers, cluster.queue_name)]
        assert confirmed <= set(map(UUID, found))
        assert set(map(UUID, found)) <= confirmed | refused
        assert len(found) == len(set(found))


def a_job() -> Job:
    """An accepted job as upload-complete publishes it."""
    job_id = uuid4()
    return Job(
        job_id=job_id,
        key=f"incoming/{job_id}.jpg",
        etag="0" * 32,
        length=1,
        content_type="image/jpeg",
        owner="0" * 64,
        accepted_at_ms=1,
        deadline_ms=2,
    )


async def bodies(servers: Servers, queue_name: str) -> list[bytes]:
    """All messages of a queue, taken out of it."""
    found = []
    async with await aio_pika.connect(servers.rabbitmq.url) as connection:
        queue = await (await connection.channel()).get_queue(queue_name, ensure=False)
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            found.append(message.body)
    return found


# --- row 5: unreachable ---------------------------------------------------------------------------


@pytest.mark.long
async def test_gateway_started_without_its_broker_does_what_it_can(servers: Servers) -> None:
    """Tickets are given and photos taken, upload-complete says 503 in time; once the broker can be
    reached, all is well without a restart."""
    async with Cluster.running(servers) as cluster:
        (gateway,) = cluster.gateways
        await gateway.stop()
        await gateway.links["amqp"].down()
        await gateway.start()
        job = await uploaded(cluster, "early")
        for _ in range(2):
            assert_refused_politely(*await timed(cluster.client.complete(job)))
        assert (await readiness(gateway))["rabbitmq"] is False
        await gateway.links["amqp"].passing()

        seconds = await accepted_in_the_end(cluster, job)
        print(f"accepted {seconds:.2f} s after the link was back")
        assert (await cluster.client.follow(job)).code == "done"
        await cluster.prove()


@pytest.mark.long
@pytest.mark.timeout(120 + AWAY_SECONDS)
async def test_unreachable_broker_stops_new_jobs_only(servers: Servers) -> None:
    """What is in hand ends before the broker is back, and is not repeated after; what is uploaded waits, and
    tickets are given all the time."""
    async with Cluster.running(servers) as cluster:
        (consumer,) = cluster.consumers
        begun = [await begin(cluster, f"in-hand-{number}") for number in range(3)]
        waiting = await uploaded(cluster, "waiting")
        for link in cluster.links("amqp"):
            await link.down()
        back_at = time.monotonic() + AWAY_SECONDS
        for job, hold in begun:
            hold.release()
            assert (await cluster.client.seen(job)).code == "done"
        assert (await readiness(consumer))["subscribed"] is False
        while time.monotonic() < back_at:
            assert_refused_politely(*await timed(cluster.client.complete(waiting)))
            await assert_works(cluster, ended=begun[0][0], waiting=waiting)
        for link in cluster.links("amqp"):
            await link.passing()

        await accepted_in_the_end(cluster, waiting)
        assert (await cluster.client.follow(waiting)).code == "done"
        await cluster.prove()
        assert {len(cluster.model.calls_of(job.marker)) for job, _ in begun} == {1}


# --- row 6: silent --------------------------------------------------------------------------------


@pytest.mark.long
async def test_silent_broker_is_answered_for_in_time(servers: Servers) -> None:
    """No byte comes and nobody says so: upload-complete nevertheless says 503 within 2 s, and all that
    was accepted before ends once."""
    async with Cluster.running(servers) as cluster:
        job, hold = await begin(cluster, "in-hand")
        waiting = await uploaded(cluster, "waiting")
        for link in cluster.links("amqp"):
            await link.half_open()
        for _ in range(3):
            assert_refused_politely(*await timed(cluster.client.complete(waiting)))
        hold.release()
        assert (await cluster.client.seen(job)).code == "done"
        for link in cluster.links("amqp"):
            await link.passing()
        await accepted_in_the_end(cluster, waiting)
        assert (await cluster.client.follow(waiting)).code == "done"
        await cluster.prove()
        assert len(cluster.model.calls_of("in-hand")) == 1


@pytest.mark.long
@pytest.mark.parametrize("silence", ["half open", "frozen"])
async def test_silent_broker_stops_only_what_needs_it(servers: Servers, silence: str) -> None:
    """Upload-complete says 503 within 2 s, whether its links or the broker itself fell silent; everything
    else works on, DELETE too, and afterwards it can be had."""
    async with Cluster.running(servers) as cluster:
        ended = await cluster.client.submit("ended")
        assert (await cluster.client.follow(ended)).code == "done"
        waiting, unwanted = await uploaded(cluster, "waiting"), await uploaded(cluster, "unwanted")
        delete = "DELETE", f"/api/v1/waste/jobs/{unwanted.job_id}", unwanted.token
        async with silent(cluster, silence):
            for _ in range(2):
                assert_refused_politely(*await timed(cluster.client.complete(waiting)))
                assert (await cluster.client.call(*delete)).status == 204
                await assert_works(cluster, ended=ended, waiting=waiting)
        await accepted_in_the_end(cluster, waiting)
        assert (await cluster.client.follow(waiting)).code == "done"
        assert (await cluster.client.call(*delete)).status == 204
        await cluster.prove()


@asynccontextmanager
async def silent(cluster: Cluster, silence: str) -> AsyncIterator[None]:
    if silence == "frozen":
        cluster.broker.freeze()
        yield
        cluster.broker.thaw()
        return
    for link in cluster.links("amqp"):
        await link.half_open()
    yield
    for link in cluster.links("amqp"):
        await link.passing()


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_silent_broker_is_noticed_within_35_seconds(servers: Servers) -> None:
    """The heartbeats stay away: both processes give the connection up and look for a new one."""
    async with Cluster.running(servers) as cluster:
        for link in cluster.links("amqp"):
            await link.half_open()
        silent_at = time.monotonic()

        async def noticed() -> bool:
            return not any([(await readiness(process))["rabbitmq"] for process in cluster.processes])

        await eventually(noticed, "both processes have noticed", NOTICED_SECONDS + 10)
        seconds = time.monotonic() - silent_at
        print(f"silence noticed after {seconds:.1f} s")
        assert seconds <= NOTICED_SECONDS
        for link in cluster.links("amqp"):
            await link.passing()
        job = await cluster.client.submit("afterwards")
        assert (await cluster.client.follow(job)).code == "done"
        await cluster.prove()


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_retry_whose_connection_alone_goes_silent_is_published_on_the_next(servers: Servers) -> None:
    """Deliveries still come, but the connection for publishing says nothing any more: when that is noticed,
    every job that waited to be tried again is, and none keeps its place for ever."""
    async with Cluster.running(servers, JOB_DEADLINE_SECONDS="80") as cluster:
        (consumer,) = cluster.consumers
        markers = [f"retried-{number}" for number in range(8)]
        for marker in markers:
            cluster.model.script(marker, SERVER_ERROR)
        begun = [await begin(cluster, marker) for marker in markers]
        consumer.links["amqp"].silence(b"growbin-publisher")
        for _, hold in begun:
            hold.release()
            # Spread over a whole round of trying and pausing: whenever the loss is noticed, some are trying.
            await asyncio.sleep(RETRY_ROUND_SECONDS / len(begun))
        for job, _ in begun:
            assert (await cluster.client.seen(job, 90)).code == "done"
        await cluster.prove()


# --- row 7: alarms --------------------------------------------------------------------------------

ALARMS = {
    "memory": (
        ("set_vm_memory_high_watermark", "0.00001"),
        ("set_vm_memory_high_watermark", "absolute", "512MB"),
    ),
    "disk": (("set_disk_free_limit", "900000GB"), ("set_disk_free_limit", "50MB")),
}


@asynccontextmanager
async def alarm(servers: Servers, kind: str) -> AsyncIterator[None]:
    raise_it, clear_it = ALARMS[kind]
    await rabbitmqctl(servers.rabbitmq, *raise_it)
    try:
        yield
    finally:
        await rabbitmqctl(servers.rabbitmq, *clear_it)


@pytest.mark.long
@pytest.mark.parametrize("kind", ALARMS)
async def test_broker_in_alarm_takes_no_jobs_but_gives_them_out(servers: Servers, kind: str) -> None:
    """Answers come in time, consumers work off what was accepted; the messages that were refused and
    arrive after all when the alarm is over cost no second model call."""
    async with Cluster.running(servers, CONSUMER_CONCURRENCY="2") as cluster:
        holds = [cluster.model.hold(f"accepted-{number}") for number in range(6)]
        accepted = [await cluster.client.submit(f"accepted-{number}") for number in range(6)]
        refused = [await uploaded(cluster, f"refused-{number}") for number in range(3)]
        async with alarm(servers, kind):
            for job in refused:
                for _ in range(2):  # each try may leave a message behind
                    assert_refused_politely(*await timed(cluster.client.complete(job)))
            for hold in holds:
                hold.release()
            ends = await asyncio.gather(*map(cluster.client.follow, accepted))
            assert {end.code for end in ends} == {"done"}
        for job in refused:
            await accepted_in_the_end(cluster, job)
        ends = await asyncio.gather(*map(cluster.client.follow, refused))
        assert {end.code for end in ends} == {"done"}
        await cluster.prove()
        assert [len(cluster.model.calls_of(job.marker)) for job in (*accepted, *refused)] == [1] * 9


@pytest.mark.long
async def test_retry_that_cannot_be_published_keeps_its_delivery(servers: Servers) -> None:
    """The model fails while the broker takes no messages, then consumer and broker both die: the delivery
    was not acknowledged before its retry was confirmed, so the job is begun again and done."""
    async with Cluster.running(servers, JOB_DEADLINE_SECONDS="60") as cluster:
        (consumer,) = cluster.consumers
        cluster.model.script("retried", SERVER_ERROR)
        job, hold = await begin(cluster, "retried")
        async with alarm(servers, "memory"):
            hold.release()
            await eventually(lambda: said(consumer, "retry_publish_failed"), "the retry is refused")
            await consumer.kill()
            await cluster.broker.kill()
            await cluster.broker.start()  # the alarm was not for ever
        await consumer.start()
        assert (await cluster.client.seen(job)).code == "done"
        await cluster.prove()
        assert len(cluster.model.calls_of("retried")) == 2


async def said(process: Process, event: str) -> bool:
    return f'"event": "{event}"' in process.log


# --- row 8: rude to its clients -------------------------------------------------------------------


async def test_connection_cut_during_model_calls_costs_no_extra_call(servers: Servers) -> None:
    """The deliveries come again and find their calls still running: five jobs, five calls."""
    async with Cluster.running(servers) as cluster:
        (consumer,) = cluster.consumers
        begun = await asyncio.gather(*(begin(cluster, f"cut-{number}") for number in range(5)))

        async def are_in_hand_again() -> bool:
            assert len(cluster.model.calls) == len(begun)
            return (await waiting_in(cluster)).get("messages_unacknowledged") == len(begun)

        for times in (1, 2):
            assert await consumer.links["amqp"].cut() > 0
            await reconnected(consumer, times=times)
            await eventually(are_in_hand_again, "all are delivered again")
        for _, hold in begun:
            hold.release()
        ends = await asyncio.gather(*(cluster.client.seen(job) for job, _ in begun))
        assert {end.code for end in ends} == {"done"}
        await cluster.prove()
        assert len(cluster.model.calls) == len(begun)


@pytest.mark.long
async def test_connections_closed_by_an_operator_cost_no_extra_call(servers: Servers) -> None:
    """Publisher and consumer come back by themselves, with the calls they had."""
    async with Cluster.running(servers) as cluster:
        (consumer,) = cluster.consumers
        begun = await asyncio.gather(*(begin(cluster, f"closed-{number}") for number in range(3)))
        await rabbitmqctl(servers.rabbitmq, "close_all_connections", "maintenance")
        await reconnected(consumer, times=1)
        another = await cluster.client.submit("another")
        assert (await cluster.client.follow(another)).code == "done"
        for _, hold in begun:
            hold.release()
        ends = await asyncio.gather(*(cluster.client.seen(job) for job, _ in begun))
        assert {end.code for end in ends} == {"done"}
        await cluster.prove()
        assert len(cluster.model.calls) == len(begun) + 1


@pytest.mark.long
async def test_channel_closed_for_a_slow_acknowledgement_costs_no_extra_call(servers: Servers) -> None:
    """The broker's patience with consumers ends during a model call, twice."""
    patience = broker_set(servers, consumer_timeout=CONSUMER_TIMEOUT_MS, channel_tick_interval=1_000)
    async with patience, Cluster.running(servers) as cluster:
        (consumer,) = cluster.consumers
        job, hold = await begin(cluster, "slow")
        await reconnected(consumer, times=2)
        assert "delivery acknowledgement" in consumer.log  # the broker's own reason
        hold.release()
        assert (await cluster.client.seen(job)).code == "done"
        await cluster.prove()
        assert len(cluster.model.calls_of("slow")) == 1


@pytest.mark.long
async def test_deleted_queue_is_declared_again_and_what_was_in_hand_ends(servers: Servers) -> None:
    """The consumer is told, subscribes to a new queue and finishes the job whose delivery is gone."""
    async with Cluster.running(servers) as cluster:
        (consumer,) = cluster.consumers
        job, hold = await begin(cluster, "in-hand")
        await delete_queue(servers, cluster.queue_name)
        await reconnected(consumer, times=1)
        cluster.broker.declared_at = time.monotonic()
        another = await cluster.client.submit("another")
        assert (await cluster.client.follow(another)).code == "done"
        hold.release()
        assert (await cluster.client.seen(job)).code == "done"
        await cluster.prove()
        assert len(cluster.model.calls) == 2


@pytest.mark.long
async def test_queue_deleted_under_its_publishers_is_declared_again(servers: Servers) -> None:
    """Who finds no route for a message makes a new connection, which declares all that is missing: the
    gateway for the main queue while no consumer runs, a consumer for the delay of its retry."""
    async with Cluster.running(servers) as cluster:
        (consumer,) = cluster.consumers
        await consumer.stop()
        await delete_queue(servers, cluster.queue_name)
        submitted = await cluster.client.submit("submitted")
        await consumer.start()
        assert (await cluster.client.follow(submitted)).code == "done"
        await delete_queue(servers, f"{cluster.queue_name}.delay.1s")
        cluster.model.script("retried", SERVER_ERROR)
        retried = await cluster.client.submit("retried")
        assert (await cluster.client.follow(retried)).code == "done"
        await cluster.prove()


async def delete_queue(servers: Servers, name: str) -> None:
    async with await aio_pika.connect(servers.rabbitmq.url) as connection:
        await (await connection.channel()).queue_delete(name)


@asynccontextmanager
async def broker_set(servers: Servers, **milliseconds: int) -> AsyncIterator[None]:
    """Another patience of the broker, for channels and queues that are made from now on."""

    async def give(times: Mapping[str, int]) -> None:
        settings = (f"application:set_env(rabbit, {name}, {time})" for name, time in times.items())
        await rabbitmqctl(servers.rabbitmq, "eval", f"{', '.join(settings)}.")

    await give(milliseconds)
    try:
        yield
    finally:
        await give({name: BROKER_DEFAULTS_MS[name] for name in milliseconds})


# --- row 23: dead letters that find no place ------------------------------------------------------


async def spoil(cluster: Cluster, marker: str) -> TrackedJob:
    """A watched job whose event is a dead letter."""
    cluster.ledger.expected_errors.append("job_event_rejected")
    good = await cluster.client.submit(f"before-{marker}")
    assert (await cluster.client.follow(good)).code == "done"
    job = await uploaded(cluster, marker)
    job.is_innocent = False
    cluster.client.watch(job)
    body = (await event_of(cluster.servers, good)).replace(good.job_id.encode(), job.job_id.encode())
    await cluster.messages.publish(spoiled(body, etag=None), message_id=job.job_id)
    return job


@pytest.mark.long
async def test_dead_letter_waits_for_a_full_target(servers: Servers) -> None:
    """The queue for people takes no more: the job fails at once all the same, others go on, and the
    letter is there when people have made room."""
    async with Cluster.running(servers) as cluster:
        letters = f"{cluster.queue_name}.letters"
        async with policy(servers, letters, {"max-length": 5, "overflow": "reject-publish"}):
            await fill(cluster, letters)
            job = await spoil(cluster, "no-room")
            assert (await cluster.client.seen(job)).code == "failed: bad_event"
            innocent = await cluster.client.submit("innocent")
            assert (await cluster.client.follow(innocent)).code == "done"
            assert not await has_letter(cluster, job)
            async with await aio_pika.connect(servers.rabbitmq.url) as connection:
                queue = await (await connection.channel()).get_queue(letters, ensure=False)
                await queue.purge()
            await eventually(lambda: has_letter(cluster, job), "the letter is there")
        await cluster.prove()


@pytest.mark.long
async def test_dead_letter_waits_for_a_route(servers: Servers) -> None:
    """The exchange is gone: the letter stays with the main queue until growbin has declared it again, and
    then reaches people and the job's owner."""
    patience = broker_set(servers, dead_letter_worker_publisher_confirm_timeout=DEAD_LETTER_RETRY_MS)
    async with patience, Cluster.running(servers) as cluster:
        (consumer,) = cluster.consumers
        async with await aio_pika.connect(servers.rabbitmq.url) as connection:
            await (await connection.channel()).exchange_delete(f"{cluster.queue_name}.dead")
        job = await spoil(cluster, "no-route")
        innocent = await cluster.client.submit("innocent")
        assert (await cluster.client.follow(innocent)).code == "done"
        assert job.end is None
        await consumer.links["amqp"].cut()  # each new connection declares what is missing
        assert (await cluster.client.seen(job, LETTER_SECONDS)).code == "failed: bad_event"
        await eventually(lambda: has_letter(cluster, job), "the letter is there")
        await cluster.prove()


@asynccontextmanager
async def policy(servers: Servers, queue: str, definition: Mapping[str, object]) -> AsyncIterator[None]:
    pattern = f"^{re.escape(queue)}$"
    await rabbitmqctl(
        servers.rabbitmq, "set_policy", "faults", pattern, json.dumps(definition), "--apply-to", "queues"
    )
    try:
        yield
    finally:
        await rabbitmqctl(servers.rabbitmq, "clear_policy", "faults")


async def fill(cluster: Cluster, queue: str) -> None:
    """Put letters into a bounded queue until it refuses one."""
    for _ in range(100):
        try:
            await cluster.messages.publish(b"a letter of no job", queue=queue)
        except DeliveryError:
            return
    raise AssertionError(f"{queue} takes everything")


async def has_letter(cluster: Cluster, job: TrackedJob) -> bool:
    return job.job_id in {letter.job_id for letter in await cluster.messages.letters()}
