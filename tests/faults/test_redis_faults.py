"""Redis killed, frozen, away and emptied (rows 9 to 12)."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from pathlib import Path

import aiohttp
import pytest

from tests.faults.cluster import Cluster, Servers
from tests.faults.inspection import event_of
from tests.faults.instruments.harms import fill
from tests.faults.instruments.oracle import LATE_SECONDS, Stream, TrackedJob
from tests.faults.steps import (
    assert_refused_politely,
    begin,
    delivered,
    eventually,
    readiness,
    timed,
    uploaded,
)
from tests.faults.surgery import PROGRESS, RECORDS, SESSIONS, begin_several, database, flush, waiting_in

CORRECT_AGAIN_SECONDS = 3.0 + 2.0  # what is promised, and what a busy machine may add
NOTICED_SECONDS = 10.0
COUNTED_SECONDS = 15.0
PHOTO_SECONDS, FULL_SECONDS = 1.5, 4.0
FROZEN_SECONDS = float(os.environ.get("FROZEN_SECONDS", "13"))
AWAY_SECONDS = float(os.environ.get("REDIS_AWAY_SECONDS", "10"))


async def status_of(url: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        return answer.status


def events_of(job: TrackedJob) -> list[str]:
    return [event.name for stream in job.streams for event in stream.events]


# --- row 9 --------------------------------------------------------------------------------------


async def test_redis_killed_under_open_streams_is_made_up_for_within_three_seconds(servers: Servers) -> None:
    """Answers that came while Redis was dead, and those that come after, reach every stream once."""
    async with Cluster.running(servers, gateways=2) as cluster:
        jobs, holds = await begin_several(cluster, 6)
        await cluster.redis.kill()
        for hold in holds[:3]:  # these answers come while there is nowhere to put them
            hold.release()
        await asyncio.sleep(1)
        await cluster.redis.start()
        back = time.monotonic()
        for hold in holds[3:]:
            hold.release()
        ends = await asyncio.gather(*map(cluster.client.seen, jobs))
        assert {end.name for end in ends} == {"done"}
        assert max(end.at for end in ends) - back < CORRECT_AGAIN_SECONDS
        assert [len(cluster.model.calls_of(job.marker)) for job in jobs] == [1] * len(jobs)
        await cluster.prove()


# --- row 10 -------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(120 + 2 * FROZEN_SECONDS)
async def test_frozen_redis_costs_two_seconds_a_call_and_nothing_else(servers: Servers) -> None:
    """What needs Redis answers 503 within 2 s, the rest works; streams notice, and are right afterwards."""
    async with Cluster.running(servers) as cluster:
        (gateway,) = cluster.gateways
        jobs, holds = await begin_several(cluster, 3)
        waiting = await uploaded(cluster, "waiting")

        cluster.redis.freeze()
        frozen_at = time.monotonic()
        holds[0].release()
        await assert_refused_in_time(cluster, waiting)
        for path in ("/", "/docs", "/openapi.json"):
            assert await status_of(gateway.url + path) == 200, path
        assert await status_of(f"{gateway.probe_url}/healthz") == 200
        assert await status_of(f"{gateway.probe_url}/readyz") == 503

        async def noticed() -> bool:
            return not (await readiness(gateway))["live_progress"]

        await eventually(noticed, "the gateway knows that no live progress arrives")
        assert time.monotonic() - frozen_at < NOTICED_SECONDS
        await asyncio.sleep(frozen_at + FROZEN_SECONDS - time.monotonic())
        cluster.redis.thaw()
        back = time.monotonic()
        holds[1].release()
        ends = await asyncio.gather(*map(cluster.client.seen, jobs[:2]))
        assert {end.name for end in ends} == {"done"}
        assert max(end.at for end in ends) - back < CORRECT_AGAIN_SECONDS
        holds[2].release()
        assert (await cluster.client.complete(waiting)).status == 202
        assert [len(cluster.model.calls_of(job.marker)) for job in jobs] == [1, 1, 1]
        await cluster.prove()


async def assert_refused_in_time(cluster: Cluster, job: TrackedJob) -> None:
    path = f"/api/v1/waste/jobs/{job.job_id}"
    calls = {
        "session": ("POST", "/api/v1/sessions", ""),
        "analyze": ("POST", "/api/v1/waste/analyze", job.token),
        "upload-complete": ("POST", f"/upload-complete/{job.job_id}", job.token),
        "job": ("GET", path, job.token),
        "jobs": ("GET", "/api/v1/waste/jobs", job.token),
        "events": ("GET", f"{path}/events", job.token),
        "session's events": ("GET", "/api/v1/waste/events", job.token),
        "cancel": ("POST", f"{path}/cancel", job.token),
        "delete": ("DELETE", path, job.token),
    }
    answers = await asyncio.gather(*(timed(cluster.client.call(*call)) for call in calls.values()))
    for name, (answer, seconds) in zip(calls, answers, strict=True):
        print(f"{name}: {answer.status} after {seconds:.2f} s")
        assert_refused_politely(answer, seconds)


async def test_silent_connection_is_left_for_another(servers: Servers) -> None:
    """All calls of a role share it, so all would time out for a quarter of an hour: the first cost their two
    seconds, and then everything works again, though the old connection never says a word."""
    async with Cluster.running(servers) as cluster:
        (gateway,), (consumer,) = cluster.gateways, cluster.consumers
        job, hold = await begin(cluster, "watched")
        for process in (gateway, consumer):
            process.links["redis"].silence(b"")
        path = f"/api/v1/waste/jobs/{job.job_id}"
        answer, seconds = await timed(cluster.client.call("GET", path, job.token))
        assert_refused_politely(answer, seconds)

        async def answers() -> bool:
            return (await cluster.client.call("GET", path, job.token)).status == 200

        await eventually(answers, "the gateway answers", 3 * CORRECT_AGAIN_SECONDS)
        hold.release()
        assert (await cluster.client.seen(job)).code == "done"
        assert len(cluster.model.calls_of("watched")) == 1
        await cluster.prove()


@pytest.mark.long
async def test_silent_live_link_is_noticed_and_made_up_for(servers: Servers) -> None:
    """One gateway hears nothing, and nobody tells it: it notices by itself, and reads what it has missed."""
    async with Cluster.running(servers) as cluster:
        (gateway,) = cluster.gateways
        jobs, holds = await begin_several(cluster, 2)
        await gateway.links["redis"].half_open()
        silent_since = time.monotonic()
        for hold in holds:
            hold.release()

        async def noticed() -> bool:
            return not (await readiness(gateway))["live_progress"]

        await eventually(noticed, "the gateway knows that no live progress arrives", 2 * NOTICED_SECONDS)
        assert time.monotonic() - silent_since < NOTICED_SECONDS
        await gateway.links["redis"].passing()
        back = time.monotonic()
        ends = await asyncio.gather(*(cluster.client.seen(job, 5 * CORRECT_AGAIN_SECONDS) for job in jobs))
        assert {end.name for end in ends} == {"done"}
        assert max(end.at for end in ends) - back < CORRECT_AGAIN_SECONDS
        await cluster.prove()


# --- row 11 -------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(120 + AWAY_SECONDS)
async def test_answers_wait_in_memory_while_redis_is_away(servers: Servers) -> None:
    """No delivery is acknowledged before its end is stored, no call is made twice, none without a claim."""
    async with Cluster.running(servers, gateways=2) as cluster:
        jobs, holds = await begin_several(cluster, 4)
        await delivered(cluster, len(jobs), COUNTED_SECONDS)
        unclaimed = await begin_fetching(cluster)
        for link in cluster.links("redis"):
            await link.down()
        away_since = time.monotonic()
        for hold in holds:
            hold.release()
        for link in cluster.photo_links:
            await link.passing()  # the fetch of `unclaimed` goes on
        await delivered(cluster, len(jobs) + 1)
        while time.monotonic() < away_since + AWAY_SECONDS:
            assert (await waiting_in(cluster))["messages_unacknowledged"] == len(jobs) + 1
            assert not cluster.model.calls_of("unclaimed")
            await asyncio.sleep(0.5)
        for link in cluster.links("redis"):
            await link.passing()
        back = time.monotonic()
        ends = await asyncio.gather(*map(cluster.client.seen, jobs))
        assert {end.name for end in ends} == {"done"}
        assert max(end.at for end in ends) - back < CORRECT_AGAIN_SECONDS
        assert (await cluster.client.seen(unclaimed)).name == "done"
        assert [len(cluster.model.calls_of(job.marker)) for job in [*jobs, unclaimed]] == [1] * 5
        await cluster.prove()


async def begin_fetching(cluster: Cluster) -> TrackedJob:
    """A watched job that waits for a photo of which nobody says anything."""
    for link in cluster.photo_links:
        await link.half_open()
    job = await cluster.client.submit("unclaimed")
    stream = cluster.client.watch(job)

    async def is_fetching() -> bool:
        return bool(stream.events) and stream.events[-1].data["stage"] == "fetching"

    await eventually(is_fetching, "the job is fetching its photo")
    return job


@pytest.mark.long
async def test_lapsed_lease_fences_its_old_holder(servers: Servers) -> None:
    """A second consumer has begun the job: what the first still has to say is not written down, and its
    answer is not asked for again."""
    async with Cluster.running(servers, consumers=2, LEASE_SECONDS="40", LEASE_RENEW_SECONDS="20") as cluster:
        job, old_hold = await begin(cluster, "fenced")
        holder = cluster.model.calls[0].consumer
        new_hold = cluster.model.hold("fenced")
        async with database(cluster, PROGRESS) as progress:
            await progress.delete(f"job:{{{job.job_id}}}:lease")
        cluster.journal.note(holder, "lease lapsed")
        body = await event_of(servers, job)
        for _ in range(2):  # one to each consumer
            await cluster.messages.publish(body, message_id=job.job_id)
        await new_hold.reached()
        old_hold.release()

        async def has_answered() -> bool:
            return cluster.model.paid("fenced") == 1

        await eventually(has_answered, "the old holder has its answer")
        await asyncio.sleep(1)
        assert [event.data["attempt"] for event in job.streams[0].events[-2:]] == [2, 2]
        assert job.end is None
        new_hold.release()
        assert (await cluster.client.seen(job)).data["attempt"] == 2
        await cluster.prove()


# --- row 12 -------------------------------------------------------------------------------------


async def test_full_redis_takes_nothing_from_any_log(servers: Servers) -> None:
    """A stage that cannot be written waits, and what was written stays: who comes afterwards is told all."""
    async with Cluster.running(servers) as cluster:
        for link in cluster.photo_links:
            await link.slow(PHOTO_SECONDS)
        job = await cluster.client.submit("full")
        stream = cluster.client.watch(job)

        async def is_fetching() -> bool:
            return any(event.data["stage"] == "fetching" for event in stream.events)

        await eventually(is_fetching, "its photo is on the way")
        await fill(cluster, "valkey", FULL_SECONDS)
        for link in cluster.photo_links:
            await link.passing()
        cluster.client.watch(job, "from the beginning")
        assert (await cluster.client.seen(job)).code == "done"
        assert len({tuple(event.id for event in stream.events) for stream in job.streams}) == 1
        assert len(cluster.model.calls_of("full")) == 1
        await cluster.prove()


@pytest.mark.long
async def test_progress_and_records_lost_are_written_anew_by_who_holds_the_job(servers: Servers) -> None:
    """Their server emptied: running and queued jobs end done after one call; streams see reset, then all."""
    async with Cluster.running(servers, gateways=2, consumers=1, CONSUMER_CONCURRENCY="2") as cluster:
        jobs, holds = await begin_several(cluster, 2)
        queued = await cluster.client.submit("queued")  # there is no place for it yet
        cluster.client.watch(queued)
        await asyncio.sleep(1)
        await flush(cluster, RECORDS, PROGRESS)
        await asyncio.sleep(3)  # renewals find nothing of what they renew
        for hold in holds:
            hold.release()
        ends = await asyncio.gather(*map(cluster.client.seen, [*jobs, queued]))
        assert {end.name for end in ends} == {"done"}
        assert not [job.marker for job in [*jobs, queued] if "reset" not in events_of(job)]
        assert [len(cluster.model.calls_of(job.marker)) for job in [*jobs, queued]] == [1, 1, 1]
        for job in jobs:
            await assert_not_continued_wrongly(cluster, job)
        await cluster.prove()


@pytest.mark.long
async def test_redis_that_comes_back_with_older_data_resets_its_streams(
    servers: Servers, tmp_path: Path
) -> None:
    """It numbers its events anew from where the backup ends, and none is taken for what a client saw."""
    async with Cluster.running(servers, gateways=2) as cluster:
        job = await uploaded(cluster, "restored")
        data, backup = cluster.servers.valkey.folder / "appendonlydir", tmp_path / "backup"
        await asyncio.to_thread(shutil.copytree, data, backup)
        hold = cluster.model.hold("restored")
        assert (await cluster.client.complete(job)).status == 202
        cluster.client.watch(job)
        await hold.reached()

        await cluster.redis.kill()
        await asyncio.to_thread(shutil.rmtree, data)
        await asyncio.to_thread(shutil.copytree, backup, data)
        cluster.ledger.destroy_history()
        await cluster.redis.start()
        hold.release()
        assert (await cluster.client.seen(job)).name == "done"
        assert events_of(job).count("reset") == 1
        assert len(cluster.model.calls_of("restored")) == 1
        await assert_not_continued_wrongly(cluster, job)
        await cluster.prove()


async def assert_not_continued_wrongly(cluster: Cluster, job: TrackedJob) -> None:
    """The second event of the lost history has a namesake in the new one, and is not taken for it."""
    away = Stream("came back late", events=[job.streams[0].events[1]])
    await cluster.client._connect_once(job, away)
    assert [event.name for event in away.events[1:]] == ["reset", "done"]


ENDED_JOBS_DEADLINE_SECONDS = 12


async def ended_job(cluster: Cluster) -> tuple[TrackedJob, bytes]:
    """A job that is done, and the message that started it."""
    job = await cluster.client.submit("ended")
    assert (await cluster.client.follow(job)).code == "done"
    return job, await event_of(cluster.servers, job)


async def follow_again(cluster: Cluster, job: TrackedJob) -> list[str]:
    """The job's client comes back with an id of the lost history, and follows to the end; what it hears."""
    again = Stream("came back", events=[job.streams[0].events[1]])
    async with asyncio.timeout(ENDED_JOBS_DEADLINE_SECONDS + LATE_SECONDS):
        await cluster.client._follow(job, again)
    del again.events[0]
    job.streams[:] = [again]  # its promises hold anew for what is left of the job
    return [event.name for event in again.events]


