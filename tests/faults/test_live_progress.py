"""What must not leave a stream silent: words that cannot be read, events that were never announced, a deaf
gateway; and what a session's stream is told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from tests.faults.client import read_events
from tests.faults.cluster import Cluster, Process, Servers
from tests.faults.commands import said_by
from tests.faults.instruments.oracle import LATE_SECONDS, Stream, TrackedJob
from tests.faults.model import REFUSAL
from tests.faults.steps import PATIENCE_SECONDS, begin, eventually, readyz
from tests.faults.surgery import PROGRESS, database, metric

DEADLINE_SECONDS = 12
TOLD_SECONDS = 5.0  # far below the slow look
DEAF_SECONDS = 4.0  # until a gateway notices
NOT_READY_SECONDS = 10.0
STORY = [*["progress"] * 5, "done"]

APPEND_IN_SILENCE = """
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2], 'EX', 600)
"""
ERASE_IN_SILENCE = """
redis.call('DEL', KEYS[1], KEYS[2], KEYS[4], KEYS[5], KEYS[6])
redis.call('SET', KEYS[3], ARGV[1], 'EX', 600)
"""


async def test_words_that_cannot_be_read_leave_no_stream_silent(servers: Servers) -> None:
    """Whatever is published where the gateway listens is counted and skipped, and it hears on."""
    async with Cluster.running(servers) as cluster:
        (gateway,) = cluster.gateways
        cluster.ledger.expected_errors.append("progress_message_unreadable")
        job, hold = await begin(cluster, "odd")
        async with database(cluster, PROGRESS) as progress, session_stream(cluster, job):
            (owner,) = {
                str(channel)[len("session:{") : -len("}:news")]
                for channel in await progress.pubsub_channels("session:*")
            }
            for channel, text in (
                (f"job:{{{job.job_id}}}:events", "v2"),
                (f"job:{{{job.job_id}}}:events", ""),
                (f"session:{{{owner}}}:news", "no id"),
            ):
                assert await progress.publish(channel, text) >= 1
            hold.release()
            assert (await cluster.client.seen(job)).code == "done"
        assert await metric(gateway, "growbin_progress_unreadable_total") == 3
        assert '"progress_feed_lost"' not in gateway.log
        await cluster.prove()


async def test_end_that_was_never_announced_reaches_its_stream_at_the_deadline(servers: Servers) -> None:
    """The log is the truth: the stream's own timer looks, and reads what pub/sub never brought."""
    async with Cluster.running(servers, JOB_DEADLINE_SECONDS=str(DEADLINE_SECONDS)) as cluster:
        job, hold = await begin(cluster, "unannounced")
        job.is_innocent = False
        job.cancel_asked_at = time.monotonic()
        cluster.journal.begin("gateway-1", "untold end")
        last = job.streams[0].events[-1]
        epoch, seq, _ = last.id.split(".")
        data = last.data | {"seq": int(seq) + 1, "stage": "cancelled"}
        entry_id = f"{epoch}.{int(seq) + 1}.0"
        async with database(cluster, PROGRESS) as progress:
            snapshot = json.loads(await progress.get(f"job:{{{job.job_id}}}:progress") or "{}")
            end = {name: snapshot[name] for name in ("run", "owner", "image_url", "deadline_ms")}
            end |= {"id": entry_id, "stage": "cancelled", "data": data}
            keys = [f"job:{{{job.job_id}}}:{name}" for name in ("events", "result")]
            entry = f"{entry_id} cancelled {json.dumps(data)}"
            await progress.eval(APPEND_IN_SILENCE, 2, *keys, entry, json.dumps(end))
        hold.release()
        assert (await cluster.client.seen(job, DEADLINE_SECONDS + LATE_SECONDS)).name == "cancelled"
        await cluster.prove()


async def test_job_erased_without_a_word_ends_its_streams(servers: Servers) -> None:
    """Only the tombstone is left: the stream ends by itself, and whoever comes back hears 404."""
    async with Cluster.running(servers, JOB_DEADLINE_SECONDS=str(DEADLINE_SECONDS)) as cluster:
        job, hold = await begin(cluster, "erased")
        stream = job.streams[0]
        async with database(cluster, PROGRESS) as progress:
            snapshot = json.loads(await progress.get(f"job:{{{job.job_id}}}:progress") or "{}")
            names = ("progress", "events", "result", "lease", "attempts", "answer")
            tombstone = {"id": "0.0.0", "stage": "deleted", "run": 1, "owner": snapshot["owner"]}
            tombstone |= {"image_url": "", "deadline_ms": 0, "data": {"stage": "deleted"}}
            keys = [f"job:{{{job.job_id}}}:{name}" for name in names]
            await progress.eval(ERASE_IN_SILENCE, len(keys), *keys, json.dumps(tombstone))
        hold.release()

        async def is_told() -> bool:
            return any(" 404 " in said for said in stream.connections)

        await eventually(
            is_told, "the stream has ended, and there is no such job", DEADLINE_SECONDS + LATE_SECONDS
        )
        assert stream.end is None


async def test_gateway_that_is_deaf_for_ten_seconds_is_not_ready_and_heals(servers: Servers) -> None:
    """Redis takes writes, and only pub/sub is refused: others serve the streams meanwhile; no restart."""
    async with Cluster.running(servers) as cluster, database(cluster, PROGRESS) as progress:
        (gateway,) = cluster.gateways
        await progress.execute_command("ACL", "SETUSER", "default", "-subscribe")  # type: ignore[no-untyped-call]
        try:
            await progress.client_kill_filter(_type="pubsub")

            async def is_out() -> bool:
                status, shown = await readyz(gateway)
                return status == 503 and shown["redis"]

            seconds = await eventually(is_out, "the deaf gateway is not ready", NOT_READY_SECONDS + 5)
            assert seconds > NOT_READY_SECONDS / 2
            async with aiohttp.ClientSession() as http, http.get(f"{gateway.probe_url}/healthz") as answer:
                assert answer.status == 200
        finally:
            await progress.execute_command("ACL", "SETUSER", "default", "+subscribe")  # type: ignore[no-untyped-call]

        async def is_back() -> bool:
            return (await readyz(gateway))[0] == 200

        await eventually(is_back, "the gateway is ready again")


