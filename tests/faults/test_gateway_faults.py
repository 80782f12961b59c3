"""Repeated, early, late and cut upload-completes, a photo exchanged behind our back, dead letters that
meet the living, and clocks that are wrong (rows 16 to 18 and 27 to 29); a gateway whose parts are away or
that is told to stop."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial

import aio_pika
import pytest

from growbin.local.parts.seaweedfs import BUCKET
from tests.faults.client import Refused
from tests.faults.cluster import Cluster, Process, Servers
from tests.faults.inspection import event_of
from tests.faults.instruments.oracle import LATE_SECONDS, TrackedJob
from tests.faults.photos import drawn, photo_for
from tests.faults.steps import (
    ANSWER_SECONDS,
    assert_refused_politely,
    assert_works,
    begin,
    eventually,
    readyz,
    timed,
    uploaded,
)
from tests.faults.surgery import (
    is_accepted,
    make_clock_movable,
    metric,
    record_of,
    reject_next,
    set_clock,
    waiting_in,
)

PARALLEL = 50
LEASE_SECONDS = 2


async def complete_everywhere(cluster: Cluster, job: TrackedJob, times: int) -> set[str]:
    """That many upload-completes at once, spread over the gateways; the different answers, apart from
    the stage, which may go on meanwhile."""
    calls = (
        cluster.client.complete(job, cluster.gateways[number % len(cluster.gateways)].url)
        for number in range(times)
    )
    answers = await asyncio.gather(*calls)
    assert {answer.status for answer in answers} == {202}
    return {json.dumps([answer.body["job_id"], answer.body["links"]]) for answer in answers}


# --- row 16 -------------------------------------------------------------------------------------


async def test_fifty_upload_completes_are_one_job(servers: Servers) -> None:
    """In parallel, at two gateways, while it runs and after its end: the same answer, one model call."""
    async with Cluster.running(servers, gateways=2, consumers=2) as cluster:
        job = await uploaded(cluster, "often")
        hold = cluster.model.hold("often")
        answers = await complete_everywhere(cluster, job, PARALLEL)
        await hold.reached()
        answers |= await complete_everywhere(cluster, job, 2)
        hold.release()
        assert (await cluster.client.follow(job)).code == "done"
        answers |= await complete_everywhere(cluster, job, 2)
        assert len(answers) == 1
        assert len(cluster.model.calls_of("often")) == 1
        await cluster.prove()


@pytest.mark.long
async def test_consumer_faster_than_its_gateway_tells_the_whole_story(servers: Servers) -> None:
    """The job is begun before its gateway could write `queued`: the stream has it all the same, once."""
    async with Cluster.running(servers, gateways=2) as cluster:
        slow, quick = cluster.gateways
        job = cluster.ledger.track("fast", await cluster.client.session())
        with only_through(cluster, slow):  # its connections to Redis stand before they become slow
            await cluster.client.ticket(job)
            assert (await cluster.client.complete(job)).status == 409
        await cluster.client.put(job)
        hold = cluster.model.hold("fast")
        with only_through(cluster, quick):
            stream = cluster.client.watch(job)
            await slow.links["redis"].slow(0.25)
            assert (await cluster.client.complete(job, slow.url)).status == 202
            hold.release()
            assert (await cluster.client.seen(job)).code == "done"
        stages = [event.data["stage"] for event in stream.events]
        assert stages == ["awaiting_upload", "queued", "fetching", "analysing", "advising", "done"]
        await slow.links["redis"].passing()
        await cluster.prove()


@contextmanager
def only_through(cluster: Cluster, gateway: Process) -> Iterator[None]:
    """The client talks to this gateway."""
    usual = cluster.client._gateways
    cluster.client._gateways = lambda: [gateway.url]
    try:
        yield
    finally:
        cluster.client._gateways = usual


# --- row 17 -------------------------------------------------------------------------------------


@pytest.mark.long
async def test_upload_complete_too_early_too_late_or_from_elsewhere_starts_nothing(servers: Servers) -> None:
    """409 while the ticket lives, 410 once it ran out, 404 for another session; the photo mends the 409."""
    async with Cluster.running(servers, TICKET_SECONDS="12", UPLOAD_WAIT_SECONDS="16") as cluster:
        client, ledger = cluster.client, cluster.ledger
        token = await client.session()
        early, late = ledger.track("early", token), ledger.track("late", token)
        for job in (early, late):
            await client.ticket(job)
        refused = await client.complete(early)
        assert (refused.status, refused.body["code"]) == (409, "upload_missing")
        await client.put(early)
        foreign = await client.call(
            "POST", f"/upload-complete/{early.job_id}", ledger.track("other", await client.session()).token
        )
        assert (foreign.status, foreign.body["code"]) == (404, "not_found")
        assert (await client.complete(early)).status == 202
        assert (await client.follow(early)).code == "done"

        async def has_run_out() -> bool:
            answer = await client.complete(late)
            return (answer.status, answer.body["code"]) == (410, "upload_expired")

        await eventually(has_run_out, "the ticket ran out")
        with pytest.raises(Refused, match="403"):
            await client.put(late)
        assert (await client.follow(late)).code == "expired"
        assert await has_run_out()
        assert not cluster.model.calls_of("late")
        await cluster.prove()


@pytest.mark.long
async def test_job_that_no_consumer_takes_ends_in_time(servers: Servers) -> None:
    """Whoever looks, expires: a stream that is open, and a read when there is none."""
    async with Cluster.running(servers, JOB_DEADLINE_SECONDS="4") as cluster:
        (consumer,) = cluster.consumers
        await consumer.stop()
        unwatched, watched = [await cluster.client.submit(marker) for marker in ("unwatched", "watched")]
        cluster.client.watch(watched)
        assert (await cluster.client.seen(watched, 4 + LATE_SECONDS)).code == "expired"
        assert (await cluster.client.read(unwatched))["stage"] == "expired"
        await consumer.start()
        assert not cluster.model.calls
        await cluster.prove()


@pytest.mark.long
async def test_delivery_of_an_erased_job_brings_nothing_back(servers: Servers) -> None:
    """Its owner has deleted it while it waited: the consumer finds an ended job, its owner a 404."""
    async with Cluster.running(servers) as cluster:
        (consumer,) = cluster.consumers
        await consumer.stop()
        job = await cluster.client.submit("erased")
        path = f"/api/v1/waste/jobs/{job.job_id}"
        assert (await cluster.client.call("DELETE", path, job.token)).status == 204
        job.accepted_at = None  # the promise went with it
        await consumer.start()
        await cluster.prove()
        assert (await cluster.client.call("GET", path, job.token)).status == 404
        assert (await cluster.client.call("DELETE", path, job.token)).status == 204


# --- row 18 -------------------------------------------------------------------------------------


@pytest.mark.long
async def test_photo_exchanged_or_deleted_after_the_202_fails_unpaid(servers: Servers) -> None:
    """What was accepted is what is looked at: anything else ends `failed` and never reaches the model."""
    async with Cluster.running(servers) as cluster:
        (consumer,) = cluster.consumers
        await consumer.stop()
        client = cluster.client
        changed = await client.submit("changed", content_type=None)  # such a ticket may be used again
        await client.put(changed, drawn(21).ljust(len(photo_for("changed")), b"\0"))  # no longer, no shorter
        missing = await client.submit("missing")
        async with cluster.servers.seaweedfs.client() as s3:
            await s3.delete_object(Bucket=BUCKET, Key=(await record_of(cluster, missing))["key"])
        await consumer.start()
        assert (await client.follow(changed)).code == "failed: photo_changed"
        assert (await client.follow(missing)).code == "failed: photo_missing"
        assert not cluster.model.calls
        await cluster.prove()


# --- row 27 -------------------------------------------------------------------------------------


async def killed_while_submitting(cluster: Cluster, job: TrackedJob) -> None:
    """Upload-complete at the first gateway, which dies as soon as it has accepted the job."""
    first = cluster.gateways[0]
    cut = asyncio.create_task(cluster.client.complete(job, first.url))

    await eventually(partial(is_accepted, cluster, job), "the job is accepted")
    await first.links["redis"].half_open()  # should its publish be confirmed, it cannot say so any more
    await asyncio.sleep(1)
    await first.kill()
    assert (await cut).status == 0
    assert "published" not in {name for name, value in (await record_of(cluster, job)).items() if value}


UPLOAD_WAIT_SECONDS = 8.0


@pytest.mark.long
async def test_job_that_may_be_in_the_queue_is_not_ended_with_its_ticket(servers: Servers) -> None:
    """Redis is lost while the publish is confirmed: no 202, no `queued`, and yet there is a message. Who
    looks when the ticket's time is over leaves the job to its consumer."""
    async with Cluster.running(
        servers, UPLOAD_WAIT_SECONDS=f"{UPLOAD_WAIT_SECONDS:g}", PUBLISH_TIMEOUT_SECONDS="20"
    ) as cluster:
        (gateway,), (consumer,) = cluster.gateways, cluster.consumers
        await consumer.stop()
        job = await uploaded(cluster, "late")
        await gateway.links["amqp"].slow(1.5)
        post = asyncio.create_task(cluster.client.complete(job))

        await eventually(partial(is_accepted, cluster, job), "the job is accepted")
        await asyncio.sleep(0.2)  # the publish is on its slow way
        await gateway.links["redis"].down()
        assert (await post).status == 503
        for link in (gateway.links["redis"], gateway.links["amqp"]):
            await link.passing()

        async def is_in_the_queue() -> bool:
            return (await waiting_in(cluster)).get("messages_ready") == 1

        await eventually(is_in_the_queue, "the message is in the queue")
        await asyncio.sleep(UPLOAD_WAIT_SECONDS)
        assert (await cluster.client.read(job))["stage"] == "awaiting_upload"
        await consumer.start()
        assert (await cluster.client.follow(job)).code == "done"
        await cluster.prove()


