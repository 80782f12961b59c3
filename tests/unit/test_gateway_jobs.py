"""Upload-complete, reading, listing and cancelling jobs."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID, uuid4

import pytest

from growbin.job import Failure, Stage
from tests.unit.conftest import Start
from tests.unit.gateway_node import HEIC, JPEG, PNG, Client, Node, problem

JOB = "/api/v1/waste/jobs/{}"
FAILURE = Failure(code="photo_missing", detail="Send it again.", retryable=True)


# --- upload-complete ---------------------------------------------------------------------------


async def test_uploaded_photo_is_accepted_and_published_once(node: Node, client: Client) -> None:
    """202 names the job and where to go; the queue holds it with what the consumer needs."""
    job_id = await node.uploaded(client, question="Is the lid plastic?", locale="en")
    response = await client.post(f"/upload-complete/{job_id}")
    body = await response.json()
    assert response.status == 202
    assert body["job_id"] == str(job_id)
    assert body["stage"] == "queued"
    assert body["links"]["self"] == response.headers["Location"] == JOB.format(job_id)
    assert response.headers["Retry-After"]
    [job] = node.queue.published
    upload = node.records.uploads[job_id]
    assert (job.job_id, job.key, job.length) == (job_id, f"incoming/{job_id}", len(JPEG))
    assert (job.question, job.locale, job.owner) == ("Is the lid plastic?", "en", upload.owner)
    assert job.deadline_ms - job.accepted_at_ms == 300_000
    assert upload.published


async def test_repeat_gives_the_same_answer_and_publishes_nothing(node: Node, client: Client) -> None:
    """Repeating is safe while the job runs and after it has ended."""
    job = await node.submitted(client)
    again = await client.post(f"/upload-complete/{job.job_id}")
    assert (again.status, (await again.json())["stage"]) == (202, "queued")
    await node.progress.finish(job, None, FAILURE)
    ended = await client.post(f"/upload-complete/{job.job_id}")
    assert (ended.status, (await ended.json())["stage"]) == (202, "failed")
    assert len(node.queue.published) == 1


async def test_fifty_parallel_repeats_publish_one_message(node: Node, client: Client) -> None:
    """Whoever comes while the first is at work waits for it, and finds it done."""
    job_id = await node.uploaded(client)
    answers = await asyncio.gather(*(client.post(f"/upload-complete/{job_id}") for _ in range(50)))
    bodies = [await answer.json() for answer in answers]
    assert {answer.status for answer in answers} == {202}
    assert all(body == bodies[0] for body in bodies)
    assert len(node.queue.published) == 1
    assert node.uploads.looks == 1


@pytest.mark.parametrize("data", [JPEG, b"no photo", None])
async def test_job_that_went_on_unrecorded_is_told_as_it_is(
    node: Node, client: Client, data: bytes | None
) -> None:
    """Its gateway died between publish and record: the log says that it goes on. Nothing is published again,
    and no photo removed, whatever lies there by now. Where it is a photo the record is made whole, for a
    redrive."""
    job = await node.submitted(client)
    stamps = {"published": False, "accepted_at_ms": None, "deadline_ms": None, "etag": None, "length": None}
    node.records.uploads[job.job_id] = node.records.uploads[job.job_id].model_copy(update=stamps)
    if data is None:
        await node.uploads.delete(job.key)
    else:
        node.uploads.put(job.key, data)
    again = await client.post(f"/upload-complete/{job.job_id}")
    assert (again.status, (await again.json())["stage"]) == (202, "queued")
    assert len(node.queue.published) == 1
    stored = await node.uploads.look(job.key)
    assert (stored is None) == (data is None)
    upload = node.records.uploads[job.job_id]
    assert upload.published == (data == JPEG)
    if upload.published:
        assert stored
        assert upload.etag == stored.etag
        assert upload.deadline_ms
        assert upload.deadline_ms >= job.deadline_ms


async def test_record_of_a_job_that_was_cancelled_before_its_upload_says_nothing_of_a_publish(
    node: Node, client: Client
) -> None:
    """Its end tells of no event that anybody has."""
    job_id = await node.uploaded(client)
    await node.progress.cancel(job_id)
    again = await client.post(f"/upload-complete/{job_id}")
    assert (again.status, (await again.json())["stage"]) == (202, "cancelled")
    assert not node.records.uploads[job_id].published


async def test_result_answers_after_the_record_has_gone(node: Node, client: Client) -> None:
    """After 24 hours the owner is known from the result; nothing is published again."""
    job = await node.submitted(client)
    await node.progress.finish(job, None, FAILURE)
    node.records.uploads.clear()
    node.progress.forget_log(job.job_id)
    response = await client.post(f"/upload-complete/{job.job_id}")
    assert (response.status, (await response.json())["stage"]) == (202, "failed")
    stranger = await node.client()
    await node.ticket(stranger)
    await problem(await stranger.post(f"/upload-complete/{job.job_id}"), 404, "not_found")
    assert len(node.queue.published) == 1


async def test_missing_upload_is_told_until_the_ticket_runs_out(node: Node, client: Client) -> None:
    """409 while the client may still upload, 410 afterwards."""
    job_id = (await node.ticket(client))["job_id"]
    missing = await client.post(f"/upload-complete/{job_id}")
    await problem(missing, 409, "upload_missing")
    assert missing.headers["Retry-After"] == "1"
    upload = node.records.uploads[UUID(job_id)]
    past_ms = int(time.time() * 1000) - 1
    node.records.uploads[UUID(job_id)] = upload.model_copy(update={"ticket_expires_at_ms": past_ms})
    await problem(await client.post(f"/upload-complete/{job_id}"), 410, "upload_expired")


async def test_job_that_expired_without_upload_is_gone(node: Node, client: Client) -> None:
    """After ten minutes the job has ended; its upload can no longer be completed, even if it came."""
    job_id = await node.uploaded(client)
    node.clock.advance(601)
    await problem(await client.post(f"/upload-complete/{job_id}"), 410, "upload_expired")
    assert not node.queue.published


@pytest.mark.parametrize(
    ("data", "wishes", "status", "code"),
    [
        (b"", {}, 415, "unsupported_photo"),
        (b"Dear sorting centre", {}, 415, "unsupported_photo"),
        (PNG, {"content_type": "image/jpeg"}, 415, "unsupported_photo"),
        (HEIC, {"content_type": "image/jpeg"}, 415, "unsupported_photo"),
        (HEIC.replace(b"heic", b"avif"), {}, 415, "unsupported_photo"),
        (JPEG + b"." * (10 * 2**20), {}, 413, "photo_too_large"),
    ],
)
async def test_unusable_photo_is_refused_and_deleted(
    node: Node, client: Client, data: bytes, wishes: dict[str, str], status: int, code: str
) -> None:
    """Judged by its bytes, not by its name; the ticket may be used again."""
    job_id = await node.uploaded(client, data, **wishes)
    await problem(await client.post(f"/upload-complete/{job_id}"), status, code)
    assert not node.uploads.objects
    assert not node.queue.published
    node.uploads.put(node.records.uploads[job_id].key, JPEG)
    assert (await client.post(f"/upload-complete/{job_id}")).status == 202


async def test_undeclared_type_is_taken_from_the_bytes(node: Node, client: Client) -> None:
    """Who declared nothing may upload any of the types."""
    job_id = await node.uploaded(client, PNG)
    assert (await client.post(f"/upload-complete/{job_id}")).status == 202
    assert node.queue.published[0].content_type == "image/png"


async def test_full_backlog_is_503_and_an_unknown_one_is_no_obstacle(node: Node, client: Client) -> None:
    """The upload is kept: the same call succeeds later."""
    job_id = await node.uploaded(client)
    node.queue.crowd = 100
    full = await client.post(f"/upload-complete/{job_id}")
    await problem(full, 503, "backlog_full")
    assert full.headers["Retry-After"]
    node.queue.is_blind = True
    assert (await client.post(f"/upload-complete/{job_id}")).status == 202


async def test_lost_confirm_is_503_and_the_next_try_publishes_again(node: Node, client: Client) -> None:
    """A timeout is not "not sent": the repeat sends the same job id, which the consumer knows."""
    job_id = await node.uploaded(client)
    node.queue.loses_confirms = True
    response = await client.post(f"/upload-complete/{job_id}")
    await problem(response, 503, "unavailable")
    assert response.headers["Retry-After"] == "2"
    node.queue.loses_confirms = False
    assert (await client.post(f"/upload-complete/{job_id}")).status == 202
    assert [job.job_id for job in node.queue.published] == [job_id, job_id]


async def test_consumer_that_was_faster_needs_no_second_message(node: Node, client: Client) -> None:
    """When the confirm was lost but the job runs already, the repeat is accepted as it is."""
    job_id = await node.uploaded(client)
    node.queue.loses_confirms = True
    await client.post(f"/upload-complete/{job_id}")
    job = node.queue.published[0]
    await node.progress.begin(job, alone=False, call_id="test")
    await node.progress.announce(job, 1, Stage.FETCHING)
    response = await client.post(f"/upload-complete/{job_id}")
    assert (response.status, (await response.json())["stage"]) == (202, "fetching")
    assert len(node.queue.published) == 1


async def test_accepted_job_whose_first_event_failed_is_mended_by_a_reader(
    node: Node, client: Client
) -> None:
    """202 stands when the log is away; who looks next writes `queued` with the job's deadline."""
    job_id = await node.uploaded(client)

    def break_the_log() -> None:
        node.progress.is_away = True

    node.queue.on_publish = break_the_log
    assert (await client.post(f"/upload-complete/{job_id}")).status == 202
    node.progress.is_away = False
    job = await (await client.get(JOB.format(job_id))).json()
    assert job["stage"] == "queued"
    state = await node.progress.state(job_id)
    assert state
    assert state.left_seconds <= 300


