"""Where the consumer reads the photo: the CDN, and S3 when the CDN fails."""

from __future__ import annotations

import aiohttp

from tests.e2e.client import Client, browsing
from tests.e2e.photos import drawn
from tests.e2e.system import System, free_port, running_system


async def test_photo_is_read_through_the_cdn(client: Client) -> None:
    """As long as the CDN works, the photo comes from it."""
    photo, result = await client.read_through_the_cdn()
    assert result["photo"] == {"source": "cdn", "cache": "miss", "bytes": len(photo)}


async def test_cdn_that_kept_a_404_from_before_the_upload_is_passed_over(
    client: Client, system: System
) -> None:
    """The CDN remembers for a while that the photo was not there; the job still ends `done`, from S3."""
    ticket = await client.analyze()
    raw_url = f"{system.settings['CDN_BASE_URL']}/incoming/{ticket['job_id']}"
    reader = {"X-Growbin-Reader": system.settings["CDN_READER_SECRET"]}
    async with aiohttp.ClientSession(headers=reader) as http:
        async with http.get(raw_url) as before:
            assert before.status in (403, 404)
        assert await client.put(ticket, drawn("JPEG")) == 200
        async with http.get(raw_url) as kept:
            assert kept.status == before.status, "the CDN did not keep the answer"
    assert (await client.complete(ticket["job_id"])).status == 202
    result = await client.result(ticket["job_id"])
    assert result["photo"]["source"] == "s3"


async def test_stopped_cdn_is_passed_over(parts: dict[str, str]) -> None:
    """When nobody listens at the CDN's address, the photo comes from S3."""
    nobody = f"http://127.0.0.1:{free_port()}"
    async with running_system(parts, CDN_BASE_URL=nobody) as system, browsing(system.base_url) as client:
        result = await client.result(await client.submit(drawn("JPEG")))
        assert result["photo"]["source"] == "s3"
        assert result["photo"]["cache"] is None


async def test_disabled_cdn_is_not_asked(parts: dict[str, str]) -> None:
    """With CDN_ENABLED=false the photo comes from S3 although the CDN would have it."""
    async with running_system(parts, CDN_ENABLED="false") as system, browsing(system.base_url) as client:
        result = await client.result(await client.submit(drawn("JPEG")))
        assert result["photo"]["source"] == "s3"
