"""Notices: people who wait hear once that a part is away, and nobody else is told anything."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import ClientResponse

from growbin.gateway import notices
from growbin.job import Failure, Stage
from growbin.messages import notice
from tests.unit.conftest import Start
from tests.unit.gateway_node import Client, Node
from tests.unit.test_gateway_events import EVENTS, Frame, next_frame, rest, until

JOB = "/api/v1/waste/jobs/{}"
JOBS = "/api/v1/waste/jobs"
SESSION_EVENTS = "/api/v1/waste/events"
FAILURE = Failure(code="internal", detail="", retryable=True)
SOME_LOOKS_SECONDS = 0.2


@pytest.fixture(autouse=True)
def _frequent_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "LOOK_SECONDS", 0.02)


async def read(client: Client, path: str) -> Any:
    answer = await client.get(path)
    assert answer.status == 200
    return await answer.json()


def told(frames: list[Frame]) -> list[str]:
    return [frame.fields.get("event", "retry") for frame in frames]


async def until_noticed(node: Node) -> None:
    """Streams have been told of what is known now."""
    looks = node.outages.looks
    await until(lambda: node.outages.looks > looks + 3)


async def test_open_stream_is_told_once_and_without_an_id(node: Node, client: Client) -> None:
    """Who waits reads why, in their language; the ids of the story stay as they were."""
    job = await node.submitted(client)
    stream = await client.get(EVENTS.format(job.job_id))
    before = [await next_frame(stream) for _ in range(3)]
    await node.outages.tell_away("model", 4)
    frame = await next_frame(stream)
    assert frame
    assert "id" not in frame.fields
    assert frame.fields["event"] == "notice"
    [away] = await node.outages.away(["model"])
    assert frame.data == {
        "job_id": str(job.job_id),
        "part": "model",
        "since": away.since,
        "message": notice("model", "ko"),
    }
    await until_noticed(node)
    await node.progress.finish(job, None, FAILURE)
    assert told(await rest(stream)) == ["failed"]
    last = before[-1]
    assert last
    again = await client.get(EVENTS.format(job.job_id), headers={"Last-Event-ID": last.fields["id"]})
    assert told(await rest(again)) == ["retry", "failed"]


async def test_stream_that_begins_during_an_outage_is_told_as_well(node: Node, client: Client) -> None:
    """Also one that comes back: a connection knows nothing of the one before."""
    english = await node.uploaded(client, locale="en")
    assert (await client.post(f"/upload-complete/{english}")).status == 202
    await node.outages.tell_away("s3", 4)
    for _ in range(2):
        stream = await client.get(EVENTS.format(english))
        frames = [await next_frame(stream) for _ in range(4)]
        assert told([frame for frame in frames if frame]) == ["retry", "progress", "progress", "notice"]
        assert frames[-1]
        assert frames[-1].data["message"].startswith("The part that keeps photos is away")
        stream.close()


async def test_each_part_and_each_outage_is_told_for_itself(
    node: Node, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second part makes a second notice, and so does the first part when it had been back for a while; one
    that comes and goes, or that consumers see come back at different times, does not."""
    job = await node.submitted(client)
    stream = await client.get(EVENTS.format(job.job_id))
    for _ in range(3):
        await next_frame(stream)
    for part in ("model", "s3"):
        await node.outages.tell_away(part, 4)
        frame = await next_frame(stream)
        assert frame
        assert frame.data["part"] == part
    for part in ("s3", "model"):
        await node.outages.tell_back(part)
        await until_noticed(node)
        await node.outages.tell_away(part, 0)
        await until_noticed(node)
    await node.outages.tell_back("model")
    monkeypatch.setattr(notices, "SAME_OUTAGE_SECONDS", 0)
    await until_noticed(node)
    await node.outages.tell_away("model", 1)
    frame = await next_frame(stream)
    assert frame
    assert frame.data["part"] == "model"
    await node.progress.finish(job, None, FAILURE)
    assert told(await rest(stream)) == ["failed"]