async def test_accepted_job_whose_first_event_failed_does_not_end_with_its_ticket(
    node: Node, client: Client
) -> None:
    """It was uploaded late. Who looks after the ticket's ten minutes, without the record, leaves it alive."""
    job_id = await node.uploaded(client)
    node.clock.advance(500)
    node.queue.on_publish = lambda: setattr(node.progress, "is_away", True)
    assert (await client.post(f"/upload-complete/{job_id}")).status == 202
    node.progress.is_away = False
    node.clock.advance(150)
    state = await node.progress.state(job_id)  # as the timer of an open stream does
    assert state
    assert state.entry.event == "progress"
    assert (await (await client.get(JOB.format(job_id))).json())["stage"] == "queued"


async def test_storage_away_is_503(node: Node, client: Client) -> None:
    """What cannot be looked at is not accepted."""
    job_id = await node.uploaded(client)
    node.uploads.is_away = True
    await problem(await client.post(f"/upload-complete/{job_id}"), 503, "unavailable")


# --- whose job ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/waste/jobs/{}"),
        ("GET", "/api/v1/waste/jobs/{}/events"),
        ("POST", "/upload-complete/{}"),
        ("POST", "/api/v1/waste/jobs/{}/cancel"),
    ],
)
async def test_foreign_unknown_and_malformed_ids_look_alike(
    node: Node, client: Client, method: str, path: str
) -> None:
    """Every call on a job gives the same 404, with and without a session of one's own."""
    job = await node.submitted(client)
    newcomer, stranger = await node.client(), await node.client()
    await node.ticket(stranger)
    malformed = ("42", uuid4().urn, uuid4().hex, "%F0%9F%97%91", "a" * 5000, "..%2f..%2fetc")
    for caller in (newcomer, stranger):
        bodies = []
        for job_id in (job.job_id, uuid4(), *malformed):
            answer = await caller.request(method, path.format(job_id))
            body = await problem(answer, 404, "not_found")
            bodies.append(
                {name: value for name, value in body.items() if name not in ("request_id", "trace_id")}
            )
        assert all(body == bodies[0] for body in bodies)