@pytest.mark.long
async def test_progress_lost_after_the_end_gives_reset_and_an_end_in_time(servers: Servers) -> None:
    """Only the record still knows the job: it waits again, unpaid, and expires at its old deadline; its
    message, delivered once more, begins nothing."""
    deadline = str(ENDED_JOBS_DEADLINE_SECONDS)
    async with Cluster.running(servers, JOB_DEADLINE_SECONDS=deadline) as cluster:
        job, body = await ended_job(cluster)
        await flush(cluster, PROGRESS)
        answer = await cluster.client.complete(job)
        assert (answer.status, answer.body["stage"]) == (202, "queued")
        assert (await cluster.client.read(job))["stage"] == "queued"
        assert await follow_again(cluster, job) == ["reset", "expired"]
        await cluster.messages.publish(body, message_id=job.job_id)
        await cluster.prove()
        assert len(cluster.model.calls_of("ended")) == 1


@pytest.mark.long
async def test_progress_lost_after_the_end_is_made_anew_by_a_repeated_delivery(servers: Servers) -> None:
    """Within its deadline, and with its answer lost as well, it is done once more, after another call."""
    async with Cluster.running(servers) as cluster:
        job, body = await ended_job(cluster)
        await flush(cluster, PROGRESS)
        await cluster.messages.publish(body, message_id=job.job_id)
        heard = await follow_again(cluster, job)
        assert (heard[0], heard[-1]) == ("reset", "done")
        assert (await cluster.client.complete(job)).body["stage"] == "done"
        assert len(cluster.model.calls_of("ended")) == 2
        wrong = await cluster.violations()
        assert [line for line in wrong if "was paid 2 times" not in line] == []