async def test_gateway_killed_between_stamp_and_publish_is_made_up_for_by_the_repeat(
    servers: Servers,
) -> None:
    """No confirm, no 202: the client asks again elsewhere, and that publishes the one job."""
    async with Cluster.running(servers, gateways=2, PUBLISH_TIMEOUT_SECONDS="20") as cluster:
        first, second = cluster.gateways
        await first.links["amqp"].half_open()
        job = await uploaded(cluster, "cut")
        await killed_while_submitting(cluster, job)
        assert not cluster.model.calls
        assert (await cluster.client.complete(job, second.url)).status == 202
        assert (await record_of(cluster, job))["published"]
        await mended(first)
        assert (await cluster.client.follow(job)).code == "done"
        assert len(cluster.model.calls_of("cut")) == 1
        await cluster.prove()


@pytest.mark.long
async def test_gateway_killed_between_publish_and_record_leads_to_one_call(servers: Servers) -> None:
    """The broker has the job and nobody knows: the repeat may publish it again, and it is still one job."""
    async with Cluster.running(servers, gateways=2, consumers=2, PUBLISH_TIMEOUT_SECONDS="20") as cluster:
        first, second = cluster.gateways
        for consumer in cluster.consumers:
            await consumer.stop()
        await first.links["amqp"].slow(0.3)
        job = await uploaded(cluster, "unrecorded")
        await killed_while_submitting(cluster, job)
        assert (await cluster.client.complete(job, second.url)).status == 202

        async def lies_there_twice() -> bool:
            return bool((await waiting_in(cluster)).get("messages") == 2)

        await eventually(lies_there_twice, "two messages for one job")
        await asyncio.gather(mended(first), *(consumer.start() for consumer in cluster.consumers))
        assert (await cluster.client.follow(job)).code == "done"
        assert len(cluster.model.calls_of("unrecorded")) == 1
        await cluster.prove()


