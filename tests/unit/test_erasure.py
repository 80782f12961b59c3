"""What a DELETE has promised is kept, whoever leaves, dies or is away: gateways on fakes."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from growbin.gateway.erasure import names_of
from growbin.job import CleanPhoto, Job
from tests.unit.conftest import Start
from tests.unit.gateway_node import JPEG, Client, Node

JOB = "/api/v1/waste/jobs/{}"
CLAIM_SECONDS = 20


async def shown(node: Node, client: Client) -> Job:
    """A job whose photo is public, and at the CDN."""
    job = await node.submitted(client)
    await node.uploads.publish_photo(job.public_key, CleanPhoto(b"clean", "image/jpeg", 1, 1), 60)
    assert node.photo_cache.read(job.public_key, node.uploads) == b"clean"
    return job


async def test_deletion_takes_everything_at_once(node: Node, client: Client) -> None:
    """Both photos, the CDN's copy by one invalidation, though somebody looks at that moment, the record; what
    is left to do is two passes more."""
    job = await shown(node, client)
    node.photo_cache.popular = node.uploads
    assert (await client.delete(JOB.format(job.job_id))).status == 204
    await node.erased()
    assert not node.uploads.objects
    assert [set(keys) for keys in node.photo_cache.forgotten] == [{job.key, job.public_key}]
    assert node.photo_cache.read(job.public_key, node.uploads) is None
    assert job.job_id not in node.records.uploads
    assert sorted(node.progress.agenda.entries) == [f"{job.job_id} 2", f"{job.job_id} 3"]


async def test_what_lands_late_goes_with_the_next_pass(node: Node, client: Client) -> None:
    """A consumer's late put goes 30 s later, an old ticket's upload with the last pass, each with an
    invalidation of its own."""
    job = await shown(node, client)
    assert (await client.delete(JOB.format(job.job_id))).status == 204
    await node.erased()
    await node.uploads.publish_photo(job.public_key, CleanPhoto(b"late", "image/jpeg", 1, 1), 60)
    node.clock.advance(31)
    await node.erased()
    assert (len(node.photo_cache.forgotten), node.uploads.objects) == (2, {})
    node.uploads.put(job.key, JPEG)
    assert (await client.post(f"/upload-complete/{job.job_id}")).status == 404
    node.clock.advance(270)
    await node.erased()
    assert (len(node.photo_cache.forgotten), node.uploads.objects) == (3, {})
    assert not node.progress.agenda.entries


async def test_pass_that_finds_nothing_tells_the_cdn_nothing(node: Node, client: Client) -> None:
    """A deletion may be repeated as often as one likes: an invalidation costs money."""
    job = await shown(node, client)
    for _ in range(3):
        assert (await client.delete(JOB.format(job.job_id))).status == 204
        await node.erased()
    node.clock.advance(301)
    await node.erased()
    assert len(node.photo_cache.forgotten) == 1


@pytest.mark.parametrize("away", ["uploads", "photo_cache", "records"])
async def test_deletion_is_finished_once_the_absent_part_is_back(
    node: Node, client: Client, away: str
) -> None:
    """204 all the same: the agenda remembers. As nobody knows what the first try had deleted, the CDN is told
    of every name."""
    job = await shown(node, client)
    getattr(node, away).is_away = True
    assert (await client.delete(JOB.format(job.job_id))).status == 204 if away != "records" else True
    if away == "records":
        await node.eraser.promise(job.job_id, job.owner)
    await asyncio.sleep(0.1)
    getattr(node, away).is_away = False
    node.clock.advance(CLAIM_SECONDS + 1)
    await node.erased()
    assert not node.uploads.objects
    assert node.photo_cache.forgotten[-1] == names_of(job.job_id)
    assert node.photo_cache.read(job.public_key, node.uploads) is None


@pytest.mark.parametrize("suffix", ["", ".jpg", ".png", ".webp"])
async def test_deletion_reaches_the_photo_under_every_shape_of_key(
    node: Node, client: Client, suffix: str
) -> None:
    """Whichever version gave it its key."""
    job = await node.submitted(client)
    for key in (f"incoming/{job.job_id}{suffix}", f"{job.job_id}{suffix or '.jpg'}"):
        node.uploads.put(key, JPEG)
    assert (await client.delete(JOB.format(job.job_id))).status == 204
    await node.erased()
    assert not node.uploads.objects


async def test_caller_that_leaves_stops_no_deletion(node: Node, client: Client) -> None:
    """Its handler is cancelled; what it asked for is not."""
    job = await shown(node, client)
    asking = asyncio.create_task(node.eraser.promise(job.job_id, job.owner))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    async with asyncio.timeout(30):
        while node.uploads.objects:
            await asyncio.sleep(0.01)
    assert (await client.get(JOB.format(job.job_id))).status == 404


async def test_deletion_of_a_gateway_that_died_is_finished_by_another(start: Start) -> None:
    """It had claimed the pass, deleted from S3, and told the CDN nothing."""
    node = await start()
    client = await node.client()
    job = await shown(node, client)
    await node.stop()  # from here on nobody works on the agenda
    await node.progress.erase(job.job_id, job.owner)
    assert len(await node.progress.agenda.claim(10)) == 1
    for key in list(node.uploads.objects):
        await node.uploads.delete(key)
    node.clock.advance(CLAIM_SECONDS + 1)
    other = await start(beside=node)
    await other.erased()
    assert node.photo_cache.read(job.public_key, node.uploads) is None


async def test_deletion_of_one_hundred_jobs_is_worked_off(node: Node, client: Client) -> None:
    """More than are taken at once, without a pause between."""
    jobs = [await node.submitted(client) for _ in range(40)]
    for job in jobs:
        await node.eraser.promise(UUID(str(job.job_id)), job.owner)
    await node.erased()
    assert not node.uploads.objects