async def test_stream_of_a_session_is_told_once_for_all_its_jobs(node: Node, client: Client) -> None:
    """While one of them waits; one that joins later hears it again from nobody."""
    jobs = [await node.submitted(client) for _ in range(3)]
    stream = await client.get(SESSION_EVENTS)
    for _ in range(7):
        await next_frame(stream)
    await node.outages.tell_away("model", 4)
    frame = await next_frame(stream)
    assert frame
    assert "id" not in frame.fields
    assert (frame.fields["event"], frame.data["part"], "job_id" in frame.data) == ("notice", "model", False)
    await until_noticed(node)
    for job in jobs:
        await node.progress.finish(job, None, FAILURE)
    assert told([frame for _ in jobs if (frame := await next_frame(stream))]) == ["failed"] * 3


async def test_stream_of_a_session_without_a_job_under_way_is_told_nothing(
    node: Node, client: Client
) -> None:
    """It waits for nothing; its next job hears what still holds."""
    job = await node.submitted(client)
    stream = await client.get(SESSION_EVENTS)
    for _ in range(3):
        await next_frame(stream)
    await node.progress.finish(job, None, FAILURE)
    assert told([frame for frame in [await next_frame(stream)] if frame]) == ["failed"]
    await node.outages.tell_away("model", 4)
    await until_noticed(node)
    await node.submitted(client)
    frames = [frame for _ in range(3) if (frame := await next_frame(stream))]
    assert sorted(told(frames)) == ["notice", "progress", "progress"]


async def test_read_job_says_which_part_is_away(node: Node, client: Client) -> None:
    """Null when none is, or when the job has ended; in the list as well."""
    job, ended = await node.submitted(client), await node.submitted(client)
    await node.progress.finish(ended, None, FAILURE)
    assert (await read(client, JOB.format(job.job_id)))["notice"] is None
    await node.outages.tell_away("model", 4)
    await node.outages.tell_away("s3", 9)
    await asyncio.sleep(0.05)
    given = (await read(client, JOB.format(job.job_id)))["notice"]
    assert given.keys() == {"part", "message", "since"}
    assert given["part"] == "s3"
    assert (await read(client, JOB.format(ended.job_id)))["notice"] is None
    assert [job["notice"] for job in (await read(client, JOBS))["jobs"]] == [None, given]


