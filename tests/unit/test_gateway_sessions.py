"""Sessions: made here only, in a cookie or as a Bearer token; their lives, and whose cookie counts."""

from __future__ import annotations

import hashlib
from uuid import UUID, uuid4

import pytest
from aiohttp import ClientResponse

from growbin.errors import Rejected
from growbin.gateway.context import GATEWAY
from growbin.gateway.jobs import LONGEST_LIST
from growbin.gateway.owned_job import KnownJob
from growbin.gateway.sessions import Session
from growbin.gateway.submission import submit_job
from tests.unit.conftest import Start
from tests.unit.gateway_node import JPEG, Client, Node, problem

ANALYZE = "/api/v1/waste/analyze"


async def test_first_analyze_makes_a_session_and_the_next_keeps_it(node: Node, client: Client) -> None:
    """The cookie is out of reach of scripts and slides with each analyze."""
    first = await client.post(ANALYZE)
    cookie = first.headers["Set-Cookie"]
    for attribute in ("growbin_session=", "HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=3600"):
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
        assert all(("Secure" in cookie) == is_secure for cookie in told.headers.getall("Set-Cookie"))
    configured = await start(secure_cookies=True)
    response = await (await configured.client()).post(ANALYZE)
    assert "Secure" in response.headers["Set-Cookie"]
    assert "max-age" in response.headers["Strict-Transport-Security"]


async def test_cookie_behind_tls_has_both_names(start: Start) -> None:
    """The one that no neighbour can set, and for one release that of the version before. Without TLS a
    browser would not take the first."""
    node = await start(secure_cookies=True)
    response = await (await node.client()).post(ANALYZE)
    cookies = response.headers.getall("Set-Cookie")
    assert [cookie.partition("=")[0] for cookie in cookies] == ["__Host-growbin_session", "growbin_session"]
    assert len({cookie.partition(";")[0].partition("=")[2] for cookie in cookies}) == 1
    assert all("Secure" in cookie and "Path=/" in cookie and "Domain" not in cookie for cookie in cookies)


async def new_token(client: Client) -> str:
    return str((await (await client.post("/api/v1/sessions")).json())["token"])


@pytest.mark.parametrize("name", ["growbin_session", "__Host-growbin_session"])
async def test_cookie_of_either_name_is_read(node: Node, client: Client, name: str) -> None:
    """The version before wrote one of them."""
    token = await new_token(client)
    response = await (await node.client()).post(ANALYZE, headers={"Cookie": f"other=1; {name}={token}"})
    assert response.headers["Set-Cookie"].startswith(f"growbin_session={token}")
    assert len(node.sessions.owners) == 1


@pytest.mark.parametrize("is_first", [True, False])
async def test_cookie_that_a_neighbour_can_set_never_wins(node: Node, client: Client, is_first: bool) -> None:
    """A page of a neighbouring host may set a cookie of the old name, with a session of its own, before or
    after ours: the name that it cannot set goes before; where there is none, no cookie of several counts."""
    ours, theirs = await new_token(client), await new_token(client)
    job_id = (await (await client.post(ANALYZE, headers=bearer(ours))).json())["job_id"]
    path = f"/api/v1/waste/jobs/{job_id}"

    def sent(*cookies: str) -> dict[str, str]:
        return {"Cookie": "; ".join(cookies if is_first else reversed(cookies))}

    async def ask(method: str, path: str, headers: dict[str, str]) -> ClientResponse:
        return await (await node.client()).request(method, path, headers=headers)  # keeps no cookie

    safe = sent(f"growbin_session={theirs}", f"__Host-growbin_session={ours}")
    assert (await ask("GET", path, safe)).status == 200
    doubtful = sent(f"growbin_session={theirs}", f"growbin_session={ours}")
    assert (await ask("GET", path, doubtful)).status == 404
    response = await ask("POST", ANALYZE, doubtful)
    assert response.headers["Set-Cookie"].split(";")[0] not in doubtful["Cookie"]
    same = sent(f"growbin_session={ours}", f"growbin_session={ours}")
    assert (await ask("GET", path, same)).status == 200
    ended = sent(f"growbin_session={theirs}", "__Host-growbin_session=ended")
    response = await ask("POST", ANALYZE, ended)
    assert f"={theirs};" not in response.headers["Set-Cookie"]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_bearer_token_owns_what_it_made(node: Node, client: Client) -> None:
    """A client without cookies gets a token, and no cookie beside it."""
    made = await client.post("/api/v1/sessions")
    session = await made.json()
    assert (made.status, session["expires_in"]) == (201, 3600)
    assert made.headers["Cache-Control"] == "no-store"
    sent = {"Authorization": f"bearer {session['token']}"}
    response = await client.post(ANALYZE, headers=sent)
    assert "Set-Cookie" not in response.headers
    [upload] = node.records.uploads.values()
    assert upload.owner == hashlib.sha256(session["token"].encode()).hexdigest()
    assert (await client.get(f"/api/v1/waste/jobs/{upload.job_id}", headers=sent)).status == 200
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
    """204, and again 204, for who has nothing to end; its cookie goes, and its jobs are out of reach, but not
    deleted. Its token is unknown from then on."""
    job = await node.submitted(client)
    token = client.session.cookie_jar.filter_cookies(client.make_url("/"))["growbin_session"].value
    ended = await client.delete(CURRENT)
    assert (ended.status, 'growbin_session=""' in ended.headers["Set-Cookie"]) == (204, True)
    assert (await client.delete(CURRENT)).status == 204
    assert (await client.delete(CURRENT, headers={"Cookie": f"growbin_session={token}"})).status == 204
    path = f"/api/v1/waste/jobs/{job.job_id}"
    await problem(await client.delete(CURRENT, headers=bearer(token)), 401, "session_unknown")
    await problem(await client.get(path, headers=bearer(token)), 401, "session_unknown")
    assert not node.sessions.owners
    assert job.key in node.uploads.objects