async def test_upper_case_id_is_the_same_job(node: Node, client: Client) -> None:
    """Some platforms print UUIDs in capitals."""
    job = await node.submitted(client)
    assert (await client.get(JOB.format(str(job.job_id).upper()))).status == 200


# --- read --------------------------------------------------------------------------------------


async def test_job_shows_its_latest_event_and_image(node: Node, client: Client) -> None:
    """The view is the progress event with the image's address; a failure says what to do."""
    job = await node.submitted(client)
    view = await (await client.get(JOB.format(job.job_id))).json()
    assert (view["stage"], view["progress"], view["attempt"]) == ("queued", 10, 1)
    assert view["image_url"] == f"https://cdn.test/{job.job_id}.jpg"
    assert "result" not in view
    await node.progress.finish(job, None, FAILURE)
    view = await (await client.get(JOB.format(job.job_id))).json()
    assert view["failure"] == FAILURE.model_dump()


async def test_known_version_is_not_sent_again(node: Node, client: Client) -> None:
    """A matching ETag gives 304 without body, a new event gives 200 and a new ETag."""
    job = await node.submitted(client)
    first = await client.get(JOB.format(job.job_id))
    etag = first.headers["ETag"]
    assert not etag.startswith("W/")
    same = await client.get(JOB.format(job.job_id), headers={"If-None-Match": f'"other", {etag}'})
    assert (same.status, await same.read(), same.headers["ETag"]) == (304, b"", etag)
    assert same.headers["Cache-Control"] == "private, no-cache"
    await node.progress.cancel(job.job_id)
    new = await client.get(JOB.format(job.job_id), headers={"If-None-Match": etag})
    assert (new.status, new.headers["ETag"] != etag) == (200, True)


