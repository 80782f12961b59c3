"""One photo from ticket to advice."""

from __future__ import annotations

import asyncio
import io
import re
from datetime import datetime
from uuid import UUID

import aiohttp
from PIL import Image

from tests.e2e.client import TERMINAL, Client, Event
from tests.e2e.photos import COFFEE_CUP, drawn, with_secrets
from tests.e2e.system import System
from tests.heic_files import phone_heic

STORY = ["awaiting_upload", "queued", "fetching", "analysing", "advising", "done"]
CATEGORIES = {
    *("recyclable", "general", "non_combustible", "food"),
    *("bulky", "construction", "hazardous", "unclassified"),
}
MATERIALS = {
    *("paper", "carton", "clear_pet", "plastics", "film", "foam"),
    *("glass", "metals", "textiles", "batteries", "lamps", "e_waste"),
}
RESULT_FIELDS = {
    *("job_id", "image_url", "locale", "waste_type", "items", "answer", "sure"),
    *("certainty", "ask_back", "model", "answered_by", "usage", "photo", "timings_ms", "analysed_at"),
}
ITEM_FIELDS = {
    *("name", "category", "material", "confidence", "recyclable", "condition"),
    *("bin", "steps", "cautions", "rule"),
}


async def collected(client: Client, job_id: str) -> list[Event]:
    return [event async for event in client.events(job_id)]


async def test_real_photo_with_the_first_clients_calls_goes_through_each_stage_once(client: Client) -> None:
    """The calls of the first client bring a real photo through every stage, once and in order."""
    ticket = await client.analyze()
    watching = asyncio.create_task(collected(client, ticket["job_id"]))
    assert await client.put(ticket, COFFEE_CUP.read_bytes()) == 200
    accepted = await client.complete(ticket["job_id"])
    events = await watching

    assert accepted.status == 202
    assert [event.data["stage"] for event in events] == STORY
    assert [event.data["seq"] for event in events] == list(
        range(events[0].data["seq"], events[0].data["seq"] + 6)
    )
    assert [event.name for event in events] == ["progress"] * 5 + ["done"]
    percents = [event.data["progress"] for event in events]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert {event.data["job_id"] for event in events} == {ticket["job_id"]}
    assert {event.data["attempt"] for event in events[2:]} == {1}
    assert len({event.id for event in events}) == 6
    assert all(2000 <= (event.retry or 0) <= 4000 for event in events)


async def test_ticket_and_acceptance_tell_where_to_go_next(client: Client) -> None:
    """A ticket names upload, image and links; the 202 names the job and where to look for it."""
    ticket = await client.analyze()
    assert UUID(ticket["job_id"]).version == 4
    assert ticket["upload_method"] == "PUT"
    assert ticket["expires_in"] == 300
    assert ticket["image_url"].endswith(f"/{ticket['job_id']}.jpg")
    assert set(ticket["links"]) == {"upload_complete", "self", "events"}

    await client.put(ticket, drawn("JPEG"))
    accepted = await client.complete(ticket["job_id"])
    assert accepted.body["job_id"] == ticket["job_id"]
    assert accepted.body["stage"] == "queued"
    assert int(accepted.headers["Retry-After"]) >= 0
    assert accepted.headers["Location"].endswith(f"/api/v1/waste/jobs/{ticket['job_id']}")
    assert accepted.body["links"] == ticket["links"]

    again = await client.complete(ticket["job_id"])
    assert (again.status, again.body["job_id"], again.body["links"]) == (
        202,
        ticket["job_id"],
        ticket["links"],
    )
    await client.result(ticket["job_id"])


async def test_real_photo_names_the_object_and_tells_what_to_do(client: Client) -> None:
    """The example photo is recognised as a cup, and the result has every field the API promises."""
    photo = COFFEE_CUP.read_bytes()
    job_id = await client.submit(photo, locale="en")
    result = await client.result(job_id)

    assert set(result) == RESULT_FIELDS
    assert result["job_id"] == job_id
    assert result["locale"] == "en"
    assert (result["sure"], result["certainty"], result["ask_back"]) == (True, "sure", None)
    assert re.search(r"cup|mug|espresso", result["waste_type"], re.IGNORECASE)
    assert result["waste_type"] == result["items"][0]["name"]
    for item in result["items"]:
        assert set(item) == ITEM_FIELDS
        assert item["category"] in CATEGORIES
        assert item["material"] in {*MATERIALS, None}
        assert 0 <= item["confidence"] <= 1
        assert item["bin"]
        assert item["steps"]
        assert set(item["rule"]) == {"id", "title", "source", "as_of"}
    assert result["photo"]["bytes"] == len(photo)
    told = {
        "input_tokens",
        "cached_tokens",
        "picture_tokens",
        "output_tokens",
        "reasoning_tokens",
        "cost_usd",
    }
    assert set(result["usage"]) == told
    timings = result["timings_ms"]
    assert set(timings) == {"queue", "fetch", "prepare", "analyse", "total"}
    assert max(timings.values()) == timings["total"] > 0
    assert datetime.fromisoformat(result["analysed_at"]).tzinfo is not None

    job = await client.job(job_id)
    assert job.status == 200
    assert (job.body["stage"], job.body["progress"], job.body["result"]) == ("done", 100, result)