# --- a session's stream ---------------------------------------------------------------------------


@asynccontextmanager
async def session_stream(
    cluster: Cluster, job: TrackedJob, gateway: int = 0, *, last_id: str | None = None
) -> AsyncIterator[Stream]:
    """All that the job's session hears, while the block runs."""
    stream = Stream("session", resumes_after=last_id)
    headers = {"Authorization": f"Bearer {job.token}"}
    if last_id is not None:
        headers["Last-Event-ID"] = last_id
    url = f"{cluster.gateways[gateway].url}/api/v1/waste/events"
    async with aiohttp.ClientSession(headers=headers) as http, http.get(url) as response:
        assert response.status == 200

        async def listen() -> None:
            async for event in read_events(response, stream):
                stream.events.append(event)

        listening = asyncio.create_task(listen())
        try:
            yield stream
        finally:
            listening.cancel()


def told_of(stream: Stream, job: TrackedJob) -> list[str]:
    return [event.name for event in stream.events if event.data["job_id"] == job.job_id]


async def heard(stream: Stream, job: TrackedJob, event: str, timeout_seconds: float = TOLD_SECONDS) -> None:
    async def is_heard() -> bool:
        return event in told_of(stream, job)

    await eventually(is_heard, f"the session hears of {job.marker}: {event}", timeout_seconds)


async def kept_silent(gateway: Process) -> None:
    """Whatever connection subscribes falls silent, however often the gateway comes anew."""
    while True:
        gateway.links["redis"].silence(b"SUBSCRIBE")
        await asyncio.sleep(0.02)


async def driven_again(cluster: Cluster, job: TrackedJob) -> None:
    job.drive_again()
    status, said = await said_by(cluster, "redrive", "--job", job.job_id)
    assert status == 0, said
    cluster.client.watch(job, "second run", resumes_after=job.streams[0].last_id)


async def test_session_stream_is_told_of_new_jobs_at_once(servers: Servers) -> None:
    """Nobody polls for them."""
    async with Cluster.running(servers, gateways=2) as cluster:
        first, hold = await begin(cluster, "first")
        async with session_stream(cluster, first) as stream:
            second = await cluster.client.submit("second", token=first.token)
            await heard(stream, second, "progress")
            await heard(stream, second, "done", PATIENCE_SECONDS)
            hold.release()
            assert (await cluster.client.seen(first)).code == "done"
        await cluster.prove()


@pytest.mark.timeout(180)
async def test_job_driven_again_appears_on_the_open_session_stream(servers: Servers) -> None:
    """As `reset`, then its new run, though its end was told before."""
    async with Cluster.running(servers) as cluster:
        other, hold = await begin(cluster, "other")
        async with session_stream(cluster, other) as stream:
            job = await failed(cluster, "failing", other.token)
            await driven_again(cluster, job)
            await heard(stream, job, "reset")
            await heard(stream, job, "done", PATIENCE_SECONDS)
            assert told_of(stream, job).count("reset") == 1
            hold.release()
            assert (await cluster.client.seen(other)).code == "done"


@pytest.mark.long
async def test_session_stream_makes_up_for_a_live_side_that_was_silent(servers: Servers) -> None:
    """Nobody could tell it that an ended job is driven again: it asks for what it has missed."""
    async with Cluster.running(servers) as cluster:
        (gateway,) = cluster.gateways
        other, hold = await begin(cluster, "other")
        async with session_stream(cluster, other) as stream:
            job = await failed(cluster, "failing", other.token)
            await heard(stream, job, "failed")
            silence = asyncio.create_task(kept_silent(gateway))
            await driven_again(cluster, job)
            silence.cancel()
            await heard(stream, job, "reset", DEAF_SECONDS + TOLD_SECONDS)
            await heard(stream, job, "done", PATIENCE_SECONDS)
            assert told_of(stream, job).count("reset") == 1
            hold.release()
        await cluster.prove()


@pytest.mark.long
async def test_session_stream_goes_on_at_another_gateway(servers: Servers) -> None:
    """Who comes back with the last id hears the rest of each job, all of one that was made and has ended
    meanwhile, and nothing of a second run that was told to its end."""
    async with Cluster.running(servers, gateways=2) as cluster:
        first, hold = await begin(cluster, "first")
        async with session_stream(cluster, first) as stream:
            again = await failed(cluster, "again", first.token)
            await driven_again(cluster, again)
            await heard(stream, again, "done", PATIENCE_SECONDS)
        new = await cluster.client.submit("new", token=first.token)
        assert (await cluster.client.follow(new)).code == "done"
        async with session_stream(cluster, first, 1, last_id=stream.last_id) as later:
            await heard(later, new, "done")
            hold.release()
            await heard(later, first, "done")
        assert told_of(later, again) == []
        assert told_of(later, new) == STORY
        assert told_of(stream, first) + told_of(later, first) == STORY
        await cluster.prove()


async def failed(cluster: Cluster, marker: str, token: str) -> TrackedJob:
    """A job that the model refuses once."""
    cluster.model.script(marker, REFUSAL)
    job = await cluster.client.submit(marker, token=token)
    job.is_innocent = False
    assert (await cluster.client.follow(job)).name == "failed"
    return job
