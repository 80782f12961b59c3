"""Sessions: made here only, in a cookie or as a Bearer token."""

from __future__ import annotations

import hashlib

import pytest

from tests.unit.conftest import Start
from tests.unit.gateway_node import Client, Node, problem

ANALYZE = "/api/v1/waste/analyze"


async def test_first_analyze_makes_a_session_and_the_next_keeps_it(node: Node, client: Client) -> None:
    """The cookie is out of reach of scripts and slides with each analyze."""
    first = await client.post(ANALYZE)
    cookie = first.headers["Set-Cookie"]
    for attribute in ("growbin_session=", "HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=604800"):
        assert attribute in cookie
    assert "Secure" not in cookie
    second = await client.post(ANALYZE)
    assert second.headers["Set-Cookie"].split(";")[0] == cookie.split(";")[0]
    assert len(node.sessions.owners) == 1


async def test_cookie_is_secure_behind_tls(start: Start, node: Node, client: Client) -> None:
    """Configured, or told so by a proxy that is trusted."""
    for forwarded, is_secure in (
        ("https", True),
        ("https,http", True),
        ("HTTPS , http", True),
        ("http,https", False),
    ):
        told = await client.post(ANALYZE, headers={"X-Forwarded-Proto": forwarded})
        assert ("Secure" in told.headers["Set-Cookie"]) == is_secure
    configured = await start(secure_cookies=True)
    response = await (await configured.client()).post(ANALYZE)
    assert "Secure" in response.headers["Set-Cookie"]
    assert "max-age" in response.headers["Strict-Transport-Security"]


async def test_cookie_of_either_name_is_read(node: Node, client: Client) -> None:
    """A newer gateway names it `__Host-growbin_session`; this one reads both and writes the old one."""
    token = (await (await client.post("/api/v1/sessions")).json())["token"]
    newcomer = await node.client()
    response = await newcomer.post(ANALYZE, headers={"Cookie": f"__Host-growbin_session={token}"})
    assert response.headers["Set-Cookie"].startswith(f"growbin_session={token}")
    assert len(node.sessions.owners) == 1


async def test_bearer_token_owns_what_it_made(node: Node, client: Client) -> None:
    """A client without cookies gets a token, and no cookie beside it."""
    made = await client.post("/api/v1/sessions")
    session = await made.json()
    assert (made.status, session["expires_in"]) == (201, 604_800)
    assert made.headers["Cache-Control"] == "no-store"
    bearer = {"Authorization": f"bearer {session['token']}"}
    response = await client.post(ANALYZE, headers=bearer)
    assert "Set-Cookie" not in response.headers
    [upload] = node.records.uploads.values()
    assert upload.owner == hashlib.sha256(session["token"].encode()).hexdigest()
    assert (await client.get(f"/api/v1/waste/jobs/{upload.job_id}", headers=bearer)).status == 200
    assert (await client.get(f"/api/v1/waste/jobs/{upload.job_id}")).status == 404


@pytest.mark.parametrize("token", ["chosen-by-an-attacker", "x" * 10_00, "\u00fc", "a b"])
async def test_token_we_did_not_make_is_never_taken_over(node: Node, client: Client, token: str) -> None:
    """A forged or expired cookie gets a new session of its own."""
    response = await client.post(ANALYZE, headers={"Cookie": f"growbin_session={token}"})
    assert response.status == 201
    assert f"growbin_session={token};" not in response.headers["Set-Cookie"]
    assert hashlib.sha256(token.encode()).hexdigest() not in node.sessions.owners


# --- the end of a session ------------------------------------------------------------------------

CURRENT = "/api/v1/sessions/current"


async def test_ended_session_opens_nothing_any_more(node: Node, client: Client) -> None:
    """204, and again 204; its cookie goes, and its jobs are out of reach, but not deleted."""
    job = await node.submitted(client)
    token = client.session.cookie_jar.filter_cookies(client.make_url("/"))["growbin_session"].value
    ended = await client.delete(CURRENT)
    assert (ended.status, 'growbin_session=""' in ended.headers["Set-Cookie"]) == (204, True)
    bearer = {"Authorization": f"Bearer {token}"}
    assert (await client.delete(CURRENT, headers=bearer)).status == 204
    assert (await client.get(f"/api/v1/waste/jobs/{job.job_id}", headers=bearer)).status == 404
    assert not node.sessions.owners
    assert job.key in node.uploads.objects


async def test_session_ended_with_erase_takes_its_jobs_with_it(node: Node, client: Client) -> None:
    """Its own and nobody else's; each comes on the agenda before the session ends."""
    jobs = [await node.submitted(client) for _ in range(3)]
    other = await node.client()
    kept = await node.submitted(other)
    assert (await client.delete(CURRENT, params={"erase": "true"})).status == 204
    await node.erased()
    assert set(node.uploads.objects) == {kept.key}
    for job in jobs:
        state = await node.progress.state(job.job_id)
        assert state is not None
        assert state.is_erased
    assert (await other.get(f"/api/v1/waste/jobs/{kept.job_id}")).status == 200


async def test_session_whose_jobs_cannot_be_erased_does_not_end(node: Node, client: Client) -> None:
    """Redis is away: 503, and the client may ask again."""
    job = await node.submitted(client)
    node.progress.is_away = True
    await problem(await client.delete(CURRENT, params={"erase": "true"}), 503, "unavailable")
    node.progress.is_away = False
    assert (await client.get(f"/api/v1/waste/jobs/{job.job_id}")).status == 200
    await problem(await client.delete(CURRENT, params={"erase": "yes"}), 400, "bad_request")