async def test_png_and_webp_go_through(client: Client) -> None:
    """PNG and WebP are taken; what is shown is a JPEG."""
    for image_format, content_type in (("PNG", "image/png"), ("WEBP", "image/webp")):
        photo = drawn(image_format)
        job_id = await client.submit(photo, content_type=content_type, content_length=len(photo))
        result = await client.result(job_id)
        assert result["image_url"].endswith(f"/{job_id}.jpg")
        assert result["photo"]["bytes"] == len(photo)


async def test_a_phones_heic_goes_through_and_is_shown_as_an_upright_jpeg(client: Client) -> None:
    """Under either of its names; a grid of tiles that lies on its side, with Exif."""
    photo = phone_heic(8, 6, width=4032, height=3024, turns=3, exif=b"MM\0*\0\0\0\x08\0\0")
    for declared in ("image/heic", "image/heif"):
        job_id = await client.submit(photo, content_type=declared, content_length=len(photo))
        result = await client.result(job_id)
        async with aiohttp.ClientSession() as anybody, anybody.get(result["image_url"]) as response:
            assert response.content_type == "image/jpeg"
            picture = Image.open(io.BytesIO(await response.read()))
        assert (picture.format, picture.size) == ("JPEG", (768, 1024))


async def test_public_copy_is_upright_and_tells_nothing_of_camera_or_place(client: Client) -> None:
    """After `done` the image address serves the clean copy: turned upright, no EXIF, GPS or comment."""
    job_id = await client.submit(with_secrets(400, 300))
    result = await client.result(job_id)

    async with aiohttp.ClientSession() as anybody, anybody.get(result["image_url"]) as response:
        public = await response.read()
        assert response.status == 200
        assert response.content_type == "image/jpeg"
        assert "max-age=86400" in response.headers["Cache-Control"]
    picture = Image.open(io.BytesIO(public))
    assert picture.size == (300, 400)
    assert dict(picture.getexif()) == {}
    assert b"Telltale" not in public
    assert b"taken at home" not in public


async def test_raw_upload_is_closed_to_everybody_without_the_readers_secret(
    client: Client, system: System
) -> None:
    """The CDN serves incoming/ to nobody but the consumer, and S3 to nobody without a signature."""
    job_id = await client.submit(drawn("JPEG"))
    await client.result(job_id)
    raw = f"incoming/{job_id}"
    bucket = f"{system.settings['S3_ENDPOINT_URL']}/{system.settings['S3_BUCKET_NAME']}"
    async with aiohttp.ClientSession() as anybody:
        for url in (f"{system.settings['CDN_BASE_URL']}/{raw}", f"{bucket}/{raw}", f"{bucket}/{job_id}.jpg"):
            async with anybody.get(url) as response:
                assert response.status == 403, url


async def test_declared_upload_is_held_to_its_word(client: Client) -> None:
    """What the ticket was asked for is bound into its signature; a second PUT does not overwrite."""
    photo = drawn("PNG")
    ticket = await client.analyze(content_type="image/png", content_length=len(photo))
    as_jpeg = {**ticket, "upload_headers": {**ticket["upload_headers"], "Content-Type": "image/jpeg"}}
    assert await client.put(as_jpeg, photo) == 403
    assert await client.put(ticket, photo + b"more", "image/png") == 403
    assert await client.put(ticket, photo, "image/png") == 200
    assert await client.put(ticket, photo, "image/png") == 412
    assert (await client.complete(ticket["job_id"])).status == 202
    await client.result(ticket["job_id"])


async def test_several_photos_at_once_each_end_once(client: Client) -> None:
    """Jobs that run side by side do not mix: each stream is whole and ends in one terminal event."""
    await client.analyze()  # so that all have one session
    jobs = await asyncio.gather(*(client.submit(drawn("JPEG")) for _ in range(4)))
    for job_id, events in zip(
        jobs, await asyncio.gather(*(collected(client, job) for job in jobs)), strict=True
    ):
        assert [event.data["stage"] for event in events] == STORY
        assert {event.data["job_id"] for event in events} == {job_id}
        assert [event.name in TERMINAL for event in events] == [False] * 5 + [True]