async def test_wait_answers_as_soon_as_the_job_ends(node: Node, client: Client) -> None:
    """`Prefer: wait` holds the answer back until the end, whatever stages come before, and says that it was
    heeded."""
    job = await node.submitted(client)
    waiting = asyncio.create_task(client.get(JOB.format(job.job_id), headers={"Prefer": "wait=30"}))
    while not node.feed.subscribed:
        await asyncio.sleep(0.005)
    await node.progress.begin(job, alone=False, call_id="test")
    answered, _ = await asyncio.wait([waiting], timeout=0.2)
    assert not answered
    await node.progress.cancel(job.job_id)
    response = await asyncio.wait_for(waiting, 30)
    assert (await response.json())["stage"] == "cancelled"
    assert response.headers["Preference-Applied"] == "wait=30"
    assert not node.feed.subscribed


async def test_wait_for_a_job_that_is_deleted_meanwhile_finds_none(node: Node, client: Client) -> None:
    """A tombstone is no answer of the API."""
    job = await node.submitted(client)
    waiting = asyncio.create_task(client.get(JOB.format(job.job_id), headers={"Prefer": "wait=30"}))
    while not node.feed.subscribed:
        await asyncio.sleep(0.005)
    assert (await client.delete(JOB.format(job.job_id))).status == 204
    await problem(await waiting, 404, "not_found")


async def test_wait_that_ends_first_shows_the_job_as_it_is(node: Node, client: Client) -> None:
    """After N seconds the present stage is the answer; a minute is the longest wait."""
    job = await node.submitted(client)
    response = await client.get(JOB.format(job.job_id), headers={"Prefer": "respond-async, wait=1"})
    assert ((await response.json())["stage"], response.status) == ("queued", 200)
    await node.progress.cancel(job.job_id)
    ended = await client.get(JOB.format(job.job_id), headers={"Prefer": "wait=9999"})
    assert ended.headers["Preference-Applied"] == "wait=60"


async def test_wait_takes_one_of_the_sessions_streams(start: Start) -> None:
    """It costs as much, and is refused as one where there are too many; a read that does not wait is not."""
    node = await start(max_streams_per_session=1)
    client = await node.client()
    job = await node.submitted(client)
    async with client.get(f"{JOB.format(job.job_id)}/events"):
        refused = await client.get(JOB.format(job.job_id), headers={"Prefer": "wait=1"})
        await problem(refused, 429, "too_many_streams")
        assert (await client.get(JOB.format(job.job_id))).status == 200


async def test_reader_expires_what_is_due(node: Node, client: Client) -> None:
    """A job that no consumer took ends when somebody looks after its deadline."""
    job = await node.submitted(client)
    node.clock.advance(301)
    view = await (await client.get(JOB.format(job.job_id))).json()
    assert view["stage"] == "expired"


