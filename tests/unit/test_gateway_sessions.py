"""Sessions: made here only, in a cookie or as a Bearer token."""

from __future__ import annotations

import hashlib

import pytest

from tests.unit.conftest import Start
from tests.unit.gateway_node import Client, Node

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