@pytest.mark.long
async def test_gateway_whose_queue_is_gone_promises_nothing(servers: Servers) -> None:
    """The broker takes what it can route nowhere, and says so: no 202, until a consumer has declared the
    queue anew."""
    async with Cluster.running(servers) as cluster:
        (consumer,) = cluster.consumers
        await consumer.stop()
        job = await uploaded(cluster, "nowhere")
        async with await aio_pika.connect(servers.rabbitmq.url) as connection:
            channel = await connection.channel()
            await channel.queue_delete(cluster.queue_name)
        assert_refused_politely(*await timed(cluster.client.complete(job)))
        await consumer.start()
        cluster.broker.declared_at = time.monotonic()
        assert (await cluster.client.complete(job)).status == 202
        assert (await cluster.client.follow(job)).code == "done"
        await cluster.prove()


async def mended(process: Process) -> None:
    for name in ("amqp", "redis"):
        await process.links[name].passing()
    await process.start()


# --- row 28 -------------------------------------------------------------------------------------


async def publish_obituaries(cluster: Cluster, job: TrackedJob, times: int) -> None:
    """Obituaries of a job, whatever it is doing."""
    body = await event_of(cluster.servers, job)
    for _ in range(times):
        await cluster.messages.publish(body, queue=f"{cluster.queue_name}.obituaries", message_id=job.job_id)


