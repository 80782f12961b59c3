"""One stream for all of a session's jobs: each job's promise holds in it."""

from __future__ import annotations

import asyncio
import base64
import json
import zlib
from uuid import UUID

import pytest

from growbin.gateway.session_watch import LOOK_FOR_NEW_SECONDS, SessionWatch, Vector
from growbin.job import Failure, Job, LogEntry, Stage
from growbin.ports import Started
from tests.unit.conftest import Start
from tests.unit.gateway_node import Client, Node, problem

FAILURE = Failure(code="internal", detail="", retryable=True)


async def finish(node: Node, job: Job) -> None:
    start = await node.progress.begin(job, alone=True, call_id="test")
    assert isinstance(start, Started)
    await node.progress.announce(job, start.attempt, Stage.FETCHING)
    await node.progress.finish(job, start.attempt, FAILURE)


async def taken(watch: SessionWatch, timeout_seconds: float = 0.05) -> list[LogEntry]:
    entries = []
    while (entry := await watch.next(timeout_seconds)) is not None:
        entries.append(entry)
    return entries


def told(entries: list[LogEntry]) -> dict[str, list[str]]:
    by_job: dict[str, list[str]] = {}
    for entry in entries:
        data = json.loads(entry.data)
        by_job.setdefault(data["job_id"], []).append(data["stage"])
    return by_job


STORY = ["awaiting_upload", "queued", "fetching", "failed"]


async def test_two_jobs_are_told_in_one_stream(node: Node, client: Client) -> None:
    """Each job's events come once and in order, whatever the other does."""
    jobs = [await node.submitted(client) for _ in range(2)]
    async with SessionWatch.open(node.hub, node.records, node.progress, jobs[0].owner, None) as watch:
        for job in jobs:
            await finish(node, job)
        assert told(await taken(watch)) == {str(job.job_id): STORY for job in jobs}


async def test_every_cut_point_resumes_exactly_for_every_job(node: Node, client: Client) -> None:
    """Whatever event was the last, a new stream brings what follows it, of each job, and nothing twice."""
    jobs = [await node.submitted(client) for _ in range(3)]
    owner = jobs[0].owner
    async with SessionWatch.open(node.hub, node.records, node.progress, owner, None) as watch:
        for job in jobs:
            await finish(node, job)
        whole = await taken(watch)
    assert len(whole) == 12
    for index, entry in enumerate(whole):
        async with SessionWatch.open(node.hub, node.records, node.progress, owner, entry.id) as watch:
            rest = await taken(watch)
        both = told(whole[: index + 1] + rest)
        assert both == {str(job.job_id): STORY for job in jobs}


async def test_new_job_joins_an_open_stream(node: Node, client: Client) -> None:
    """A job made after the stream began is told from its start."""
    first = await node.submitted(client)
    async with SessionWatch.open(node.hub, node.records, node.progress, first.owner, None) as watch:
        await taken(watch)
        second = await node.submitted(client)
        await finish(node, second)
        assert told(await taken(watch, 1.5))[str(second.job_id)] == STORY


async def test_job_whose_log_was_late_joins_an_open_stream(node: Node, client: Client) -> None:
    """Redis was away between record and log: once the repeated call has written it, the stream tells it."""
    first = await node.submitted(client)
    repeatable = {"Idempotency-Key": "once"}
    async with SessionWatch.open(node.hub, node.records, node.progress, first.owner, None) as watch:
        node.progress.is_away = True
        answer = await client.post("/api/v1/waste/analyze", headers=repeatable)
        await problem(answer, 503, "unavailable")
        node.progress.is_away = False
        await taken(watch, LOOK_FOR_NEW_SECONDS + 0.1)
        answer = await client.post("/api/v1/waste/analyze", headers=repeatable)
        job_id = (await answer.json())["job_id"]
        assert told(await taken(watch, LOOK_FOR_NEW_SECONDS + 0.1)) == {job_id: ["awaiting_upload"]}


