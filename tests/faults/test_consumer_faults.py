"""Consumers killed, stopped, frozen and fed with duplicates and nonsense (rows 1, 2, 3, 21, 22, 30)."""

from __future__ import annotations

import asyncio
import io
import json
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest
from PIL import Image

from tests.faults.cluster import Cluster, Process, Servers
from tests.faults.inspection import event_of
from tests.faults.instruments.oracle import TrackedJob
from tests.faults.model import refused
from tests.faults.steps import begin, delivered, eventually, spoiled, uploaded

NEIGHBOURS = 20
PARKED_SECONDS = 5.0
HOLDER_KILLS = int(os.environ.get("HOLDER_KILLS", "3"))
HOLDER_FREEZES = int(os.environ.get("HOLDER_FREEZES", "1"))
JOBS_IN_HAND = 6
KILLED_HOLDER_SECONDS = 7.0  # six are promised; the machine is shared
FROZEN_HOLDER_SECONDS = 16.0  # fifteen


def with_short_lease(
    servers: Servers, consumers: int = 1, max_paid_calls: int = 3, **settings: str
) -> AbstractAsyncContextManager[Cluster]:
    """A cluster in which a dead consumer's jobs may soon be begun again."""
    return Cluster.running(
        servers,
        gateways=1,
        consumers=consumers,
        LEASE_SECONDS="2",
        LEASE_RENEW_SECONDS="0.5",
        MAX_PAID_CALLS=str(max_paid_calls),
        **settings,
    )


def attempts_of(job: TrackedJob) -> set[int]:
    return {event.data["attempt"] for stream in job.streams for event in stream.events}


# --- row 1: killed at each point of the story -----------------------------------------------------


@pytest.mark.long
async def test_consumer_killed_before_its_lease_has_started_nothing(servers: Servers) -> None:
    """A delivery that its consumer never looked at is not even counted as a start."""
    async with with_short_lease(servers) as cluster:
        (consumer,) = cluster.consumers
        consumer.freeze()  # the broker delivers nevertheless, into the connection
        job = await cluster.client.submit("untouched")
        await delivered(cluster, 1)
        await consumer.kill()
        await consumer.start()
        end = await cluster.client.follow(job)
        assert end.code == "done"
        assert attempts_of(job) == {1}
        assert len(cluster.model.calls_of("untouched")) == 1
        await cluster.prove()


async def test_consumer_killed_during_the_model_call_repeats_it_once(servers: Servers) -> None:
    """The cut call cannot be known to be unpaid, so there is one more, in a second attempt."""
    async with with_short_lease(servers) as cluster:
        (consumer,) = cluster.consumers
        job, _ = await begin(cluster, "cut")
        await consumer.kill()
        await consumer.start()
        assert (await cluster.client.seen(job)).code == "done"
        assert attempts_of(job) == {1, 2}
        assert [call.paid for call in cluster.model.calls_of("cut")] == [False, True]
        await cluster.prove()


@pytest.mark.long
async def test_consumer_killed_before_its_answer_is_stored_repeats_the_call_once(servers: Servers) -> None:
    """The answer came while Redis could not be reached, and was lost with the process."""
    async with with_short_lease(servers) as cluster:
        (consumer,) = cluster.consumers
        job, hold = await begin(cluster, "unkept")
        await consumer.links["redis"].half_open()
        hold.release()

        async def answered() -> bool:
            return cluster.model.paid("unkept") == 1

        await eventually(answered, "the model has answered")
        await consumer.kill()
        await consumer.links["redis"].passing()
        await consumer.start()
        assert (await cluster.client.seen(job)).code == "done"
        assert [call.paid for call in cluster.model.calls_of("unkept")] == [True, True]
        await cluster.prove()