@pytest.mark.long
async def test_obituaries_wait_for_the_living(servers: Servers) -> None:
    """While a consumer holds the job its dead letters end nothing, however long the call takes."""
    async with Cluster.running(servers, consumers=2, LEASE_SECONDS=str(LEASE_SECONDS)) as cluster:
        job, hold = await begin(cluster, "alive")
        job.is_innocent = False  # each of its dead letters leaves a letter, however it ends
        await publish_obituaries(cluster, job, 4)
        await asyncio.sleep(3 * LEASE_SECONDS)
        assert job.end is None
        assert (await waiting_in(cluster, ".obituaries"))["messages_unacknowledged"] == 4
        hold.release()
        assert (await cluster.client.seen(job)).code == "done"
        assert len(cluster.model.calls_of("alive")) == 1
        await cluster.prove()


@pytest.mark.long
async def test_two_readers_of_one_death_write_one_end(servers: Servers) -> None:
    """A rejected job whose obituary is delivered to several consumers at once fails exactly once."""
    async with Cluster.running(servers, gateways=2, consumers=2) as cluster:
        await asyncio.gather(*(consumer.stop() for consumer in cluster.consumers))
        job = await cluster.client.submit("dead")
        cluster.client.watch(job)
        job.is_innocent = False
        await reject_next(cluster)
        await publish_obituaries(cluster, job, 5)
        await asyncio.gather(*(consumer.start() for consumer in cluster.consumers))
        assert (await cluster.client.seen(job)).code == "failed: dead_lettered"
        assert not cluster.model.calls
        await cluster.prove()


@pytest.mark.long
async def test_obituary_fences_out_a_holder_that_lost_its_lease(servers: Servers) -> None:
    """The frozen holder's lease lapses, the obituary ends the job, and the thawed holder adds nothing."""
    async with Cluster.running(servers, consumers=2, LEASE_SECONDS=str(LEASE_SECONDS)) as cluster:
        job, hold = await begin(cluster, "frozen")
        job.is_innocent = False
        holder = next(process for process in cluster.consumers if cluster.model.open_calls(process.name) == 1)
        await publish_obituaries(cluster, job, 6)  # the other one reads its share of them
        holder.freeze()
        end = await cluster.client.seen(job)
        holder.thaw()
        hold.release()
        assert end.code == "failed: dead_lettered"
        await cluster.prove()


# --- row 29 -------------------------------------------------------------------------------------

# S3 takes what is signed up to a quarter of an hour wrong, and a ticket for five minutes.
FOUR_MINUTES, TEN_MINUTES, HOUR = 240, 600, 3600


@pytest.mark.long
async def test_clocks_ten_minutes_wrong_expire_nothing_early_or_late(servers: Servers) -> None:
    """Leases, deadlines and tickets go by Redis' clock: wrong gateways and consumers do as right ones do."""
    async with Cluster.running(
        servers, gateways=3, consumers=2, JOB_DEADLINE_SECONDS="60", TICKET_SECONDS="8", LEASE_SECONDS="2"
    ) as cluster:
        right, ahead, behind = cluster.gateways
        await asyncio.gather(
            *(set_clock(process, f"+{TEN_MINUTES}") for process in (ahead, cluster.consumers[0])),
            *(set_clock(process, f"-{TEN_MINUTES}") for process in (behind, cluster.consumers[1])),
        )
        client = cluster.client
        unused = cluster.ledger.track("unused", await client.session())
        await ticket_of(cluster, unused, right)
        jobs = [cluster.ledger.track(f"job-{number}", await client.session()) for number in range(6)]
        for number, job in enumerate(jobs):
            await ticket_of(cluster, job, right)
            wrong = (ahead, behind)[number % 2]
            early = await client.complete(job, wrong.url)
            assert (early.status, early.body["code"]) == (409, "upload_missing"), wrong.name
            await client.put(job)
            assert (await client.complete(job, wrong.url)).status == 202
        ends = await asyncio.gather(*map(client.follow, jobs))
        assert {end.code for end in ends} == {"done"}
        for end in ends:
            assert_sensible_times(end.data["result"])
        assert {call.consumer for call in cluster.model.calls} == {"consumer-1", "consumer-2"}

        async def has_run_out() -> bool:
            return (await client.complete(unused, right.url)).status == 410

        await eventually(has_run_out, "the unused ticket ran out")
        for wrong in (ahead, behind):
            late = await client.complete(unused, wrong.url)
            assert (late.status, late.body["code"]) == (410, "upload_expired"), wrong.name
        await cluster.prove()


