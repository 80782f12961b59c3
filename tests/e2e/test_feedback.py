"""What people say of an answer: counted once a job, by its owner alone, and kept of nobody."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import uuid4

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from tests.e2e.client import Answer, Client
from tests.e2e.photos import drawn
from tests.e2e.system import System

WRONG = {"right": False, "category": "hazardous"}


async def say(client: Client, job_id: object, body: Mapping[str, object] | None) -> Answer:
    return await client.call("POST", f"/api/v1/waste/jobs/{job_id}/feedback", body=body)


async def counted(system: System) -> dict[tuple[str, str], float]:
    """What the gateway's probe port tells of feedback, by verdict and certainty."""
    async with aiohttp.ClientSession() as http, http.get(f"{system.probe_url}/metrics") as answer:
        families = list(text_string_to_metric_families(await answer.text()))
    return {
        (sample.labels["verdict"], sample.labels["certainty"]): sample.value
        for family in families
        for sample in family.samples
        if sample.name == "growbin_feedback_total"
    }


async def counted_since(system: System, before: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    now = await counted(system)
    assert len(now) == 9  # each begins at 0, so that the first is an increase
    return {labels: value - before[labels] for labels, value in now.items() if value != before[labels]}


async def kept(system: System, job_id: str) -> dict[str, str]:
    """All that Redis knows of a job's progress, as text."""
    found: dict[str, str] = {}
    url = f"{system.settings['REDIS_URL'].rstrip('/')}/2"
    async with Redis.from_url(url, decode_responses=True) as redis:
        async for key in redis.scan_iter(match=f"job:{{{job_id}}}*"):
            match await redis.type(key):
                case "hash":
                    found[str(key)] = str(await redis.hgetall(key))
                case "list":
                    found[str(key)] = str(await redis.lrange(key, 0, -1))
                case _:
                    found[str(key)] = str(await redis.get(key))
    return found


@pytest.mark.parametrize(
    ("body", "verdict"), [({"right": True}, "right"), (WRONG, "corrected"), ({"right": False}, "wrong")]
)
async def test_feedback_is_counted_once_with_the_answers_certainty(
    client: Client, system: System, body: dict[str, object], verdict: str
) -> None:
    """Repeated, also with other words, it is well received and changes nothing."""
    job_id = await client.submit(drawn("JPEG"))
    result = await client.result(job_id)
    before = await counted(system)
    for said in (body, body, {"right": True}):
        answer = await say(client, job_id, said)
        assert (answer.status, answer.body) == (204, "")
    assert await counted_since(system, before) == {(verdict, result["certainty"]): 1}


async def test_feedback_leaves_a_mark_without_its_words_and_goes_with_the_job(
    client: Client, system: System
) -> None:
    """What the owner chose is stored nowhere. After the deletion the mark is gone as well, and the job."""
    job_id = await client.submit(drawn("JPEG"))
    await client.result(job_id)
    before = await kept(system, job_id)
    assert (await say(client, job_id, WRONG)).status == 204
    after = await kept(system, job_id)
    changed = {key: value for key, value in after.items() if value != before.get(key)}
    assert len(changed) == 1
    assert not any("hazardous" in value or "corrected" in value for value in changed.values())
    assert (await client.call("DELETE", f"/api/v1/waste/jobs/{job_id}")).status == 204
    assert (await kept(system, job_id)).keys() == {f"job:{{{job_id}}}:result"}
    assert (await say(client, job_id, WRONG)).status == 404


async def test_only_its_owner_says_something_of_a_job(
    client: Client, stranger: Client, system: System
) -> None:
    """For anybody else it is as if it were not there, and nothing is counted."""
    job_id = await client.submit(drawn("JPEG"))
    await client.result(job_id)
    before = await counted(system)
    newcomers = await say(stranger, job_id, {"right": True})
    await stranger.analyze()
    foreign = await say(stranger, job_id, {"right": True})
    unknown = await say(stranger, uuid4(), {"right": True})
    for answer in (newcomers, foreign, unknown):
        assert (answer.status, answer.body["code"]) == (404, "not_found")
        assert answer.body["detail"] == unknown.body["detail"]
    assert await counted_since(system, before) == {}
    assert (await say(client, job_id, {"right": True})).status == 204


async def test_only_an_answer_can_be_judged(client: Client, system: System) -> None:
    """A job without its photo, and one that was cancelled, has none."""
    job_id = (await client.analyze())["job_id"]
    before = await counted(system)
    for _ in range(2):
        refused = await say(client, job_id, {"right": True})
        assert (refused.status, refused.body["code"]) == (409, "not_done")
        assert (await client.call("POST", f"/api/v1/waste/jobs/{job_id}/cancel")).status == 202
    assert await counted_since(system, before) == {}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (None, "right: Field required"),
        ({"right": "yes"}, "right"),
        ({"right": False, "category": "compost"}, "'recyclable', 'general'"),
        ({"right": True, "category": "food"}, "go with `right: false`"),
        ({"right": True, "comment": "thanks"}, "comment"),
    ],
)
async def test_feedback_that_says_nothing_clear_is_refused(
    client: Client, body: dict[str, object] | None, words: str
) -> None:
    """400 with what is allowed, before anything is counted."""
    job_id = (await client.analyze())["job_id"]
    refused = await say(client, job_id, body)
    assert (refused.status, refused.body["code"]) == (400, "bad_request")
    assert words in refused.body["detail"]
