"""The progress stream over HTTP: frames, heartbeats, limits, and every way it can end."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import pytest
from aiohttp import ClientResponse
from prometheus_client import REGISTRY

from growbin.job import Failure, LogEntry, Stage
from tests.unit.conftest import Start
from tests.unit.gateway_node import Client, Node, problem

EVENTS = "/api/v1/waste/jobs/{}/events"
FAILURE = Failure(code="photo_missing", detail="Send it again.", retryable=True)


@dataclass
class Frame:
    """One block of the stream: its fields by name; a comment is under the empty name."""

    fields: dict[str, str]

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.fields["data"])
        return data


async def next_frame(response: ClientResponse) -> Frame | None:
    block = await asyncio.wait_for(response.content.readuntil(b"\n\n"), 30)
    if not block:
        return None
    lines = (line.partition(":") for line in block.decode().strip("\n").split("\n"))
    return Frame({name: value.removeprefix(" ") for name, _, value in lines})


async def rest(response: ClientResponse) -> list[Frame]:
    frames = []
    while frame := await next_frame(response):
        frames.append(frame)
    return frames


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def open_streams() -> float:
    return REGISTRY.get_sample_value("growbin_open_streams") or 0


def closed(end: str) -> float:
    return REGISTRY.get_sample_value("growbin_streams_closed_total", {"end": end}) or 0


async def test_stream_tells_the_whole_story_and_closes(node: Node, client: Client) -> None:
    """History first, then live, each event once, in order, ending after the terminal one."""
    job = await node.submitted(client)
    response = await client.get(EVENTS.format(job.job_id))
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-cache, no-transform"
    assert response.headers["X-Accel-Buffering"] == "no"
    retry = await next_frame(response)
    assert retry
    assert 2000 <= int(retry.fields["retry"]) <= 4000
    await node.progress.begin(job, alone=False, call_id="test")
    for stage in (Stage.FETCHING, Stage.ANALYSING, Stage.ADVISING):
        await node.progress.announce(job, 1, stage)
    await node.progress.finish(job, 1, FAILURE)
    frames = await rest(response)
    stages = [frame.data["stage"] for frame in frames]
    assert stages == ["awaiting_upload", "queued", "fetching", "analysing", "advising", "failed"]
    assert [frame.data["seq"] for frame in frames] == [1, 2, 3, 4, 5, 6]
    assert [frame.fields["event"] for frame in frames] == ["progress"] * 5 + ["failed"]
    assert frames[-1].data["failure"] == FAILURE.model_dump()


async def test_stream_resumes_after_the_last_id_at_another_gateway(
    start: Start, node: Node, client: Client
) -> None:
    """By header or by query, exactly the rest; after the terminal event 204; without history a reset."""
    job = await node.submitted(client)
    await node.progress.finish(job, None, FAILURE)
    whole = (await rest(await client.get(EVENTS.format(job.job_id))))[1:]
    other = await (await start(beside=node)).client()
    bearer = {"Authorization": "Bearer " + next(cookie.value for cookie in client.session.cookie_jar)}

    by_header = await other.get(
        EVENTS.format(job.job_id), headers={**bearer, "Last-Event-ID": whole[0].fields["id"]}
    )
    assert (await rest(by_header))[1:] == whole[1:]
    by_query = await client.get(EVENTS.format(job.job_id) + f"?last_event_id={whole[1].fields['id']}")
    assert (await rest(by_query))[1:] == whole[2:]
    seen = await client.get(EVENTS.format(job.job_id), headers={"Last-Event-ID": whole[-1].fields["id"]})
    assert (seen.status, await seen.read()) == (204, b"")
    strange = await client.get(EVENTS.format(job.job_id), headers={"Last-Event-ID": "\u00fcn\u00efque"})
    assert [frame.fields["event"] for frame in (await rest(strange))[1:]] == ["reset", "failed"]


async def test_silence_is_filled_with_heartbeats(start: Start) -> None:
    """A comment at every interval keeps proxies patient and shows no event."""
    node = await start(stream_heartbeat_seconds=0.02)
    client = await node.client()
    job = await node.submitted(client)
    response = await client.get(EVENTS.format(job.job_id))
    frames = [await next_frame(response) for _ in range(6)]
    assert [frame.fields for frame in frames[-2:] if frame] == [{"": ""}, {"": ""}]
    response.close()


async def test_client_that_left_frees_its_slot_at_once(node: Node, client: Client) -> None:
    """No write and no heartbeat is needed to notice it; the subscription goes too."""
    job = await node.submitted(client)
    before, gone = open_streams(), closed("gone")
    response = await client.get(EVENTS.format(job.job_id))
    await next_frame(response)
    assert open_streams() == before + 1
    response.close()
    await until(lambda: open_streams() == before)
    await until(lambda: not node.feed.subscribed)
    assert closed("gone") == gone + 1


async def test_drain_ends_streams_cleanly_with_a_jittered_retry(node: Node, client: Client) -> None:
    """The client is told when to come back, elsewhere; the response is whole, not cut."""
    job = await node.submitted(client)
    responses = [await client.get(EVENTS.format(job.job_id)) for _ in range(3)]
    for response in responses:
        for _ in range(3):
            await next_frame(response)
    await node.hub.drain()
    last = [await rest(response) for response in responses]
    for [frame] in last:
        assert 2000 <= int(frame.fields["retry"]) <= 4000


async def test_streams_are_limited_for_each_session(start: Start) -> None:
    """429 with Retry-After; a closed stream makes room."""
    node = await start(max_streams_per_session=2)
    client = await node.client()
    job = await node.submitted(client)
    held = [await client.get(EVENTS.format(job.job_id)) for _ in range(2)]
    refused = await client.get(EVENTS.format(job.job_id))
    await problem(refused, 429, "too_many_streams")
    assert refused.headers["Retry-After"]
    before = open_streams()
    held[0].close()
    await until(lambda: open_streams() < before)
    again = await client.get(EVENTS.format(job.job_id))
    assert again.status == 200
    for response in (*held, again):
        response.close()


async def test_streams_are_limited_for_each_address_and_in_all(start: Start) -> None:
    """Sessions are cheap, addresses less so; when all slots are taken it is 503."""
    node = await start(max_streams_per_address=1, max_streams=2)
    clients = [await node.client() for _ in range(3)]
    jobs = [await node.submitted(client) for client in clients]

    async def stream(number: int, address: str) -> ClientResponse:
        headers = {"X-Forwarded-For": address}
        return await clients[number].get(EVENTS.format(jobs[number].job_id), headers=headers)

    first = await stream(0, "192.0.2.1")
    await problem(await stream(1, "192.0.2.1"), 429, "too_many_streams")
    second = await stream(1, "192.0.2.2")
    await problem(await stream(2, "192.0.2.3"), 503, "too_many_streams")
    first.close()
    second.close()


async def test_redis_away_is_503_before_the_stream_begins(node: Node, client: Client) -> None:
    """A stream that cannot be subscribed is not opened, and holds no slot."""
    job = await node.submitted(client)
    node.feed.is_away = True
    before = open_streams()
    response = await client.get(EVENTS.format(job.job_id))
    await problem(response, 503, "unavailable")
    assert response.headers["Retry-After"]
    assert open_streams() == before


async def test_slow_reader_is_cut(start: Start) -> None:
    """Who takes no bytes while events come is disconnected after the write timeout, not buffered for."""
    node = await start(stream_write_timeout_seconds=0.2)
    client = await node.client()
    job = await node.submitted(client)
    cookie = next(cookie for cookie in client.session.cookie_jar)
    reader, writer = await asyncio.open_connection("127.0.0.1", node.server.port, limit=1024)
    request = (
        f"GET {EVENTS.format(job.job_id)} HTTP/1.1\r\nHost: x\r\nCookie: {cookie.key}={cookie.value}\r\n\r\n"
    )
    writer.write(request.encode())
    before = cut_streams()
    await told_so_far(reader)
    flood = asyncio.create_task(_flood(node, job.job_id))
    await until(lambda: cut_streams() == before + 1)
    flood.cancel()
    await until(lambda: not node.feed.subscribed)
    writer.close()


async def test_reader_that_does_not_even_take_the_beginning_is_cut(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is as slow as any; not every kernel can be told to give up."""
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT", raising=False)
    node = await start(stream_write_timeout_seconds=0.2)
    client = await node.client()
    job = await node.submitted(client)
    long_story = node.progress.saved(job.job_id)
    long_story.entries[0] = replace(long_story.entries[0], data="x" * 6_000_000)
    node.progress.set_back(job.job_id, long_story)
    cookie = next(cookie for cookie in client.session.cookie_jar)
    _, writer = await asyncio.open_connection("127.0.0.1", node.server.port, limit=1024)
    before = closed("slow")
    writer.write(
        f"GET {EVENTS.format(job.job_id)} HTTP/1.1\r\nHost: x\r\n"
        f"Cookie: {cookie.key}={cookie.value}\r\n\r\n".encode()
    )
    await until(lambda: closed("slow") == before + 1)
    writer.close()


