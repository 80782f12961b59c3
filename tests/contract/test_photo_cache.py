"""The CDN's copies of photos, on a real nginx and as the fake: one suite for both."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from uuid import uuid4

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from growbin.adapters.photos.photo_cache import CdnPhotoCache
from growbin.adapters.photos.upload_store import S3UploadStore
from growbin.errors import Unavailable
from growbin.job import CleanPhoto
from growbin.ports import PhotoCache, UploadStore
from tests.fakes import FakePhotoCache, FakeUploadStore

YEAR_SECONDS = 365 * 24 * 3600


@dataclass(frozen=True)
class Cdn:
    """A cache, the store behind it, and what a browser is given."""

    cache: PhotoCache
    store: UploadStore
    read: Callable[[str], Awaitable[bytes | None]]

    async def publish(self, key: str, data: bytes) -> None:
        await self.store.publish_photo(key, CleanPhoto(data, "image/jpeg", 4, 3), YEAR_SECONDS)


@pytest_asyncio.fixture(params=["fake", "real"])
async def cdn(request: pytest.FixtureRequest) -> AsyncIterator[Cdn]:
    if request.param == "fake":
        cache, origin = FakePhotoCache(), FakeUploadStore()

        async def read_fake(key: str) -> bytes | None:
            return cache.read(key, origin)

        yield Cdn(cache, origin, read_fake)
        return
    parts = request.getfixturevalue("parts")
    async with (
        CdnPhotoCache.open(
            base_url=parts["CDN_BASE_URL"],
            reader_secret=parts["CDN_READER_SECRET"],
            distribution_id="",
            region=parts["AWS_REGION"],
        ) as real,
        S3UploadStore.open(
            bucket=parts["S3_BUCKET_NAME"],
            region=parts["AWS_REGION"],
            endpoint_url=parts["S3_ENDPOINT_URL"],
            access_key_id=parts["AWS_ACCESS_KEY_ID"],
            secret_access_key=parts["AWS_SECRET_ACCESS_KEY"],
        ) as store,
        aiohttp.ClientSession() as browser,
    ):

        async def read(key: str) -> bytes | None:
            async with browser.get(f"{parts['CDN_BASE_URL']}/{key}") as answer:
                return await answer.read() if answer.status == 200 else None

        yield Cdn(real, store, read)


@pytest.fixture
def key() -> str:
    return f"{uuid4()}.jpg"


async def test_deleted_photo_is_served_until_the_cache_forgets_it(cdn: Cdn, key: str) -> None:
    """Deleting it from the store is not enough; after `forget` nobody is given it."""
    await cdn.publish(key, b"photo")
    assert await cdn.read(key) == b"photo"
    await cdn.store.delete(key)
    assert await cdn.read(key) == b"photo"
    for _ in range(2):
        await cdn.cache.forget([key])
        assert await cdn.read(key) is None


async def test_forgetting_what_lies_in_the_store_brings_what_lies_there_now(cdn: Cdn, key: str) -> None:
    """A photo that was not deleted is served as it is by now; others are kept as they were."""
    other = f"{uuid4()}.jpg"
    for word in (b"first", b"second"):
        for name in (key, other):
            await cdn.publish(name, word)
            assert await cdn.read(name) == b"first"
    await cdn.cache.forget([key])
    assert await cdn.read(key) == b"second"
    assert await cdn.read(other) == b"first"


async def test_several_photos_are_forgotten_at_once(cdn: Cdn) -> None:
    """A job's copies go with one call, whatever each was."""
    keys = [f"{uuid4()}.jpg" for _ in range(3)]
    for key in keys:
        await cdn.publish(key, b"photo")
        assert await cdn.read(key) == b"photo"
        await cdn.store.delete(key)
    await cdn.cache.forget(keys)
    assert [await cdn.read(key) for key in keys] == [None] * 3


async def test_photo_that_was_never_there_may_be_forgotten(cdn: Cdn, key: str) -> None:
    """Whoever deletes a job need not know how far it came."""
    await cdn.cache.forget([key])
    assert await cdn.read(key) is None


async def test_cloudfront_is_told_of_all_copies_by_one_invalidation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each invalidation costs money: one names every path."""
    told: list[str] = []

    async def invalidate(request: web.Request) -> web.Response:
        told.append(await request.text())
        return web.Response(
            status=201,
            content_type="text/xml",
            text="<Invalidation><Id>I1</Id><Status>InProgress</Status></Invalidation>",
        )

    app = web.Application()
    app.router.add_post("/{version}/distribution/E1/invalidation", invalidate)
    async with TestServer(app) as server:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDFRONT", str(server.make_url("")).rstrip("/"))
        async with CdnPhotoCache.open(
            base_url="http://cdn.test", reader_secret="", distribution_id="E1", region="eu-central-1"
        ) as cache:
            await cache.forget(["incoming/a", "a.jpg"])
    [body] = told
    assert re.findall(r"<Path>(.*?)</Path>", body) == ["/incoming/a", "/a.jpg"]
    assert "<Quantity>2</Quantity>" in body


async def test_cdn_that_is_away_is_unavailable() -> None:
    """Then nobody may be told that the photo is gone."""
    async with CdnPhotoCache.open(
        base_url="http://127.0.0.1:1", reader_secret="secret", distribution_id="", region="nowhere"
    ) as cache:
        with pytest.raises(Unavailable, match="cdn"):
            await cache.forget(["x.jpg"])
