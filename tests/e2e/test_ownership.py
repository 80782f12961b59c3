"""A job belongs to the session that made it."""

from __future__ import annotations

from uuid import uuid4

from tests.e2e.client import Answer, Client
from tests.e2e.photos import drawn


def without_request_id(answer: Answer) -> dict[str, object]:
    return {name: value for name, value in answer.body.items() if name not in ("request_id", "trace_id")}


async def test_foreign_job_looks_exactly_like_an_unknown_one(client: Client, stranger: Client) -> None:
    """Another session gets the same 404 for every call as for a job that never was."""
    job_id = await client.submit(drawn("JPEG"))
    await client.result(job_id)
    await stranger.analyze()
    for method, path in (
        ("GET", "/api/v1/waste/jobs/{}"),
        ("GET", "/api/v1/waste/jobs/{}/events"),
        ("POST", "/upload-complete/{}"),
    ):
        foreign = await stranger.call(method, path.format(job_id))
        unknown = await stranger.call(method, path.format(uuid4()))
        assert foreign.status == unknown.status == 404
        assert foreign.headers["Content-Type"] == unknown.headers["Content-Type"]
        assert without_request_id(foreign) == without_request_id(unknown)


async def test_newcomer_without_session_gets_404(client: Client, stranger: Client) -> None:
    """A browser that has no cookie yet owns nothing."""
    job_id = await client.submit(drawn("JPEG"))
    assert (await stranger.job(job_id)).status == 404
    await client.result(job_id)


async def test_session_cookie_is_out_of_reach_of_scripts(client: Client) -> None:
    """The cookie of the first analyze is HttpOnly and SameSite=Lax, and is not made again."""
    first = await client.call("POST", "/api/v1/waste/analyze")
    cookie = first.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    second = await client.call("POST", "/api/v1/waste/analyze")
    token = cookie.split(";")[0]
    assert token in second.headers.get("Set-Cookie", token)


async def test_bearer_token_serves_clients_without_cookies(client: Client, stranger: Client) -> None:
    """A token from /sessions owns what it made, whoever carries it."""
    session = await client.call("POST", "/api/v1/sessions")
    assert session.status == 201
    bearer = {"Authorization": f"Bearer {session.body['token']}"}
    ticket = await stranger.call("POST", "/api/v1/waste/analyze", headers=bearer)
    assert ticket.status == 201
    job = await client.call("GET", f"/api/v1/waste/jobs/{ticket.body['job_id']}", headers=bearer)
    assert (job.status, job.body["stage"]) == (200, "awaiting_upload")
