"""What a client can do wrong, and the sentence it gets."""

from __future__ import annotations

import random
from typing import Any
from uuid import uuid4

from tests.e2e.client import Answer, Client
from tests.e2e.photos import drawn

WHAT_TO_DO = {
    "not_found": ("check the id", "the session that made it"),
    "photo_too_large": ("10 MB", "send a smaller one"),
    "unsupported_photo": ("Send a JPEG, PNG, WebP or HEIC photo",),
    "upload_missing": ("Upload it, then call again",),
}


def problem(answer: Answer, status: int, code: str | None = None) -> Any:
    """The problem of an answer that says in one clear sentence or two what to do."""
    assert answer.status == status, answer
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert {"type", "title", "status", "code", "detail", "request_id"} <= answer.body.keys()
    assert answer.body["status"] == status
    assert answer.body["detail"].rstrip().endswith((".", "!", "?"))
    assert "Traceback" not in answer.body["detail"]
    assert len(answer.body["detail"].splitlines()) == 1
    if code is not None:
        assert answer.body["code"] == code
        assert all(words in answer.body["detail"] for words in WHAT_TO_DO[code]), answer.body["detail"]
    return answer.body


async def uploaded(client: Client, photo: bytes) -> str:
    ticket = await client.analyze()
    assert await client.put(ticket, photo) == 200
    return str(ticket["job_id"])


async def test_text_as_photo_is_refused_and_deleted(client: Client) -> None:
    """Text under a photo's name gets 415, and the object is gone: the next try finds nothing."""
    job_id = await uploaded(client, b"Dear sorting centre, this is no photo.\n" * 20)
    problem(await client.complete(job_id), 415, "unsupported_photo")
    problem(await client.complete(job_id), 409, "upload_missing")


async def test_empty_file_is_refused(client: Client) -> None:
    """An empty upload gets 415."""
    problem(await client.complete(await uploaded(client, b"")), 415, "unsupported_photo")


async def test_30_mb_file_is_refused(client: Client) -> None:
    """More than 10 MB gets 413, whatever is in it."""
    huge = drawn("JPEG") + random.randbytes(30_000_000)
    problem(await client.complete(await uploaded(client, huge)), 413, "photo_too_large")


async def test_declared_30_mb_gets_no_ticket(client: Client) -> None:
    """Who says beforehand that the photo is too large need not upload it."""
    body = {"content_type": "image/jpeg", "content_length": 30_000_000}
    problem(await client.call("POST", "/api/v1/waste/analyze", body=body), 413, "photo_too_large")


async def test_photo_cut_short_fails_its_job_clearly(client: Client) -> None:
    """A JPEG that breaks off looks like a photo at the door; its job ends `failed`, not in silence."""
    photo = drawn("JPEG", 1200, 900)
    job_id = await uploaded(client, photo[: len(photo) // 3])
    answer = await client.complete(job_id)
    if answer.status == 202:
        last = [event async for event in client.events(job_id)][-1]
        assert last.name == "failed"
        assert last.data["failure"]["code"] == "photo_unreadable"
        assert last.data["failure"]["retryable"] is False
    else:
        problem(answer, 415, "unsupported_photo")


async def test_complete_without_upload_says_that_it_is_missing(client: Client) -> None:
    """Upload-complete before the upload gets 409, and the upload is still welcome."""
    ticket = await client.analyze()
    problem(await client.complete(ticket["job_id"]), 409, "upload_missing")
    assert await client.put(ticket, drawn("JPEG")) == 200
    assert (await client.complete(ticket["job_id"])).status == 202
    await client.result(ticket["job_id"])


async def test_unknown_job_is_not_found(client: Client) -> None:
    """A job that never was, and an id that is none, get 404."""
    await client.analyze()
    for job_id in (str(uuid4()), "42", "..%2f..%2fetc"):
        for answer in (await client.job(job_id), await client.complete(job_id)):
            problem(answer, 404, "not_found")
        problem(await client.call("DELETE", f"/api/v1/waste/jobs/{job_id}"), 404, "not_found")


async def test_unusable_wishes_get_no_ticket(client: Client) -> None:
    """An unknown type, an endless question, an unknown locale and a list are refused, not crashed on."""
    for body in ({"content_type": "text/plain"}, {"question": "?" * 501}, {"locale": "xx"}, ["list"]):
        answer = await client.call("POST", "/api/v1/waste/analyze", body=body)
        assert 400 <= answer.status < 500
        problem(answer, answer.status)


async def test_unknown_address_is_a_problem_too(client: Client) -> None:
    """Even where there is nothing, the answer has the shape of every error."""
    problem(await client.call("GET", "/api/v1/waste/nothing"), 404)
    problem(await client.call("PATCH", "/api/v1/waste/analyze"), 405)