@pytest.mark.long
async def test_clocks_an_hour_wrong_lose_nothing(servers: Servers) -> None:
    """S3 refuses what a wrong gateway signs: its tickets are worth nothing, and the same job gets a good
    one elsewhere. A wrong consumer hands its jobs on; nothing expires, nothing is paid for twice."""
    async with Cluster.running(servers, gateways=3, consumers=2, JOB_DEADLINE_SECONDS="60") as cluster:
        right, ahead, behind = cluster.gateways
        await asyncio.gather(
            set_clock(ahead, f"+{HOUR}"),
            set_clock(behind, f"-{HOUR}"),
            set_clock(cluster.consumers[1], f"+{HOUR}"),
        )
        client = cluster.client
        jobs = [cluster.ledger.track(f"job-{number}", await client.session()) for number in range(4)]
        for job in jobs:
            await ticket_of(cluster, job, behind)
            with pytest.raises(Refused, match="403"):
                await client.put(job)
            await ticket_of(cluster, job, right)
            await client.put(job)
            for wrong in (ahead, behind):
                refused = await client.complete(job, wrong.url)
                assert (refused.status, refused.body["code"]) == (503, "unavailable"), wrong.name
            assert (await client.complete(job, right.url)).status == 202
        ends = await asyncio.gather(*map(client.follow, jobs))
        assert {end.name for end in ends} <= {"done", "failed"}
        for end in ends:
            if end.name == "done":
                assert_sensible_times(end.data["result"])
        assert await metric(right, "growbin_open_streams") == 0
        await cluster.prove()


@pytest.mark.long
async def test_clocks_that_jump_while_jobs_run_change_nothing(servers: Servers) -> None:
    """Four minutes ahead, behind and back in mid-call, at gateway and consumer: no lease lapses, no
    deadline comes early, no stream is cut, and the times that are told stay those of Redis."""
    async with Cluster.running(servers, JOB_DEADLINE_SECONDS="60") as cluster:
        moves = [await make_clock_movable(process) for process in cluster.processes]
        begun = [await begin(cluster, f"job-{number}") for number in range(4)]
        for number, offset in enumerate((f"+{FOUR_MINUTES}", f"-{FOUR_MINUTES}", "+0")):
            for move in moves:
                move(offset)
            late = await cluster.client.submit(f"late-{number}")
            end = await cluster.client.follow(late)
            assert end.code == "done"
            assert_sensible_times(end.data["result"])
        for job, hold in begun:
            hold.release()
            end = await cluster.client.seen(job)
            assert (end.code, end.data["attempt"]) == ("done", 1)
            assert_sensible_times(end.data["result"])
        await cluster.prove()


async def ticket_of(cluster: Cluster, job: TrackedJob, gateway: Process) -> None:
    """A ticket from this gateway; repeated, it is a fresh one for the same job."""
    job_id = job.job_id
    with only_through(cluster, gateway):
        await cluster.client.ticket(job)
    assert job_id in ("", job.job_id)


def assert_sensible_times(result: dict[str, object]) -> None:
    timings = result["timings_ms"]
    assert isinstance(timings, dict)
    assert all(0 <= value < 60_000 for value in timings.values()), timings
    moment = datetime.fromisoformat(str(result["analysed_at"]))
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 60


# --- parts that are away -------------------------------------------------------------------------


async def test_gateway_is_ready_without_a_broker_but_not_without_redis(servers: Servers) -> None:
    """A broker that is away is shown and takes nobody out of service; without Redis nothing works: 503."""
    async with Cluster.running(servers, consumers=0) as cluster:
        (gateway,) = cluster.gateways

        async def shows(status: int, **parts: bool) -> None:
            async def does() -> bool:
                said, shown = await readyz(gateway)
                return said == status and parts.items() <= shown.items()

            await eventually(does, f"/readyz is {status} with {parts}")

        await shows(200, rabbitmq=True, redis=True)
        await gateway.links["amqp"].down()
        await shows(200, rabbitmq=False, redis=True)
        await gateway.links["amqp"].passing()
        await shows(200, rabbitmq=True)
        await gateway.links["redis"].down()
        await shows(503, rabbitmq=True, redis=False)
        await gateway.links["redis"].passing()
        await shows(200, rabbitmq=True, redis=True)


