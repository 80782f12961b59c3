"""What people say of an answer is counted once, and kept of nobody."""

from __future__ import annotations

from uuid import UUID

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from growbin.job import Failure, Job, Result
from tests.unit.gateway_node import Client, Node, problem


def counted(verdict: str, certainty: str) -> float:
    labels = {"verdict": verdict, "certainty": certainty}
    value = REGISTRY.get_sample_value("growbin_feedback_total", labels)
    assert value is not None  # it begins at 0: an increase over a missing value is not seen
    return value


async def done(node: Node, client: Client, **fields: object) -> Job:
    job = await node.submitted(client)
    result = {
        "job_id": job.job_id,
        "image_url": "https://cdn.test/a.jpg",
        "locale": "ko",
        "waste_type": "병",
        "items": [],
        "answer": None,
        "sure": True,
        "certainty": "sure",
        "ask_back": None,
        "model": "test",
        "usage": {},
        "photo": {"source": "s3", "cache": None, "bytes": 1},
        "timings_ms": dict.fromkeys(("queue", "fetch", "prepare", "analyse", "total"), 1),
        "analysed_at": "2026-01-01T00:00:00.000Z",
    }
    await node.progress.finish(job, None, Result.model_validate(result | fields))
    return job


def path(job_id: UUID) -> str:
    return f"/api/v1/waste/jobs/{job_id}/feedback"


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ({"right": True}, "right"),
        ({"right": False}, "wrong"),
        ({"right": False, "category": "recyclable", "material": "glass"}, "corrected"),
        ({"right": False, "category": "food", "material": None}, "corrected"),
    ],
)
async def test_feedback_is_counted_once(
    node: Node, client: Client, body: dict[str, object], verdict: str
) -> None:
    """A repetition is well received and not counted, whatever it says."""
    job = await done(node, client)
    before = counted(verdict, "sure")
    for said in (body, body, {"right": True}):
        answer = await client.post(path(job.job_id), json=said)
        assert (answer.status, await answer.read()) == (204, b"")
    assert counted(verdict, "sure") == before + 1


async def test_what_was_said_stands_in_no_log(node: Node, client: Client) -> None:
    """A line of a log names the job, and with it the person."""
    job = await done(node, client)
    with capture_logs() as lines:
        body = {"right": False, "category": "hazardous"}
        assert (await client.post(path(job.job_id), json=body)).status == 204
    assert not any(word in str(lines) for word in ("hazardous", "corrected"))


@pytest.mark.parametrize(
    ("fields", "certainty"),
    [
        ({"sure": False, "certainty": "probable"}, "probable"),
        ({"sure": False, "certainty": "unsure"}, "unsure"),
        ({"sure": False, "certainty": None}, "unsure"),
        ({"sure": True, "certainty": None}, "sure"),
    ],
)
async def test_feedback_is_counted_by_what_the_answer_said_of_itself(
    node: Node, client: Client, fields: dict[str, object], certainty: str
) -> None:
    """Whether "sure" was right is what an operator wants to know; earlier results said only that."""
    job = await done(node, client, **fields)
    before = counted("right", certainty)
    await client.post(path(job.job_id), json={"right": True})
    assert counted("right", certainty) == before + 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "right"),
        ({"right": "yes"}, "right"),
        ({"right": True, "category": "food"}, "go with `right: false`"),
        ({"right": False, "material": "glass"}, "goes with a `category`"),
        ({"right": False, "category": "compost"}, "'recyclable', 'general'"),
        ({"right": True, "name": "me"}, "name"),
    ],
)
async def test_feedback_that_says_nothing_clear_is_refused(
    node: Node, client: Client, body: dict[str, object], words: str
) -> None:
    """With what is allowed; the job may still be judged."""
    job = await done(node, client)
    refused = await problem(await client.post(path(job.job_id), json=body), 400, "bad_request")
    assert words in refused["detail"]
    before = counted("right", "sure")
    await client.post(path(job.job_id), json={"right": True})
    assert counted("right", "sure") == before + 1


async def test_only_an_answer_can_be_judged(node: Node, client: Client) -> None:
    """Neither a job that goes on nor one that failed."""
    running = await node.submitted(client)
    await problem(await client.post(path(running.job_id), json={"right": True}), 409, "not_done")
    failure = Failure(code="photo_missing", detail="Send it again.", retryable=True)
    await node.progress.finish(running, None, failure)
    await problem(await client.post(path(running.job_id), json={"right": True}), 409, "not_done")


async def test_only_its_owner_judges_a_job(node: Node, client: Client) -> None:
    """For anybody else, and after a deletion, it is not there."""
    job = await done(node, client)
    stranger = await node.client()
    await problem(await stranger.post(path(job.job_id), json={"right": True}), 404, "not_found")
    assert (await client.delete(f"/api/v1/waste/jobs/{job.job_id}")).status == 204
    await problem(await client.post(path(job.job_id), json={"right": True}), 404, "not_found")
