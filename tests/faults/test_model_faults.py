"""The model refuses, fails, stalls and hangs up; too much waits; people change their minds (row 19)."""

from __future__ import annotations

import asyncio
import json
import time
from itertools import pairwise

import pytest

from tests.faults.cluster import Cluster, Servers
from tests.faults.inspection import event_of
from tests.faults.instruments.oracle import TrackedJob
from tests.faults.model import (
    ANSWER,
    BAD_KEY,
    DRIP,
    QUOTA_EMPTY,
    RATE_LIMITED,
    RESET,
    SERVER_ERROR,
    SILENCE,
    Reply,
    refused,
)
from tests.faults.steps import assert_refused_politely, begin, delivered, eventually, timed, uploaded
from tests.faults.surgery import PROGRESS, attempts_of, database, waiting_in

CANCELLED_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 400.0
BROKEN_SECONDS = 15.0


def attempts_seen(job: TrackedJob) -> set[int]:
    return {event.data["attempt"] for stream in job.streams for event in stream.events}


def gaps_seconds(cluster: Cluster, marker: str) -> list[float]:
    """Between one call's end and the next one's begin."""
    calls = cluster.model.calls_of(marker)
    return [after.began - (before.ended or 0) for before, after in pairwise(calls)]


async def is_kept(cluster: Cluster, job: TrackedJob) -> bool:
    """Whether the model's answer is stored."""
    async with database(cluster, PROGRESS) as progress:
        return bool(await progress.exists(f"job:{{{job.job_id}}}:answer"))


# --- refused for rate, key or quota ---------------------------------------------------------------


@pytest.mark.long
async def test_rate_limit_slows_down_and_burns_no_attempt(servers: Servers) -> None:
    """Without Retry-After the pauses double; with it, it is kept; the job is done in its first attempt."""
    async with Cluster.running(servers) as cluster:
        cluster.model.script("backoff", RATE_LIMITED, RATE_LIMITED, RATE_LIMITED)
        backoff = await cluster.client.submit("backoff")
        assert (await cluster.client.follow(backoff)).code == "done"
        first, second, third = gaps_seconds(cluster, "backoff")
        assert first >= 1
        assert second >= 2
        assert third >= 4
        cluster.model.script("told", refused(429, "rate_limit_exceeded", retry_after_seconds=3))
        told = await cluster.client.submit("told")
        assert (await cluster.client.follow(told)).code == "done"
        assert gaps_seconds(cluster, "told")[0] >= 3
        for job in (backoff, told):
            assert attempts_seen(job) == {1}
            assert (await attempts_of(cluster, job)).items() >= {"token": 1, "starts": 1, "paid": 1}.items()
        await cluster.prove()


@pytest.mark.long
async def test_absurd_retry_after_does_not_stop_the_consumer_for_good(servers: Servers) -> None:
    """A model that says "in a year" is asked again in minutes; its job expires in time all the same."""
    async with Cluster.running(servers, JOB_DEADLINE_SECONDS="5") as cluster:
        cluster.model.script("year", refused(429, "rate_limit_exceeded", retry_after_seconds=365 * 86_400))
        year = await cluster.client.submit("year")
        assert (await cluster.client.follow(year)).code == "expired"
        said = next(line for line in cluster.consumers[0].log.splitlines() if '"model_throttled"' in line)
        assert json.loads(said)["pause_seconds"] < LONGEST_PAUSE_SECONDS
        await cluster.prove()