@pytest.mark.long
@pytest.mark.parametrize("silence", ["half open", "frozen"])
async def test_silent_store_stops_only_what_needs_it(servers: Servers, silence: str) -> None:
    """Upload-complete says 503 within 2 s; tickets and DELETE, which need no call to S3, and all that reads
    work on; afterwards the upload is accepted, and what was deleted goes."""
    async with Cluster.running(servers) as cluster:
        (gateway,) = cluster.gateways
        ended = await cluster.client.submit("ended")
        assert (await cluster.client.follow(ended)).code == "done"
        waiting, unwanted = await uploaded(cluster, "waiting"), await uploaded(cluster, "unwanted")
        delete = "DELETE", f"/api/v1/waste/jobs/{unwanted.job_id}", unwanted.token
        if silence == "frozen":
            cluster.s3.freeze()
        else:
            await gateway.links["s3"].half_open()
        for _ in range(2):
            assert_refused_politely(*await timed(cluster.client.complete(waiting)))
            assert (await cluster.client.call(*delete)).status == 204
            await assert_works(cluster, ended=ended, waiting=waiting)
        if silence == "frozen":
            cluster.s3.thaw()
        else:
            await gateway.links["s3"].passing()
        assert (await cluster.client.complete(waiting)).status == 202
        assert (await cluster.client.follow(waiting)).code == "done"
        await eventually(lambda: says(gateway, "job_erased"), "the deleted job's photo has gone")
        await cluster.prove()


@pytest.mark.long
async def test_silent_cdn_holds_up_no_answer(servers: Servers) -> None:
    """Only a deletion needs it, for its copy is to go as well: 204 all the same, and once it is back it is
    told."""
    async with Cluster.running(servers) as cluster:
        (gateway,) = cluster.gateways
        job = await uploaded(cluster, "unwanted")
        await cluster.cdn_link.half_open()
        deleted = cluster.client.call("DELETE", f"/api/v1/waste/jobs/{job.job_id}", job.token)
        answer, seconds = await timed(deleted)
        assert answer.status == 204
        assert seconds <= ANSWER_SECONDS
        await eventually(lambda: says(gateway, "erasure_postponed"), "the pass is postponed")
        await cluster.cdn_link.passing()
        await eventually(lambda: says(gateway, "job_erased"), "the CDN is told")
        await cluster.prove()


async def says(process: Process, event: str) -> bool:
    return f'"{event}"' in process.log


# --- told to stop --------------------------------------------------------------------------------

STOPPED_SECONDS = 2.0 + 1.0  # what is promised, and what a busy machine may add
FAREWELL_SECONDS = 1.0


@pytest.mark.long
@pytest.mark.parametrize(("link", "delay_seconds"), [("s3", 0.3), ("amqp", 0.2)])
async def test_gateway_told_to_stop_answers_the_post_in_flight(
    servers: Servers, link: str, delay_seconds: float
) -> None:
    """S3 or the broker is slow: the upload-complete is still answered 202, streams end, and the gateway
    exits in its time."""
    async with Cluster.running(servers) as cluster:
        (gateway,) = cluster.gateways
        watched, hold = await begin(cluster, "watched")
        job = await uploaded(cluster, "in-flight")
        await gateway.links["s3"].cut()  # the next connection is the post's
        await gateway.links[link].slow(delay_seconds)
        post = asyncio.create_task(cluster.client.complete(job))

        async def is_in_flight() -> bool:
            if link == "s3":
                return bool(gateway.links["s3"].connections)
            return await is_accepted(cluster, job)

        await eventually(is_in_flight, "the gateway is waiting for the slow part")
        assert not post.done()
        seconds = await timed_stop(gateway)
        print(f"stopped after {seconds:.2f} s")
        assert (await post).status == 202
        assert seconds <= STOPPED_SECONDS, f"stopped after {seconds:.2f} s"
        await gateway.links[link].passing()
        await gateway.start()
        hold.release()
        ends = await asyncio.gather(cluster.client.seen(watched), cluster.client.follow(job))
        assert {end.code for end in ends} == {"done"}
        await cluster.prove()


@pytest.mark.long
async def test_gateway_told_to_stop_beside_a_silent_broker_exits_in_time(servers: Servers) -> None:
    """A farewell that nobody answers is not waited for."""
    async with Cluster.running(servers, consumers=0) as cluster:
        (gateway,) = cluster.gateways
        usual = await timed_stop(gateway)
        await gateway.start()
        await gateway.links["amqp"].half_open()
        seconds = await timed_stop(gateway)
        print(f"stopped after {seconds:.2f} s, usually {usual:.2f} s")
        assert seconds <= STOPPED_SECONDS
        assert seconds - usual <= FAREWELL_SECONDS
        await gateway.links["amqp"].passing()


async def timed_stop(gateway: Process) -> float:
    """Seconds from SIGTERM to a clean exit."""
    began = time.monotonic()
    assert await gateway.stop() == 0
    return time.monotonic() - began