def cut_streams() -> float:
    """By us, or by the kernel, which was told to give up a little earlier."""
    return closed("slow") + closed("gone")


async def test_reader_that_pauses_gets_the_rest_in_order(node: Node, client: Client) -> None:
    """What does not fit into the kernel's buffers waits in ours, and goes on when the client reads again."""
    job = await node.submitted(client)
    cookie = next(cookie for cookie in client.session.cookie_jar)
    reader, writer = await asyncio.open_connection("127.0.0.1", node.server.port, limit=1024)
    writer.write(
        f"GET {EVENTS.format(job.job_id)} HTTP/1.1\r\nHost: x\r\n"
        f"Cookie: {cookie.key}={cookie.value}\r\n\r\n".encode()
    )
    await told_so_far(reader)
    state = await node.progress.state(job.job_id)
    assert state
    first, last = state.entry.seq + 1, state.entry.seq + 50
    for seq in range(first, last + 1):
        node.hub.on_entry(
            job.job_id, LogEntry(f"{state.entry.epoch}.{seq}.p", "progress", f"{seq}" + "x" * 400_000)
        )
        await asyncio.sleep(0)
    told = b""
    async with asyncio.timeout(30):
        while f"data: {last}x".encode() not in told[-500_000:]:
            told += await reader.read(1 << 20)
    seqs = [int(seq) for seq in re.findall(rb"data: ([0-9]+)x", told)]
    assert seqs == list(range(first, last + 1))
    writer.close()


async def told_so_far(reader: asyncio.StreamReader) -> None:
    """Read on until all that is in the log has come: entries that are in no log are not missed by then."""
    told = b""
    while b'"queued"' not in told:
        told += await reader.read(256)


async def _flood(node: Node, job_id: UUID) -> None:
    """Far more than the kernel's buffers take."""
    state = await node.progress.state(job_id)
    assert state
    seq = state.entry.seq
    while True:
        seq += 1
        node.hub.on_entry(job_id, LogEntry(f"{state.entry.epoch}.{seq}.f", "progress", "x" * 100_000))
        await asyncio.sleep(0.001)


async def test_head_of_a_stream_is_refused(node: Node, client: Client) -> None:
    """It would stay open and say nothing."""
    job = await node.submitted(client)
    assert (await client.head(EVENTS.format(job.job_id))).status == 405