async def test_gateway_that_stops_ends_a_stream_without_jobs_at_once(node: Node, client: Client) -> None:
    """The last job has ended and the stream waits for another: it is told to come back elsewhere."""
    job = await node.submitted(client)
    async with SessionWatch.open(node.hub, node.records, node.progress, job.owner, None) as watch:
        await finish(node, job)
        await taken(watch)
        waiting = asyncio.ensure_future(watch.next(60))
        await asyncio.sleep(0)
        await node.hub.drain()
        with pytest.raises(StopAsyncIteration):
            async with asyncio.timeout(LOOK_FOR_NEW_SECONDS / 2):
                await waiting
        assert not watch.has_ended


async def test_job_made_and_ended_while_the_client_was_away_is_told(node: Node, client: Client) -> None:
    """A job that the client never heard of is new to it, even when it has ended since."""
    first = await node.submitted(client)
    async with SessionWatch.open(node.hub, node.records, node.progress, first.owner, None) as watch:
        last = (await taken(watch))[-1]
    second = await node.submitted(client)
    await finish(node, second)
    async with SessionWatch.open(node.hub, node.records, node.progress, first.owner, last.id) as watch:
        assert told(await taken(watch)) == {str(second.job_id): STORY}


async def test_id_that_is_not_ours_resets_every_job(node: Node, client: Client) -> None:
    """A client with a foreign id hears of each job by a reset, of ended ones with their end."""
    ended, running = [await node.submitted(client) for _ in range(2)]
    await finish(node, ended)
    async with SessionWatch.open(node.hub, node.records, node.progress, ended.owner, "garbage") as watch:
        entries = await taken(watch)
    heard = {(json.loads(entry.data)["job_id"], entry.event) for entry in entries}
    assert heard == {
        (str(ended.job_id), "reset"),
        (str(ended.job_id), "failed"),
        (str(running.job_id), "reset"),
    }


async def test_ended_jobs_are_not_told_to_a_newcomer(node: Node, client: Client) -> None:
    """Without an id only unfinished jobs are told; when there is none the answer is 204."""
    job = await node.submitted(client)
    await finish(node, job)
    assert (await client.get("/api/v1/waste/events")).status == 204


async def test_stream_over_http_resumes_with_its_opaque_id(node: Node, client: Client) -> None:
    """The id goes through the header and back, and a stopping gateway ends the stream cleanly."""
    job = await node.submitted(client)
    response = await client.get("/api/v1/waste/events")
    assert response.status == 200
    await asyncio.sleep(0.1)
    await node.hub.drain()
    text = await response.text()
    ids = [line[4:] for line in text.splitlines() if line.startswith("id: ")]
    assert len(ids) == 2
    vector = Vector.decode(ids[0])
    assert vector is not None
    assert vector.newest == job.job_id


async def test_stranger_has_no_session_stream(node: Node, start: Start) -> None:
    """Without a session there is nothing to stream."""
    await problem(await (await node.client()).get("/api/v1/waste/events"), 404, "not_found")


def packed(text: str) -> str:
    return base64.urlsafe_b64encode(zlib.compress(text.encode())).decode()


NEST = packed("[" * 30_000)  # fits into a vector's length, and goes deeper than Python's stack


async def test_nest_of_lists_as_an_id_is_a_newcomers_stream(node: Node, client: Client) -> None:
    """It unpacks to little and nests deep: answered like any id that is not ours."""
    await node.submitted(client)
    response = await client.get("/api/v1/waste/events", headers={"Last-Event-ID": NEST})
    assert response.status == 200
    await node.hub.drain()
    assert "event: reset" in await response.text()


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "x",
        "AAAA",
        "!!!!",
        "e" * 9000,
        NEST,
        packed("NaN"),
        packed('["", []]'),
        packed('["", {"x": "y"}]'),
    ],
)
def test_id_that_is_not_ours_is_no_vector(garbage: str) -> None:
    """Whatever a stranger sends, it is a newcomer's stream."""
    assert Vector.decode(garbage) is None


def test_vector_of_a_hundred_jobs_fits_in_a_header() -> None:
    """The id of the largest stream stays below what servers accept for a header."""
    jobs = {
        UUID(int=0x1234567890ABCDEF << 64 | n * 0x9E3779B97F4A7C15): f"{n:012x}.12.{n:08x}"
        for n in range(100)
    }
    vector = Vector(next(iter(jobs)), jobs)
    assert len(vector.encode()) < 8000
    assert Vector.decode(vector.encode()) == vector