# --- list and cancel ---------------------------------------------------------------------------


async def test_jobs_are_listed_newest_first_in_pages(node: Node, client: Client) -> None:
    """Each page ends with the cursor of the next; another session sees nothing of it."""
    made = [str(await node.uploaded(client)) for _ in range(5)]
    await node.ticket(await node.client())
    listed: list[str] = []
    cursor = ""
    while cursor is not None:
        page = await (await client.get(f"/api/v1/waste/jobs?limit=2{cursor}")).json()
        assert len(page["jobs"]) <= 2
        listed += [job["job_id"] for job in page["jobs"]]
        cursor = page["next_cursor"] and f"&cursor={page['next_cursor']}"
    assert listed == made[::-1]
    assert (await (await client.get("/api/v1/waste/jobs?limit=5")).json())["next_cursor"] is None
    newcomer = await node.client()
    assert await (await newcomer.get("/api/v1/waste/jobs")).json() == {"jobs": [], "next_cursor": None}


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=51", "limit=x", "limit=", "cursor=x", f"cursor={uuid4()}"]
)
async def test_unusable_page_is_refused(node: Node, client: Client, query: str) -> None:
    """A limit is 1 to 50, a cursor comes from a page."""
    await node.ticket(client)
    await problem(await client.get(f"/api/v1/waste/jobs?{query}"), 400, "bad_request")


async def test_cancel_is_asked_and_the_terminal_event_says_who_won(node: Node, client: Client) -> None:
    """202 also when the job had ended: the ask changes nothing then."""
    job = await node.submitted(client)
    for _ in range(2):
        response = await client.post(JOB.format(job.job_id) + "/cancel")
        assert (response.status, await response.json()) == (202, {"job_id": str(job.job_id), "asked": True})
        state = await node.progress.state(job.job_id)
        assert state
        assert state.entry.event == "cancelled"


async def test_another_gateway_knows_everything(start: Start, node: Node, client: Client) -> None:
    """Nothing is kept in a process: the next gateway continues where this one stood."""
    job_id = await node.uploaded(client)
    token = next(cookie.value for cookie in client.session.cookie_jar)
    other = await (await start(beside=node)).client()
    bearer = {"Authorization": f"Bearer {token}"}
    assert (await other.post(f"/upload-complete/{job_id}", headers=bearer)).status == 202
    assert (await client.post(f"/upload-complete/{job_id}")).status == 202
    assert len(node.queue.published) == 1


# --- delete ------------------------------------------------------------------------------------


async def test_deleted_job_is_gone_for_its_owner_too(node: Node, client: Client) -> None:
    """204, and again 204; every other call answers as if the job had never been."""
    job = await node.submitted(client)
    for _ in range(2):
        assert (await client.delete(JOB.format(job.job_id))).status == 204
    await problem(await client.get(JOB.format(job.job_id)), 404, "not_found")
    await problem(await client.get(JOB.format(job.job_id) + "/events"), 404, "not_found")
    await problem(await client.post(f"/upload-complete/{job.job_id}"), 404, "not_found")
    assert (await (await client.get("/api/v1/waste/jobs")).json())["jobs"] == []


async def test_deletion_that_cannot_be_promised_is_refused(node: Node, client: Client) -> None:
    """503 while Redis is away: neither tombstone nor agenda were written. The owner asks again."""
    job = await node.submitted(client)
    node.progress.is_away = True
    await problem(await client.delete(JOB.format(job.job_id)), 503, "unavailable")
    node.progress.is_away = False
    assert (await client.get(JOB.format(job.job_id))).status == 200
    assert (await client.delete(JOB.format(job.job_id))).status == 204


async def test_strangers_job_cannot_be_deleted(node: Node, client: Client) -> None:
    """For anyone but its owner the job does not exist."""
    job = await node.submitted(client)
    stranger = await node.client()
    await node.ticket(stranger)
    await problem(await stranger.delete(JOB.format(job.job_id)), 404, "not_found")
    assert (await client.get(JOB.format(job.job_id))).status == 200
