"""A finished job is answered from what was kept: the model is never asked twice."""

from __future__ import annotations

import time

from redis.asyncio import Redis

from tests.e2e.client import Client
from tests.e2e.photos import drawn
from tests.e2e.system import System

ANSWER_SECONDS = 1.0 + 4.0  # what is promised, and what a busy machine may add


async def ask_again(client: Client, job_id: str, result: dict[str, object]) -> None:
    """Both ways of asking give the same end, within a second each."""
    begin = time.monotonic()
    accepted = await client.complete(job_id)
    between = time.monotonic()
    job = await client.job(job_id)
    end = time.monotonic()
    assert (accepted.status, accepted.body["job_id"], accepted.body["stage"]) == (202, job_id, "done")
    assert (job.status, job.body["stage"], job.body["result"]) == (200, "done", result)
    assert between - begin < ANSWER_SECONDS
    assert end - between < ANSWER_SECONDS


async def forget(redis_url: str, database: int, *keys: str) -> None:
    """Let keys expire now, as their lives would end by themselves."""
    async with Redis.from_url(f"{redis_url.rstrip('/')}/{database}") as redis:
        for key in keys:
            assert await redis.pexpire(key, 0), f"{key} did not exist"


async def test_asking_again_for_a_finished_job_never_calls_the_model(client: Client, system: System) -> None:
    """Right after the end, after the record's 24 h and after the log's hour: one model call in all."""
    before = system.model.calls
    job_id = await client.submit(drawn("JPEG"))
    result = await client.result(job_id)
    assert system.model.calls == before + 1

    await ask_again(client, job_id, result)
    await forget(system.settings["REDIS_URL"], 2, f"job:{{{job_id}}}:progress", f"job:{{{job_id}}}:events")
    await ask_again(client, job_id, result)
    await forget(system.settings["REDIS_URL"], 0, f"job:{{{job_id}}}")
    await ask_again(client, job_id, result)
    assert system.model.calls == before + 1


async def test_result_is_kept_for_seven_days(client: Client, system: System) -> None:
    """The result outlives record and log by days."""
    job_id = await client.submit(drawn("JPEG"))
    await client.result(job_id)
    async with Redis.from_url(f"{system.settings['REDIS_URL'].rstrip('/')}/2") as redis:
        assert 7 * 86_400 - 60 < await redis.ttl(f"job:{{{job_id}}}:result") <= 7 * 86_400


async def test_stream_of_a_job_whose_log_has_expired_tells_the_end(client: Client, system: System) -> None:
    """When only the result is left, a new stream and one with an old id both end in `done`."""
    job_id = await client.submit(drawn("JPEG"))
    result = await client.result(job_id)
    last = [event async for event in client.events(job_id)][-2]
    await forget(system.settings["REDIS_URL"], 2, f"job:{{{job_id}}}:progress", f"job:{{{job_id}}}:events")
    await forget(system.settings["REDIS_URL"], 0, f"job:{{{job_id}}}")

    assert await client.result(job_id) == result
    events = [event async for event in client.events(job_id, last.id)]
    assert events[0].name == "reset"
    assert (events[-1].name, events[-1].data["result"]) == ("done", result)


async def test_result_stays_foreign_to_strangers_after_the_record_has_gone(
    client: Client, stranger: Client, system: System
) -> None:
    """Ownership is then read from the result."""
    job_id = await client.submit(drawn("JPEG"))
    await client.result(job_id)
    await stranger.analyze()
    await forget(system.settings["REDIS_URL"], 0, f"job:{{{job_id}}}")
    assert (await stranger.job(job_id)).status == 404
    assert (await stranger.complete(job_id)).status == 404
    assert (await client.job(job_id)).status == 200
