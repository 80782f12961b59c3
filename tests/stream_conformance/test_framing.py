"""The stream as HTTP and as bytes: headers, blocks, reconnect time, old clients, refusals."""

from __future__ import annotations

import uuid

import pytest

from tests.stream_conformance.connection import Connection
from tests.stream_conformance.visitor import Visitor, visiting
from tests.stream_conformance.wire import Comment, Decoder, Event, Retry


async def test_headers_keep_caches_and_buffers_away(visitor: Visitor) -> None:
    """An event stream that nothing between us may keep, change or hold back."""
    job = await visitor.begin()
    async with visitor.watching(job.id, headers={"Accept-Encoding": "gzip, deflate, br"}) as stream:
        assert stream.status == 200
        content_type = stream.headers["Content-Type"].replace(" ", "").lower()
        assert content_type in ("text/event-stream", "text/event-stream;charset=utf-8")
        policy = {word.strip() for word in stream.headers["Cache-Control"].split(",")}
        assert "no-transform" in policy
        assert policy & {"no-cache", "no-store"}
        assert stream.headers["X-Accel-Buffering"] == "no"
        assert not stream.headers.keys() & {"Content-Encoding", "Content-Length", "ETag", "Set-Cookie"}


async def test_reconnect_time_comes_first_and_differs_between_connections(visitor: Visitor) -> None:
    """2 to 4 seconds, drawn anew each time, so that clients that were cut together do not return together."""
    job_id, _ = await visitor.finished()
    waits = []
    for _ in range(12):
        async with visitor.watching(job_id) as stream:
            first = await stream.item()
            assert isinstance(first, Retry)
            waits.append(first.milliseconds)
    assert all(2000 <= wait <= 4000 for wait in waits), waits
    assert len(set(waits)) >= 6, waits
    assert max(waits) - min(waits) >= 300, waits


async def test_http_1_0_client_gets_the_story_until_the_connection_closes(visitor: Visitor) -> None:
    """No chunks for who does not know them; the end of the connection is the end of the stream."""
    job_id, told = await visitor.finished()
    async with Connection.open(visitor) as connection:
        await connection.ask(job_id, version="1.0")
        head, _, body = (await connection.read_until_closed()).partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0]
    assert b"transfer-encoding" not in head.lower()
    items = Decoder().feed(body)
    assert [item for item in items if isinstance(item, Event)] == told


async def test_terminal_event_is_the_last_thing_said(visitor: Visitor) -> None:
    """After the terminal event the answer ends at once, whole and properly, with nothing behind it."""
    job_id, told = await visitor.finished()
    async with visitor.watching(job_id) as stream:
        while not isinstance(item := await stream.item(), Event) or not item.ends:
            assert item is not None
        assert item == told[-1]
        assert await stream.event() is None


async def test_waiting_stream_begins_before_its_next_event(visitor: Visitor) -> None:
    """Headers, reconnect time and what is known come at once, not with the first piece of news."""
    job = await visitor.begin()
    async with visitor.watching(job.id) as stream:
        event = await stream.event()
        assert event is not None
        assert event.data["stage"] == "awaiting_upload"
    async with visitor.watching(job.id, event.id) as stream:
        item = await stream.item()
        assert isinstance(item, Retry | Comment)


@pytest.mark.parametrize("job_id", ["unknown", "not-an-id", "%00", "..%2f..%2fetc"])
async def test_no_job_no_stream(visitor: Visitor, job_id: str) -> None:
    """What is not a job of this session is refused as a problem, not with an empty stream."""
    path = str(uuid.uuid4()) if job_id == "unknown" else job_id
    answer = await visitor.client.call("GET", f"/api/v1/waste/jobs/{path}/events")
    assert answer.status in (400, 404)
    assert answer.headers["Content-Type"].startswith("application/problem+json")


async def test_job_of_another_session_looks_unknown(visitor: Visitor) -> None:
    """Nobody learns from the stream that a job exists, whatever id they offer."""
    job_id, told = await visitor.finished()
    async with visiting(visitor.base_url) as stranger:
        for last_id in (None, told[1].id, told[-1].id, "nonsense"):
            async with stranger.watching(job_id, last_id) as stream:
                foreign = stream.status
            async with stranger.watching(str(uuid.uuid4()), last_id) as stream:
                assert foreign == stream.status == 404