@pytest.mark.long
async def test_end_lost_with_its_answer_kept_is_written_anew_unpaid(servers: Servers) -> None:
    """Redis lost its last moments, but not the answer: the message delivered again leads to the same
    advice without a call."""
    async with Cluster.running(servers) as cluster:
        job, body = await ended_job(cluster)
        cluster.ledger.destroy_history()
        async with database(cluster, PROGRESS) as progress:
            await progress.delete(
                *(f"job:{{{job.job_id}}}:{name}" for name in ("progress", "events", "result"))
            )
        before = job.streams[0].events[-1].data["result"]["items"]
        await cluster.messages.publish(body, message_id=job.job_id)
        heard = await follow_again(cluster, job)
        assert (heard[0], heard[-1]) == ("reset", "done")
        assert job.streams[0].events[-1].data["result"]["items"] == before
        assert len(cluster.model.calls_of("ended")) == 1
        await cluster.prove()


@pytest.mark.long
async def test_everything_lost_after_the_end_is_told_and_a_repeated_delivery_ends(servers: Servers) -> None:
    """Whoever asks for an ended job of which nothing is left, not even its session, hears 401; its message,
    delivered again, ends and is not repeated."""
    async with Cluster.running(servers) as cluster:
        job, body = await ended_job(cluster)
        await flush(cluster, RECORDS, PROGRESS, SESSIONS)
        path = f"/api/v1/waste/jobs/{job.job_id}"
        assert (await cluster.client.complete(job)).status == 401
        for call in (path, f"{path}/events", "/api/v1/waste/events"):
            assert (await cluster.client.call("GET", call, job.token)).status == 401, call
        await cluster.messages.publish(body, message_id=job.job_id)

        async def has_ended() -> bool:
            async with database(cluster, PROGRESS) as progress:
                result = await progress.get(f"job:{{{job.job_id}}}:result")
            return result is not None and json.loads(result)["stage"] == "done"

        await eventually(has_ended, "the repeated delivery has ended")
        assert len(cluster.model.calls_of("ended")) == 2
        wrong = await cluster.violations()
        expected = ("401 session_unknown", "was paid 2 times")
        assert [line for line in wrong if not any(words in line for words in expected)] == []