@pytest.mark.long
async def test_consumer_killed_before_its_acknowledgement_repeats_nothing(servers: Servers) -> None:
    """The end was written, the acknowledgement never came: the next delivery finds an ended job."""
    async with with_short_lease(servers) as cluster:
        (consumer,) = cluster.consumers
        job, hold = await begin(cluster, "unacknowledged")
        await consumer.links["amqp"].half_open()
        hold.release()
        assert (await cluster.client.seen(job)).code == "done"
        await delivered(cluster, 1)
        await consumer.kill()
        await consumer.links["amqp"].passing()
        await consumer.start()
        await cluster.prove()
        assert len(cluster.model.calls_of("unacknowledged")) == 1
        assert attempts_of(job) == {1}


# --- how soon another goes on ----------------------------------------------------------------------


async def times_to_next_call(cluster: Cluster, hurt: Callable[[Process], Awaitable[None]]) -> list[float]:
    """Several jobs at once in their model calls; whoever has the first is hurt. For each job that it held,
    the seconds until the model is asked again."""
    names = [f"held-{uuid.uuid4().hex[:6]}" for _ in range(JOBS_IN_HAND)]
    begun = await asyncio.gather(*(begin(cluster, name) for name in names))
    victim = cluster.model.calls_of(names[0])[0].consumer
    held = {name for name in names if cluster.model.calls_of(name)[0].consumer == victim}
    again = {name: cluster.model.hold(name) for name in held}
    for (job, hold), name in zip(begun, names, strict=True):
        if name not in held:
            hold.release()
            await cluster.client.seen(job)
    (process,) = (one for one in cluster.consumers if one.name == victim)
    hurt_at = time.monotonic()
    await hurt(process)
    await asyncio.gather(*(hold.reached(FROZEN_HOLDER_SECONDS + 15) for hold in again.values()))
    seconds = [cluster.model.calls_of(name)[1].began - hurt_at for name in held]
    for _, hold in begun:
        hold.release()
    for hold in again.values():
        hold.release()
    ends = await asyncio.gather(*(cluster.client.seen(job) for job, _ in begun))
    assert {end.code for end in ends} == {"done"}
    assert [len(cluster.model.calls_of(name)) for name in sorted(held)] == [2] * len(held)
    return seconds


def told(seconds: list[float], what: str) -> float:
    """The 95th percentile."""
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    print(
        f"{what}: {len(ordered)} jobs, next call after median {ordered[len(ordered) // 2]:.2f}, "
        f"p95 {p95:.2f}, max {ordered[-1]:.2f} s"
    )
    return p95


@pytest.mark.long
@pytest.mark.timeout(120 + 25 * HOLDER_KILLS)
async def test_killed_holder_s_jobs_are_asked_for_again_within_six_seconds(servers: Servers) -> None:
    """The short lease lets another begin; each job is asked for once more, and no oftener."""
    async with Cluster.running(servers, consumers=3) as cluster:
        seconds = list[float]()

        async def kill(process: Process) -> None:
            await process.kill()

        for _ in range(HOLDER_KILLS):
            seconds += await times_to_next_call(cluster, kill)
            for consumer in cluster.consumers:
                if not consumer.is_running:
                    await consumer.start()
        assert told(seconds, f"{HOLDER_KILLS} kills") <= KILLED_HOLDER_SECONDS
        await cluster.prove()


@pytest.mark.long
@pytest.mark.timeout(120 + 60 * HOLDER_FREEZES)
async def test_frozen_holder_s_jobs_are_asked_for_again_within_fifteen_seconds(servers: Servers) -> None:
    """Its heartbeats stay away, so the broker gives its jobs to others; what it has to say once it thaws is
    not written down."""
    async with Cluster.running(servers, consumers=3) as cluster:
        seconds = list[float]()

        async def freeze(process: Process) -> None:
            process.freeze()

        for _ in range(HOLDER_FREEZES):
            seconds += await times_to_next_call(cluster, freeze)
            for consumer in cluster.consumers:
                consumer.thaw()
        assert told(seconds, f"{HOLDER_FREEZES} freezes") <= FROZEN_HOLDER_SECONDS
        await cluster.prove()


# --- row 2: stopped -------------------------------------------------------------------------------


