"""Two sessions and every call: what is another's looks exactly like what never was."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from aiohttp import ClientResponse

from growbin.gateway.app import CALLS
from growbin.gateway.session_id import Vector
from growbin.messages import failure
from tests.unit.gateway_node import Client, Node

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
JOB_PATHS = sorted({call.path for call in CALLS if "{job_id}" in call.path})
WAYS = ("waiting", "queued", "failed", "deleted")
# What differs by chance, or tells the caller of its own calls.
OF_THE_MOMENT = ("Date", "X-Request-ID", "RateLimit")


async def told(response: ClientResponse) -> tuple[int, dict[str, str], Any]:
    headers = {name: value for name, value in response.headers.items() if name not in OF_THE_MOMENT}
    body = (
        await response.json(content_type=None) if "json" in response.content_type else await response.text()
    )
    if isinstance(body, dict):
        body.pop("request_id", None)
        body.pop("trace_id", None)
    headers.pop("Content-Length", None)  # that of the request id
    return response.status, headers, body


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("path", JOB_PATHS)
async def test_job_of_another_session_looks_like_none(
    node: Node, client: Client, path: str, way: str
) -> None:
    """By whatever method, with a session of one's own or none, by cookie or Bearer token, however far the job
    has come: status, headers and body are those of an id that was never given, and the job goes on."""
    if way == "waiting":
        job_id = await node.uploaded(client)
    else:
        job = await node.submitted(client)
        job_id = job.job_id
        if way == "failed":
            await node.progress.finish(job, None, failure("internal", "ko"))
        if way == "deleted":
            await node.progress.erase(job_id, job.owner)
    before = await node.progress.state(job_id)
    stranger, nobody = await node.client(), await node.client()
    assert (await stranger.post("/api/v1/waste/analyze")).status == 201
    token = (await (await nobody.post("/api/v1/sessions")).json())["token"]
    callers: list[tuple[Client, dict[str, str]]] = [
        (stranger, {}),
        (nobody, {}),
        (nobody, {"Authorization": f"Bearer {token}"}),
        (nobody, {"Authorization": "Bearer of-nothing"}),
    ]
    for method in METHODS:
        for caller, headers in callers:
            body = {"right": True} if path.endswith("feedback") and method == "POST" else None
            foreign, unknown = [
                await told(await caller.request(method, path.format(job_id=it), headers=headers, json=body))
                for it in (job_id, uuid4())
            ]
            assert foreign == unknown
            assert foreign[0] in ((401,) if "Bearer of-nothing" in headers.values() else (404,)) + (405,)
    after = await node.progress.state(job_id)
    assert before is not None
    assert after is not None
    assert after.entry == before.entry


async def test_list_of_a_session_shows_no_other_sessions_job(node: Node, client: Client) -> None:
    """Nor does a cursor that names it, nor an idempotency key that made it."""
    headers = {"Idempotency-Key": "the same"}
    mine = (await (await client.post("/api/v1/waste/analyze", headers=headers)).json())["job_id"]
    stranger = await node.client()
    theirs = (await (await stranger.post("/api/v1/waste/analyze", headers=headers)).json())["job_id"]
    assert mine != theirs
    listed = await (await stranger.get("/api/v1/waste/jobs?limit=50")).json()
    assert [job["job_id"] for job in listed["jobs"]] == [theirs]
    assert (await stranger.get(f"/api/v1/waste/jobs?cursor={mine}")).status == 400
    assert (await stranger.get("/api/v1/waste/jobs?limit=51")).status == 400


async def test_stream_of_a_session_tells_nothing_of_another_sessions_job(node: Node, client: Client) -> None:
    """Not what begins, goes on or ends meanwhile, and not when its own last id names the other's job."""
    mine = await node.submitted(client)
    stranger = await node.client()
    theirs = await node.submitted(stranger)
    state = await node.progress.state(mine.job_id)
    assert state is not None
    vector = Vector(None, {mine.job_id: state.entry.id, theirs.job_id: ""}).encode()
    async with stranger.get("/api/v1/waste/events", headers={"Last-Event-ID": vector}) as stream:
        later = await node.submitted(client)
        for job in (mine, later, theirs):
            await node.progress.cancel(job.job_id)
        said = b""
        while b"event: cancelled" not in said:
            said += await stream.content.readuntil(b"\n\n")
    assert str(theirs.job_id).encode() in said
    assert not any(str(job.job_id).encode() in said for job in (mine, later))


async def test_end_of_a_session_touches_no_other_session(node: Node, client: Client) -> None:
    """Nor the jobs of it, also where its own are erased."""
    mine = await node.submitted(client)
    stranger = await node.client()
    theirs = await node.submitted(stranger)
    assert (await stranger.delete("/api/v1/sessions/current?erase=true")).status == 204
    await node.erased()
    assert set(node.uploads.objects) == {mine.key}
    assert (await client.get(f"/api/v1/waste/jobs/{mine.job_id}")).status == 200
    assert (await client.get(f"/api/v1/waste/jobs/{theirs.job_id}")).status == 404