async def test_reads_share_a_look(node: Node, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many jobs are read."""
    monkeypatch.setattr(notices, "LOOK_SECONDS", 60)
    job = await node.submitted(client)
    for _ in range(5):
        await read(client, JOB.format(job.job_id))
    assert node.outages.looks == 1


async def test_streams_share_a_look_and_none_is_taken_without_one(start: Start) -> None:
    """What it costs grows with time, not with streams."""
    node = await start()
    client = await node.client()
    await asyncio.sleep(SOME_LOOKS_SECONDS)
    assert node.outages.looks == 0
    streams = [await client.get(EVENTS.format((await node.submitted(client)).job_id)) for _ in range(4)]
    looks = node.outages.looks
    await asyncio.sleep(SOME_LOOKS_SECONDS)
    assert 0 < node.outages.looks - looks <= SOME_LOOKS_SECONDS / notices.LOOK_SECONDS + 1
    for stream in streams:
        stream.close()
    await asyncio.sleep(SOME_LOOKS_SECONDS)
    looks = node.outages.looks
    await asyncio.sleep(SOME_LOOKS_SECONDS)
    assert node.outages.looks == looks


async def test_look_that_finds_no_redis_changes_nothing(node: Node, client: Client) -> None:
    """What was known stands: nobody is told twice when it answers again."""
    job = await node.submitted(client)
    stream = await client.get(EVENTS.format(job.job_id))
    for _ in range(3):
        await next_frame(stream)
    await node.outages.tell_away("model", 4)
    assert told([frame for frame in [await next_frame(stream)] if frame]) == ["notice"]
    node.outages.is_away = True
    await asyncio.sleep(SOME_LOOKS_SECONDS)
    assert (await read(client, JOB.format(job.job_id)))["notice"]
    node.outages.is_away = False
    await until_noticed(node)
    await node.progress.finish(job, None, FAILURE)
    assert told(await rest(stream)) == ["failed"]


# --- a place in line


async def place_told(stream: ClientResponse) -> dict[str, Any]:
    """What the next notice says of it."""
    frame = await next_frame(stream)
    assert frame
    assert frame.fields["event"] == "notice"
    assert "id" not in frame.fields
    assert frame.data["part"] == "queue"
    return frame.data


async def until_looked_at(node: Node) -> None:
    looks = node.queue.looks
    await until(lambda: node.queue.looks > looks + 2)


async def test_place_in_line_is_told_again_as_it_falls(node: Node, client: Client) -> None:
    """By as many as the broker has handed out since: once for each fall, and outside the story."""
    node.queue.crowd, node.queue.handed_out = 30, 1000
    job = await node.submitted(client)
    stream = await client.get(EVENTS.format(job.job_id))
    frames = [await next_frame(stream) for _ in range(3)]
    assert frames[-1]
    assert frames[-1].data["position"] == 31
    node.queue.handed_out = 1010
    assert await place_told(stream) == {
        "job_id": str(job.job_id),
        "part": "queue",
        "message": "21번째 차례예요.",
        "since": frames[-1].data["updated_at"],
        "position": 21,
    }
    await until_looked_at(node)
    node.queue.handed_out = 1029
    assert (await place_told(stream))["position"] == 2
    node.queue.handed_out = 1099
    assert (await place_told(stream))["position"] == 1
    await until_looked_at(node)
    await node.progress.finish(job, None, FAILURE)
    assert told(await rest(stream)) == ["failed"]


async def test_fall_of_less_than_a_tenth_is_not_worth_a_word(node: Node, client: Client) -> None:
    """So that ten thousand who wait are told some eighty times, not ten thousand times."""
    node.queue.crowd, node.queue.handed_out = 49, 0
    job = await node.submitted(client)
    stream = await client.get(EVENTS.format(job.job_id))
    for _ in range(3):
        await next_frame(stream)
    node.queue.handed_out = 4
    await until_looked_at(node)
    node.queue.handed_out = 5
    assert (await place_told(stream))["position"] == 45
    stream.close()


async def test_client_that_comes_back_is_told_its_place_of_now(node: Node, client: Client) -> None:
    """The event tells the place that it had; at any gateway the notice after it tells what it is."""
    node.queue.crowd, node.queue.handed_out = 7, 50
    job = await node.submitted(client)
    node.queue.handed_out = 54
    for _ in range(2):
        stream = await client.get(EVENTS.format(job.job_id))
        frames = [await next_frame(stream) for _ in range(3)]
        assert frames[-1]
        assert frames[-1].data["position"] == 8
        assert (await place_told(stream))["position"] == 4
        stream.close()


async def test_broker_that_counts_anew_lifts_nobody(node: Node, client: Client) -> None:
    """After a restart of its own; nor does one that counts nothing any more."""
    node.queue.crowd, node.queue.handed_out = 7, 50
    job = await node.submitted(client)
    stream = await client.get(EVENTS.format(job.job_id))
    for _ in range(3):
        await next_frame(stream)
    for count in (3, None):
        node.queue.handed_out = count
        await until_looked_at(node)
    await node.progress.finish(job, None, FAILURE)
    assert told(await rest(stream)) == ["failed"]


async def test_stream_of_a_session_tells_each_jobs_place(node: Node, client: Client) -> None:
    """With its job's id."""
    node.queue.crowd, node.queue.handed_out = 7, 50
    jobs = [await node.submitted(client) for _ in range(2)]
    stream = await client.get(SESSION_EVENTS)
    for _ in range(5):
        await next_frame(stream)
    node.queue.handed_out = 53
    told_of = [await place_told(stream) for _ in jobs]
    assert {(place["job_id"], place["position"]) for place in told_of} == {
        (str(jobs[0].job_id), 5),
        (str(jobs[1].job_id), 6),
    }
    stream.close()


async def test_nobody_looks_at_the_line_while_nobody_is_in_it(node: Node, client: Client) -> None:
    """Nor for who is first, or whose turn has come."""
    node.queue.handed_out = 50
    first = await node.submitted(client)
    node.queue.crowd = 7
    begun = await node.submitted(client)
    streams = [await client.get(EVENTS.format(job.job_id)) for job in (first, begun)]
    for stream in streams:
        for _ in range(3):
            await next_frame(stream)
    await node.progress.announce(begun, 1, Stage.FETCHING)
    await next_frame(streams[1])
    looks = node.queue.looks
    await until_noticed(node)
    assert node.queue.looks == looks
    for stream in streams:
        stream.close()