@pytest.mark.long
async def test_stopped_consumer_finishes_its_call_and_hands_the_rest_to_another(servers: Servers) -> None:
    """SIGTERM: the paid call is finished and acknowledged, who waits for a call goes to the other
    consumer at once, exit code 0."""
    async with with_short_lease(servers, consumers=2) as cluster:
        stopping, other = cluster.consumers
        assert await other.stop() == 0
        paid, hold = await begin(cluster, "paid")
        # One refusal makes the whole consumer wait: its other jobs have begun, but not their calls.
        cluster.model.script("waiting-0", refused(429, "rate_limit_exceeded", retry_after_seconds=60))
        waiting = [await cluster.client.submit("waiting-0")]
        await eventually(lambda: refusals(cluster, 1), "the refusal")
        waiting += [await cluster.client.submit(f"waiting-{number}") for number in range(1, 5)]
        for job in waiting:
            cluster.client.watch(job)
        await eventually(lambda: all_at(waiting, "analysing"), "all wait for their calls")

        await other.start()
        exit_code = asyncio.create_task(stopping.stop())
        ends = await asyncio.gather(*map(cluster.client.seen, waiting))
        assert {end.code for end in ends} == {"done"}
        assert not exit_code.done()
        hold.release()
        assert await exit_code == 0
        assert (await cluster.client.seen(paid)).code == "done"
        assert [call.consumer for call in cluster.model.calls_of("paid")] == [stopping.name]
        for job in waiting:
            assert [call.consumer for call in cluster.model.calls_of(job.marker) if call.paid] == [other.name]
        await stopping.start()
        await cluster.prove()


async def refusals(cluster: Cluster, count: int) -> bool:
    return sum(call.status == 429 for call in cluster.model.calls) == count


async def all_at(jobs: list[TrackedJob], stage: str) -> bool:
    latest = [job.streams[0].events[-1:] for job in jobs]
    return all(events and events[0].data["stage"] == stage for events in latest)


# --- row 3: the photo that kills ------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_twenty_neighbours_survive_five_crashes_and_the_guilty_job_fails(servers: Servers) -> None:
    """Twenty-one jobs are in hand when their consumer crashes, untouched at first. Then one photo kills it at
    each model call, twice with all others in their calls, twice alone: it ends `failed: crashed`, they end
    `done`, and nobody is a dead letter."""
    async with with_short_lease(servers, max_paid_calls=4) as cluster:  # one for each start
        (consumer,) = cluster.consumers
        names = [f"neighbour-{number}" for number in range(NEIGHBOURS)]
        consumer.freeze()
        guilty, *neighbours = await asyncio.gather(*map(cluster.client.submit, ["guilty", *names]))
        for job in (guilty, *neighbours):
            cluster.client.watch(job)
        await delivered(cluster, 1 + NEIGHBOURS)
        crashes = 0
        for shared in (True, True, False, False):
            strike = cluster.model.hold("guilty")
            in_hand = [cluster.model.hold(name) for name in names if shared]
            await crash(consumer)
            crashes += 1
            await asyncio.gather(*(hold.reached(60) for hold in (strike, *in_hand)))
        await crash(consumer)
        crashes += 1
        ends = await asyncio.gather(*(cluster.client.seen(job, 90) for job in neighbours))
        assert {end.code for end in ends} == {"done"}
        assert (await cluster.client.seen(guilty)).code == "failed: crashed"
        assert crashes == 5
        assert max(attempts_of(guilty)) == 4
        await cluster.prove()


