"""What its owner deletes is gone: photo, result, progress, and the CDN's copy within a minute."""

from __future__ import annotations

import asyncio
import time

import aiohttp
from redis.asyncio import Redis

from tests.e2e.client import Client
from tests.e2e.photos import drawn
from tests.e2e.system import System

CDN_SECONDS = 60


async def test_deleted_job_leaves_nothing_but_a_tombstone(client: Client, system: System) -> None:
    """204 twice, 404 everywhere, no key but the result's tombstone, and no photo at the CDN."""
    job_id = await client.submit(drawn("JPEG"))
    result = await client.result(job_id)
    async with aiohttp.ClientSession() as cdn:
        async with cdn.get(str(result["image_url"])) as shown:
            assert shown.status == 200
        for _ in range(2):
            assert (await client.call("DELETE", f"/api/v1/waste/jobs/{job_id}")).status == 204
        deadline = time.monotonic() + CDN_SECONDS
        while True:
            async with cdn.get(str(result["image_url"])) as hidden:
                if hidden.status in (403, 404):
                    break
            assert time.monotonic() < deadline, "the CDN still serves the photo"
            await asyncio.sleep(1)
    assert (await client.job(job_id)).status == 404
    assert (await client.complete(job_id)).status == 404
    while (left := await keys_of(system, job_id)) != [f"job:{{{job_id}}}:result"]:
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.1)


async def keys_of(system: System, job_id: str) -> list[str]:
    left = []
    for database in (0, 2):
        async with Redis.from_url(f"{system.settings['REDIS_URL'].rstrip('/')}/{database}") as redis:
            left += [key.decode() async for key in redis.scan_iter(match=f"job:{{{job_id}}}*")]
    return left


async def test_job_deleted_in_its_course_ends_for_its_stream(client: Client) -> None:
    """A stream that is open when its job is deleted ends with one terminal event."""
    job_id = await client.submit(drawn("JPEG"))
    events = client.events(job_id)
    stages = [(await anext(events)).data["stage"]]
    assert (await client.call("DELETE", f"/api/v1/waste/jobs/{job_id}")).status == 204
    stages += [event.data["stage"] async for event in events]
    ends = [stage for stage in stages if stage in ("done", "failed", "cancelled", "expired")]
    assert len(ends) == 1
    assert stages[-1] in ("cancelled", "done")  # whichever was first