@pytest.mark.long
@pytest.mark.parametrize("refusal", [QUOTA_EMPTY, BAD_KEY], ids=["quota", "key"])
async def test_empty_quota_and_bad_key_stop_the_queue_and_not_the_obituaries(
    servers: Servers, refusal: Reply
) -> None:
    """Nothing is consumed and nothing fails while only a person can help; then everything is done."""
    async with Cluster.running(servers) as cluster:
        cluster.model.default = refusal
        jobs = [await cluster.client.submit("prober")]
        cluster.client.watch(jobs[0])

        async def is_broken() -> bool:
            assert not [job.end.code for job in jobs if job.end]
            return '"now": 0' in cluster.consumers[0].log

        await eventually(is_broken, "the main queue is not consumed", BROKEN_SECONDS)
        for number in range(5):
            jobs.append(await cluster.client.submit(f"waiting-{number}"))
            cluster.client.watch(jobs[-1])
        dead = await cluster.client.submit("dead")
        dead.is_innocent = False
        body = await event_of(cluster.servers, dead)
        await cluster.messages.publish(body, queue=f"{cluster.queue_name}.obituaries")
        assert (await cluster.client.follow(dead)).code == "failed: dead_lettered"

        async def is_left_alone() -> bool:  # but for the prober, and perhaps one more
            return int((await waiting_in(cluster)).get("messages_ready") or 0) >= len(jobs) - 1

        await eventually(is_left_alone, "jobs wait in the queue")
        assert not any(job.end for job in jobs)
        assert len(cluster.model.calls) < 10  # one at a time, ever more rarely

        cluster.model.default = ANSWER
        ends = await asyncio.gather(*map(cluster.client.seen, jobs))
        assert {end.code for end in ends} == {"done"}
        assert all(attempts_seen(job) == {1} for job in jobs)
        assert [cluster.model.paid(job.marker) for job in jobs] == [1] * len(jobs)
        assert not cluster.model.calls_of("dead")
        await cluster.prove()


# --- failing ------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    "failing", [SERVER_ERROR, SILENCE, DRIP, RESET], ids=["500", "silence", "drip", "reset"]
)
async def test_failed_call_is_made_again_in_the_next_attempt(servers: Servers, failing: Reply) -> None:
    """After an error, a stall, a drip or a hang-up there is one more call, a delay later."""
    async with Cluster.running(servers, MODEL_TIMEOUT_SECONDS="2", JOB_DEADLINE_SECONDS="20") as cluster:
        cluster.model.script("failing", failing)
        job = await cluster.client.submit("failing")
        assert (await cluster.client.follow(job)).code == "done"
        assert attempts_seen(job) == {1, 2}
        assert [call.paid for call in cluster.model.calls_of("failing")] == [False, True]
        assert gaps_seconds(cluster, "failing")[0] >= 1
        assert (await attempts_of(cluster, job))["paid"] == 2  # the failed one may have been, who knows
        await cluster.prove()


@pytest.mark.long
async def test_model_that_stays_away_ends_the_job_after_its_paid_calls(servers: Servers) -> None:
    """When the calls that may be paid are used up the job fails, and says that it may be tried again."""
    async with Cluster.running(servers, MAX_PAID_CALLS="2") as cluster:
        cluster.model.script("hopeless", *[SERVER_ERROR] * 2)  # a third call would be answered
        job = await cluster.client.submit("hopeless")
        end = await cluster.client.follow(job)
        assert end.code == "failed: temporarily_unavailable"
        assert end.data["failure"]["retryable"]
        assert len(cluster.model.calls_of("hopeless")) == 2
        await cluster.prove()


@pytest.mark.long
async def test_kept_answer_is_used_by_whoever_starts_next(servers: Servers) -> None:
    """Its consumer dies with the answer stored and the end unwritten: the next attempt calls nobody."""
    async with Cluster.running(servers) as cluster:
        (consumer,) = cluster.consumers
        job, hold = await begin(cluster, "kept")
        await consumer.links["redis"].slow(0.4)
        hold.release()

        await eventually(lambda: is_kept(cluster, job), "the answer is stored")
        await consumer.kill()
        assert job.end is None
        await consumer.links["redis"].passing()
        await consumer.start()
        assert (await cluster.client.seen(job)).code == "done"
        assert attempts_seen(job) == {1, 2}
        assert len(cluster.model.calls_of("kept")) == 1
        await cluster.prove()


# --- too much waits -----------------------------------------------------------------------------