@pytest.mark.long
async def test_everything_lost_ends_every_stream_and_calls_the_model_no_more(servers: Servers) -> None:
    """With the sessions gone as well, open streams still end; whoever asks anew hears 401."""
    async with Cluster.running(servers, UPLOAD_WAIT_SECONDS="8", JOB_DEADLINE_SECONDS="30") as cluster:
        jobs, holds = await begin_several(cluster, 2)
        unused = cluster.ledger.track("unused", jobs[0].token)
        await cluster.client.ticket(unused)
        stream = cluster.client.watch(unused)

        async def is_open() -> bool:
            return bool(stream.events)

        await eventually(is_open, "the stream of the unused ticket is open")
        await flush(cluster, RECORDS, PROGRESS, SESSIONS)
        for hold in holds:
            hold.release()
        ends = await asyncio.gather(*map(cluster.client.seen, jobs))
        assert {end.name for end in ends} == {"done"}
        assert all("reset" in events_of(job) for job in jobs)
        assert (await cluster.client.complete(unused)).status == 401

        async def is_told() -> bool:
            return any(" 401 " in said for said in stream.connections)

        await eventually(is_told, "the unused ticket's stream ended, and then there was no such session")
        assert [len(cluster.model.calls_of(job.marker)) for job in jobs] == [1, 1]
        # Ownership went with the sessions: that the owner cannot read the end is all that may be wrong.
        wrong = await cluster.violations()
        assert not [line for line in wrong if "401 session_unknown" not in line], wrong