async def test_suspects_whose_turn_does_not_come_share_one(servers: Servers) -> None:
    """Two jobs have lost two holders and would each run alone. Neither call comes to its end while the other
    is waited for: before its deadline the second begins beside the first, and no other job does."""
    async with with_short_lease(servers, JOB_DEADLINE_SECONDS="60") as cluster:  # a turn is waited for 15
        (consumer,) = cluster.consumers
        names = ("one", "two")
        strikes = [[cluster.model.hold(name) for name in names] for _ in range(3)]
        suspects = [await cluster.client.submit(name) for name in names]
        for strike in strikes[:2]:
            await asyncio.gather(*(hold.reached() for hold in strike))
            await crash(consumer)
        calls = cluster.model.calls_of

        async def in_third_call(count: int) -> bool:
            return sum(len(calls(name)) == 3 for name in names) >= count

        await eventually(partial(in_third_call, 1), "a suspect is in its third call")
        innocent = await cluster.client.submit("innocent")
        await eventually(partial(in_third_call, 2), "both suspects are in their third calls")
        assert not calls("innocent")
        for hold in strikes[2]:
            hold.release()
        for job in (*suspects, innocent):
            assert (await cluster.client.follow(job)).code == "done"
        await cluster.prove()


@pytest.mark.long
async def test_photo_that_kills_its_consumer_in_each_call_is_given_up(servers: Servers) -> None:
    """By default three paid calls may be made: the fourth start could only fail, and is not made."""
    async with with_short_lease(servers) as cluster:
        (consumer,) = cluster.consumers
        strikes = [cluster.model.hold("guilty") for _ in range(3)]
        guilty = await cluster.client.submit("guilty")
        for strike in strikes:
            await strike.reached()
            await crash(consumer)
        assert (await cluster.client.follow(guilty)).code == "failed: crashed"
        assert len(cluster.model.calls_of("guilty")) == 3
        innocent = await cluster.client.submit("innocent")
        assert (await cluster.client.follow(innocent)).code == "done"
        await cluster.prove()


@pytest.mark.long
async def test_photo_that_kills_its_consumer_before_each_call_is_given_up(servers: Servers) -> None:
    """It never comes as far as a paid call, so only its starts are counted: there is no fifth."""
    async with Cluster.running(servers, LEASE_SECONDS="1", LEASE_RENEW_SECONDS="0.3") as cluster:
        (consumer,) = cluster.consumers
        for link in cluster.photo_links:
            await link.half_open()  # there it stands when it is struck
        guilty = await cluster.client.submit("guilty")
        cluster.client.watch(guilty)
        for start in (1, 2, 3, 4):
            await eventually(partial(is_at, guilty, "fetching", start), f"start {start}")
            await crash(consumer)
        for link in cluster.photo_links:
            await link.passing()
        assert (await cluster.client.seen(guilty)).code == "failed: crashed"
        assert not cluster.model.calls
        await cluster.prove()


async def is_at(job: TrackedJob, stage: str, attempt: int) -> bool:
    return any(
        (event.data["stage"], event.data["attempt"]) == (stage, attempt) for event in job.streams[0].events
    )


async def crash(consumer: Process) -> None:
    await consumer.kill()
    await consumer.start()


def endless_jpeg() -> bytes:
    """A small progressive JPEG that repeats its last scan often enough to take minutes."""
    buffer = io.BytesIO()
    Image.new("RGB", (6000, 6000), "red").save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    last_scan = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last_scan * 5000 + whole[-2:]


@pytest.mark.long
async def test_photo_that_would_cost_too_much_fails_alone(servers: Servers) -> None:
    """It is refused by what its header and markers tell of its cost; nobody beside it notices."""
    async with Cluster.running(servers) as cluster:
        greedy = await uploaded(cluster, "greedy", endless_jpeg())
        assert (await cluster.client.complete(greedy)).status == 202
        cluster.client.watch(greedy)
        neighbours = [await cluster.client.submit(f"neighbour-{number}") for number in range(10)]
        ends = await asyncio.gather(*map(cluster.client.follow, neighbours))
        assert {end.code for end in ends} == {"done"}
        assert (await cluster.client.seen(greedy)).code == "failed: photo_too_complex"
        assert cluster.model.calls_of("greedy") == []
        await cluster.prove()


# --- row 21: delivered twice ----------------------------------------------------------------------


