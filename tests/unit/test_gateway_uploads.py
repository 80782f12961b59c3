"""Analyze: the ticket."""

from __future__ import annotations

from uuid import UUID

import pytest

from growbin.gateway.languages import preferred_locale
from growbin.job import Stage
from tests.unit.conftest import Start
from tests.unit.gateway_node import Client, Node, problem

ANALYZE = "/api/v1/waste/analyze"


async def test_ticket_carries_what_the_client_needs_and_nothing_else(node: Node, client: Client) -> None:
    """No body is needed; the photo is a JPEG under `incoming/` and shown by the CDN."""
    response = await client.post(ANALYZE)
    ticket = await response.json()
    job_id = ticket["job_id"]
    assert response.status == 201
    assert UUID(job_id).version == 4
    upload_url = ticket.pop("upload_url")
    assert upload_url.startswith(f"https://bucket.test/incoming/{job_id}?X-Amz-Expires=300&")
    assert ticket == {
        "job_id": job_id,
        "upload_method": "PUT",
        "upload_headers": {},
        "image_url": f"https://cdn.test/{job_id}.jpg",
        "expires_in": 300,
        "links": {
            "upload_complete": f"/upload-complete/{job_id}",
            "self": f"/api/v1/waste/jobs/{job_id}",
            "events": f"/api/v1/waste/jobs/{job_id}/events",
        },
    }
    assert response.headers["Location"] == f"/api/v1/waste/jobs/{job_id}"
    state = await node.progress.state(UUID(job_id))
    assert state
    assert Stage.AWAITING_UPLOAD in state.entry.data
    assert 590 < state.left_seconds <= 600


async def test_declared_photo_is_bound_into_the_ticket(node: Node, client: Client) -> None:
    """Type and length go into the signature; the public copy is a JPEG all the same."""
    ticket = await node.ticket(client, content_type="image/png", content_length=1234, locale="en")
    upload = node.records.uploads[UUID(ticket["job_id"])]
    assert ticket["upload_headers"] == {"Content-Type": "image/png", "If-None-Match": "*"}
    sent = [
        node.uploads.use(ticket["upload_url"], ticket["upload_headers"], bytes(length))
        for length in (1233, 1234)
    ]
    assert sent == [403, 200]
    assert ticket["image_url"].endswith(".jpg")
    assert (upload.declared_type, upload.declared_length, upload.locale) == ("image/png", 1234, "en")
    assert upload.address_hash


async def test_ticket_without_a_length_is_refused_where_it_must_be_declared(start: Start) -> None:
    """It would take an upload of any size; the refusal says what to send."""
    node = await start(require_declared_length=True)
    client = await node.client()
    for body in ({}, {"content_type": "image/png"}):
        said = await problem(await client.post("/api/v1/waste/analyze", json=body), 422, "length_required")
        assert "content_length" in said["detail"]
    await problem(await client.post("/api/v1/waste/analyze"), 422, "length_required")
    assert not node.records.uploads
    await node.ticket(client, content_length=1234)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "bad_request"),
        (b"[]", 400, "bad_request"),
        (b"null", 400, "bad_request"),
        (b'{"content_length": "12"}', 400, "bad_request"),
        (b'{"content_length": 0}', 400, "bad_request"),
        (b'{"locale": "fr"}', 400, "bad_request"),
        (b'{"question": 5}', 400, "bad_request"),
        (b'{"question": "' + b"?" * 501 + b'"}', 400, "bad_request"),
        (b'{"image": "http://10.0.0.1/"}', 400, "bad_request"),
        (b"\xff\xfe", 400, "bad_request"),
        (b'{"content_type": "image/gif"}', 415, "unsupported_photo"),
        (b'{"content_length": 10485761}', 413, "photo_too_large"),
        (b'{"question": "' + b"?" * 17_000 + b'"}', 413, "bad_request"),
    ],
)
async def test_unusable_wish_gets_no_ticket(
    node: Node, client: Client, body: bytes, status: int, code: str
) -> None:
    """Each mistake has its problem, and leaves nothing behind."""
    response = await client.post(ANALYZE, data=body, headers={"Content-Type": "application/json"})
    await problem(response, status, code)
    assert not node.records.uploads
    assert not node.sessions.owners


@pytest.mark.parametrize(
    ("declared", "content_type"),
    [
        ("image/jpg", "image/jpeg"),
        ("image/pjpeg", "image/jpeg"),
        ("image/JPEG", "image/jpeg"),
        (" image/jpeg; charset=binary", "image/jpeg"),
        ("image/x-png", "image/png"),
        ("image/heic", "image/heic"),
        ("image/heif", "image/heic"),
        ("IMAGE/HEIF", "image/heic"),
    ],
)
async def test_type_is_taken_by_whatever_name_it_is_declared(
    node: Node, client: Client, declared: str, content_type: str
) -> None:
    """The ticket says under which name it is to be sent; the public copy is a JPEG."""
    ticket = await node.ticket(client, content_type=declared)
    assert ticket["upload_headers"]["Content-Type"] == content_type
    assert node.records.uploads[UUID(ticket["job_id"])].declared_type == content_type
    assert ticket["image_url"].endswith(".jpg")


async def test_body_that_is_not_json_is_refused(client: Client) -> None:
    """A form, which any page can send, is no request."""
    await problem(await client.post(ANALYZE, data={"locale": "en"}), 400, "bad_request")


async def test_same_idempotency_key_gives_the_same_job_and_a_fresh_ticket(node: Node, client: Client) -> None:
    """A retried analyze makes no second job."""
    await node.ticket(client)
    key = {"Idempotency-Key": "one"}
    first = await (await client.post(ANALYZE, headers=key)).json()
    second = await (await client.post(ANALYZE, headers=key)).json()
    assert first["job_id"] == second["job_id"]
    assert first["upload_url"] != second["upload_url"]
    assert len(node.records.uploads) == 2
    other = await client.post(ANALYZE, headers=key, json={"locale": "en"})
    await problem(other, 422, "idempotency_key_reused")


@pytest.mark.parametrize("key", ["", "x" * 201, "a\tb"])
async def test_unusable_idempotency_key_is_refused(client: Client, key: str) -> None:
    """A key has 1 to 200 printable characters."""
    await problem(await client.post(ANALYZE, headers={"Idempotency-Key": key}), 400, "bad_request")


async def test_redis_away_means_no_ticket(node: Node, client: Client) -> None:
    """Without a record nothing is promised: 503, and when to come back."""
    node.records.is_away = True
    response = await client.post(ANALYZE)
    await problem(response, 503, "unavailable")
    assert response.headers["Retry-After"] == "2"


@pytest.mark.parametrize(
    ("header", "locale"),
    [
        ("", "ko"),
        ("en", "en"),
        ("en-GB,en;q=0.9", "en"),
        ("ko-KR,ko;q=0.9,en;q=0.8", "ko"),
        ("fr, en;q=0.5, ko;q=0.4", "en"),
        ("fr", "ko"),
        ("en;q=x, ko", "ko"),
        ("en;q=0", "ko"),
    ],
)
def test_locale_follows_what_the_browser_likes(header: str, locale: str) -> None:
    """The better liked of our two languages, else Korean."""
    assert preferred_locale(header) == locale