@pytest.mark.long
async def test_full_backlog_refuses_uploads_and_keeps_them(servers: Servers) -> None:
    """503 with Retry-After at upload-complete only; the photo stays, and is taken when there is room."""
    async with Cluster.running(servers, BACKLOG_LIMIT="3") as cluster:
        (consumer,) = cluster.consumers
        await consumer.stop()
        waiting = [await cluster.client.submit(f"waiting-{number}") for number in range(3)]

        async def is_full() -> bool:
            return bool((await waiting_in(cluster)).get("messages_ready") == 3)

        await eventually(is_full, "three jobs wait")
        kept = await uploaded(cluster, "kept")
        await asyncio.sleep(1.1)  # what the gateway knows of the backlog may be a second old
        answer, seconds = await timed(cluster.client.complete(kept))
        assert_refused_politely(answer, seconds)
        assert answer.body["code"] == "backlog_full"
        assert (await cluster.client.complete(waiting[0])).status == 202  # a repeat asks for no room
        await consumer.start()

        async def is_taken() -> bool:
            return (await cluster.client.complete(kept)).status == 202

        await eventually(is_taken, "there is room again")
        ends = await asyncio.gather(*map(cluster.client.follow, [*waiting, kept]))
        assert {end.code for end in ends} == {"done"}
        await cluster.prove()


# --- cancel -------------------------------------------------------------------------------------


@pytest.mark.long
async def test_cancel_of_a_queued_job_ends_it_at_once_and_uncalled(servers: Servers) -> None:
    """Its delivery comes later and finds an ended job."""
    async with Cluster.running(servers, CONSUMER_CONCURRENCY="1") as cluster:
        running, hold = await begin(cluster, "running")
        queued = await cluster.client.submit("queued")
        cluster.client.watch(queued)
        asked = time.monotonic()
        assert (await cluster.client.cancel(queued)).status == 202
        end = await cluster.client.seen(queued)
        assert end.code == "cancelled"
        assert end.at - asked < CANCELLED_SECONDS
        hold.release()
        assert (await cluster.client.seen(running)).code == "done"
        assert not cluster.model.calls_of("queued")
        await cluster.prove()


@pytest.mark.long
async def test_cancel_before_the_answer_wins(servers: Servers) -> None:
    """The answer comes before its consumer has heard of the cancel: it is kept, and ends nothing."""
    async with Cluster.running(servers, LEASE_SECONDS="40", LEASE_RENEW_SECONDS="20") as cluster:
        job, hold = await begin(cluster, "late")
        assert (await cluster.client.cancel(job)).status == 202
        hold.release()

        await eventually(lambda: is_kept(cluster, job), "the answer is stored")
        assert (await cluster.client.seen(job)).code == "cancelled"
        assert await cluster.client.ask_again(job) == 204
        await cluster.prove()


@pytest.mark.long
async def test_cancel_hangs_up_a_running_call_on_any_consumer(servers: Servers) -> None:
    """Asked at whichever gateway, with the lease renewed as by default, the model sees its caller leave
    within 2 s; what the call may have cost stays recorded."""
    async with Cluster.running(servers, gateways=2, consumers=2) as cluster:
        begun = await asyncio.gather(*(begin(cluster, f"job-{number}") for number in range(4)))
        assert {call.consumer for call in cluster.model.calls} == {"consumer-1", "consumer-2"}
        for job, _ in begun:
            asked = time.monotonic()
            assert (await cluster.client.cancel(job)).status == 202

            async def is_hung_up(marker: str = job.marker) -> bool:
                return cluster.model.calls_of(marker)[0].ended is not None

            await eventually(is_hung_up, "the call is hung up", 5 * CANCELLED_SECONDS)
            ended = cluster.model.calls_of(job.marker)[0].ended
            assert ended is not None
            assert ended - asked < CANCELLED_SECONDS
            assert (await cluster.client.seen(job)).code == "cancelled"
            assert (await attempts_of(cluster, job))["paid"] == 1
            assert len(cluster.model.calls_of(job.marker)) == 1
        await delivered(cluster, 0)
        await cluster.prove()