@pytest.mark.long
async def test_job_delivered_again_and_again_is_paid_once(servers: Servers) -> None:
    """While it is worked on, to its own consumer and to another, and after its end."""
    async with Cluster.running(servers, consumers=2) as cluster:
        job, hold = await begin(cluster, "twice")
        body = await event_of(servers, job)
        for _ in range(6):
            await cluster.messages.publish(body, message_id=job.job_id)
        # Those at the other consumer go to the delay queue, those at its own wait for its verdict.
        await asyncio.sleep(2)
        hold.release()
        assert (await cluster.client.seen(job)).code == "done"
        for _ in range(4):
            await cluster.messages.publish(body, message_id=job.job_id)
        await cluster.prove()
        assert len(cluster.model.calls_of("twice")) == 1
        assert attempts_of(job) == {1}


@pytest.mark.long
async def test_job_at_two_consumers_at_once_is_begun_by_one(servers: Servers) -> None:
    """Both hold a delivery of it before either looks."""
    async with Cluster.running(servers, consumers=2) as cluster:
        for consumer in cluster.consumers:
            consumer.freeze()
        jobs = [await cluster.client.submit(f"raced-{number}") for number in range(5)]
        for job in jobs:
            await cluster.messages.publish(await event_of(servers, job), message_id=job.job_id)
        await delivered(cluster, 2 * len(jobs))
        for consumer in cluster.consumers:
            consumer.thaw()
        ends = await asyncio.gather(*map(cluster.client.follow, jobs))
        assert {end.code for end in ends} == {"done"}
        await cluster.prove()
        assert [len(cluster.model.calls_of(job.marker)) for job in jobs] == [1] * len(jobs)
        assert [attempts_of(job) for job in jobs] == [{1}] * len(jobs)


# --- row 22: nonsense -----------------------------------------------------------------------------

UNREADABLE = [
    b"",
    b"\xff\xfe\x00 not UTF-8 \xc3",
    b"[" * 4000,  # deeper than the parser goes
    b'{"data": [1, 2',
    b"null",
    b"[]",
    b'{"type": 7, "data": "text"}',
    json.dumps({"type": "app.growbin.waste.upload-completed.v1", "data": {"job_id": "../../etc"}}).encode(),
    b"x" * 1_000_000,
]


@pytest.mark.long
async def test_nonsense_in_the_queue_is_kept_for_people_and_hurts_nobody(servers: Servers) -> None:
    """Every malformed body becomes a dead letter within 5 s; the jobs around it do not notice."""
    async with Cluster.running(servers, consumers=2) as cluster:
        cluster.ledger.unreadable_letters = len(UNREADABLE)
        cluster.ledger.expected_errors.append("job_event_rejected")
        jobs = []
        for number, body in enumerate(UNREADABLE):
            await cluster.messages.publish(body)
            jobs.append(await cluster.client.submit(f"neighbour-{number}"))
        last_at = time.monotonic()

        async def kept() -> bool:
            return len(await cluster.messages.letters()) == len(UNREADABLE)

        await eventually(kept, "every malformed body is kept")
        assert time.monotonic() - last_at <= PARKED_SECONDS
        ends = await asyncio.gather(*map(cluster.client.follow, jobs))
        assert {end.code for end in ends} == {"done"}
        await cluster.prove()
        assert len(cluster.model.calls) == len(jobs)