async def test_session_ended_with_erase_takes_its_jobs_with_it(node: Node, client: Client) -> None:
    """All that it lists, which is more than a page, and nobody else's; each comes on the agenda before the
    session ends."""
    jobs = [await node.submitted(client) for _ in range(3)]
    for _ in range(LONGEST_LIST):
        await node.uploaded(client)
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


# --- lives ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["unknown", "", "x" * 1000, "a b", "\u00fc"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", ANALYZE),
        ("POST", f"/upload-complete/{uuid4()}"),
        ("GET", "/api/v1/waste/jobs"),
        ("GET", "/api/v1/waste/events"),
        ("GET", f"/api/v1/waste/jobs/{uuid4()}"),
        ("GET", f"/api/v1/waste/jobs/{uuid4()}/events"),
        ("POST", f"/api/v1/waste/jobs/{uuid4()}/cancel"),
        ("POST", f"/api/v1/waste/jobs/{uuid4()}/feedback"),
        ("DELETE", f"/api/v1/waste/jobs/{uuid4()}"),
        ("DELETE", "/api/v1/sessions/current"),
    ],
)
async def test_unknown_bearer_token_is_told_so(
    node: Node, client: Client, method: str, path: str, token: str
) -> None:
    """Wherever a session is read: never a new session in silence, nor that of a cookie beside it."""
    await client.post(ANALYZE)  # a cookie that is good
    sessions = len(node.sessions.owners)
    headers = {"Authorization": f"Bearer {token}"}
    response = await client.request(method, path, headers=headers)
    await problem(response, 401, "session_unknown")
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert "Set-Cookie" not in response.headers
    assert len(node.sessions.owners) == sessions


async def test_other_authorization_is_not_ours(node: Node, client: Client) -> None:
    """A proxy's own password, say: the cookie counts."""
    job_id = (await node.ticket(client))["job_id"]
    response = await client.get(f"/api/v1/waste/jobs/{job_id}", headers={"Authorization": "Basic eDp5"})
    assert response.status == 200


async def test_session_lives_an_hour_until_it_completes_an_upload_and_then_for_days(
    node: Node, client: Client
) -> None:
    """Its cookie's life tells the same; a session whose photo was not taken is no longer-lived for it."""
    ticket = await node.ticket(client)
    refused = await client.post(f"/upload-complete/{ticket['job_id']}")
    await problem(refused, 409, "upload_missing")
    [session] = node.sessions.owners.values()
    assert not session.is_kept
    node.uploads.put(node.records.uploads[UUID(ticket["job_id"])].key, JPEG)
    taken = await client.post(f"/upload-complete/{ticket['job_id']}")
    assert taken.status == 202
    assert "Max-Age=604800" in taken.headers["Set-Cookie"]
    assert session.is_kept
    node.clock.advance(6 * 24 * 3600)
    assert (await client.get("/api/v1/waste/jobs")).status == 200
    again = await client.post(ANALYZE)
    assert again.headers["Set-Cookie"].partition(";")[0] == taken.headers["Set-Cookie"].partition(";")[0]
    assert "Max-Age=604800" in again.headers["Set-Cookie"]


async def test_session_is_kept_before_its_job_is_published(node: Node, client: Client) -> None:
    """Else a job could be done that nobody can read any more."""
    job_id = await node.uploaded(client)
    [session] = node.sessions.owners.values()
    node.queue.is_away = True
    await problem(await client.post(f"/upload-complete/{job_id}"), 503, "unavailable")
    assert session.is_kept
    assert not node.queue.published


async def test_session_that_ends_meanwhile_gets_nothing_published(node: Node, client: Client) -> None:
    """Its job would be nobody's."""
    job_id = await node.uploaded(client)
    upload = node.records.uploads[job_id]
    session = Session(upload.owner, "token", in_cookie=True, expires_in=3600, is_kept=False)
    found = KnownJob(job_id, session, upload, await node.progress.state(job_id))
    node.sessions.owners.clear()
    with pytest.raises(Rejected, match="not_found"):
        await submit_job(node.server.app[GATEWAY], found)
    assert not node.queue.published