@pytest.mark.long
async def test_unusable_event_of_a_known_job_fails_the_job_within_five_seconds(servers: Servers) -> None:
    """An unknown version, missing fields, impossible values: where the job's id can be read, its owner
    hears of it."""
    async with Cluster.running(servers) as cluster:
        cluster.ledger.expected_errors.append("job_event_rejected")
        good = await cluster.client.submit("good")
        assert (await cluster.client.follow(good)).code == "done"
        pattern = await event_of(servers, good)
        spoilers: tuple[Callable[[bytes], bytes], ...] = (
            lambda body: body.replace(b"upload-completed.v1", b"upload-completed.v2"),
            lambda body: spoiled(body, etag=None, deadline_ms=None),
            lambda body: spoiled(body, length=-1),
            lambda body: spoiled(body, key="incoming/../../other"),
            lambda body: spoiled(body, deadline_ms=10**40),
            lambda body: spoiled(body, question="x" * 501),
        )
        jobs = []
        for number, spoil in enumerate(spoilers):
            job = await uploaded(cluster, f"spoiled-{number}")
            job.is_innocent = False
            cluster.client.watch(job)
            body = spoil(pattern.replace(good.job_id.encode(), job.job_id.encode()))
            await cluster.messages.publish(body, message_id=job.job_id)
            jobs.append((job, time.monotonic()))
        for job, published_at in jobs:
            end = await cluster.client.seen(job)
            assert end.code == "failed: bad_event", job.marker
            assert end.at - published_at <= PARKED_SECONDS
        assert {letter.job_id for letter in await cluster.messages.letters()} == {
            job.job_id for job, _ in jobs
        }
        await cluster.prove()


# --- row 30: frozen -------------------------------------------------------------------------------


@pytest.mark.long
async def test_consumer_that_stands_still_for_three_seconds_keeps_its_job(servers: Servers) -> None:
    """Its lease outlives the pause: a second delivery at another consumer starts nothing."""
    async with Cluster.running(servers, consumers=2, LEASE_SECONDS="6", LEASE_RENEW_SECONDS="0.5") as cluster:
        job, hold = await begin(cluster, "paused")
        holder = holder_of(cluster, "paused")
        body = await event_of(servers, job)
        holder.freeze()
        for _ in range(4):
            await cluster.messages.publish(body, message_id=job.job_id)
        await asyncio.sleep(3)
        holder.thaw()
        hold.release()
        assert (await cluster.client.seen(job)).code == "done"
        await cluster.prove()
        assert len(cluster.model.calls_of("paused")) == 1
        assert attempts_of(job) == {1}


@pytest.mark.long
@pytest.mark.parametrize("finishes", ["after the other", "before the other"])
async def test_consumer_frozen_beyond_its_lease_is_fenced(servers: Servers, finishes: str) -> None:
    """Another consumer has begun the job in the meantime: what the first one writes counts no more,
    whether it wakes before or after the other's end. One end, at most two paid calls."""
    async with with_short_lease(servers, consumers=2) as cluster:
        job, first_hold = await begin(cluster, "frozen")
        holder = holder_of(cluster, "frozen")
        second_hold = cluster.model.hold("frozen")
        body = await event_of(servers, job)
        holder.freeze()
        for _ in range(2):
            await cluster.messages.publish(body, message_id=job.job_id)
        await second_hold.reached()
        if finishes == "after the other":
            second_hold.release()
            await cluster.client.seen(job)
        holder.thaw()
        first_hold.release()

        async def has_its_answer() -> bool:
            return cluster.model.open_calls(holder.name) == 0

        await eventually(has_its_answer, "the first consumer has its answer, too")
        await asyncio.sleep(1)  # for what it makes of it
        second_hold.release()
        assert (await cluster.client.seen(job)).code == "done"
        assert attempts_of(job) == {1, 2}
        assert len(cluster.model.calls_of("frozen")) == 2
        await cluster.prove()


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_consumer_frozen_for_long_loses_its_deliveries_too(servers: Servers) -> None:
    """Its heartbeats stay away, so the broker itself gives the job to another consumer."""
    async with Cluster.running(servers, consumers=2) as cluster:
        job, hold = await begin(cluster, "frozen")
        holder = holder_of(cluster, "frozen")
        holder.freeze()
        frozen_at = time.monotonic()
        assert (await cluster.client.seen(job, 90)).code == "done"
        print(f"done by another {time.monotonic() - frozen_at:.1f} s after the freeze")
        holder.thaw()
        hold.release()
        assert attempts_of(job) == {1, 2}
        await cluster.prove()


def holder_of(cluster: Cluster, marker: str) -> Process:
    """The consumer that has called the model for the job last."""
    name = cluster.model.calls_of(marker)[-1].consumer
    return next(consumer for consumer in cluster.consumers if consumer.name == name)
