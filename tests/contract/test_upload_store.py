"""The upload store, on a real SeaweedFS, which enforces what AWS enforces, and as the fake: one suite for
both; then what only S3 knows."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from uuid import uuid4

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from growbin.adapters.photos.upload_store import S3UploadStore
from growbin.errors import JobFailed, Unavailable
from growbin.job import CleanPhoto, ContentType, StoredUpload
from growbin.ports import UploadStore
from tests.fakes import FakeUploadStore
from tests.loopback import Handler, served

PHOTO = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 40


@contextlib.asynccontextmanager
async def opened(environment: dict[str, str], **changes: str) -> AsyncIterator[S3UploadStore]:
    environment = environment | changes
    async with S3UploadStore.open(
        bucket=environment["S3_BUCKET_NAME"],
        region=environment["AWS_REGION"],
        endpoint_url=environment["S3_ENDPOINT_URL"],
        access_key_id=environment["AWS_ACCESS_KEY_ID"],
        secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    ) as store:
        yield store


@dataclass(frozen=True)
class Bucket:
    """A store, and a plain client that sends the headers it is told and nothing else."""

    store: UploadStore
    put: Callable[[str, dict[str, str], bytes], Awaitable[int]]


@pytest.fixture(scope="session")
async def store(parts: dict[str, str]) -> AsyncIterator[S3UploadStore]:
    async with opened(parts) as store:
        yield store


@pytest.fixture(scope="session")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture(params=["fake", "real"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    if request.param == "real":
        http = request.getfixturevalue("http")
        return Bucket(request.getfixturevalue("store"), partial(put, http))
    fake = FakeUploadStore()

    async def use(url: str, headers: dict[str, str], body: bytes) -> int:
        return fake.use(url, headers, body)

    return Bucket(fake, use)


@pytest.fixture
def key() -> str:
    return f"incoming/{uuid4()}.jpg"


async def put(http: aiohttp.ClientSession, url: str, headers: dict[str, str], body: bytes) -> int:
    async with http.put(url, data=body, headers=headers, skip_auto_headers=["Content-Type"]) as answer:
        return answer.status


# --- tickets --------------------------------------------------------------------------------------


async def test_a_declared_upload_is_taken_once(bucket: Bucket, key: str) -> None:
    """With type and length declared, the right upload gets 200 and a second one 412. The length is not
    among the headers to be set: every client sets it itself."""
    ticket = await bucket.store.ticket(key, "image/jpeg", len(PHOTO), 300)
    assert ticket.headers == {"Content-Type": "image/jpeg", "If-None-Match": "*"}
    assert await bucket.put(ticket.url, ticket.headers, PHOTO) == 200
    first = await looked(bucket.store, key)
    assert await bucket.put(ticket.url, ticket.headers, PHOTO[::-1]) == 412
    assert await looked(bucket.store, key) == first


@pytest.mark.parametrize(
    ("wrong_headers", "body"),
    [
        ({"Content-Type": "image/png"}, PHOTO),
        ({"Content-Type": "text/html"}, PHOTO),
        ({"Content-Type": None}, PHOTO),
        ({"If-None-Match": None}, PHOTO),
        ({}, PHOTO + b"!"),
        ({}, PHOTO[:-1]),
    ],
)
async def test_an_upload_that_differs_from_what_was_declared_is_refused(
    bucket: Bucket, key: str, wrong_headers: dict[str, str | None], body: bytes
) -> None:
    """Another type, another length, or a missing condition gets 403, and nothing is stored."""
    ticket = await bucket.store.ticket(key, "image/jpeg", len(PHOTO), 300)
    headers = {name: value for name, value in (ticket.headers | wrong_headers).items() if value is not None}
    assert await bucket.put(ticket.url, headers, body) == 403
    assert await bucket.store.look(key) is None


@pytest.mark.parametrize("declared", [("image/jpeg", None), (None, len(PHOTO))])
async def test_half_a_declaration_binds_that_half(
    bucket: Bucket, key: str, declared: tuple[ContentType | None, int | None]
) -> None:
    """Type alone or length alone is bound, with the condition against a second upload."""
    ticket = await bucket.store.ticket(key, *declared, 300)
    assert ticket.headers == {"If-None-Match": "*"} | ({"Content-Type": declared[0]} if declared[0] else {})
    wrong = {"Content-Type": "image/png"} if declared[0] else {}
    other = PHOTO if declared[0] else PHOTO + b"!"
    assert await bucket.put(ticket.url, ticket.headers | wrong, other) == 403
    assert await bucket.put(ticket.url, ticket.headers, PHOTO) == 200
    assert await bucket.put(ticket.url, ticket.headers, PHOTO) == 412


@pytest.mark.parametrize(
    "headers", [{}, {"Content-Type": "image/webp"}, {"Content-Type": "application/x-www-form-urlencoded"}]
)
async def test_an_undeclared_upload_is_free(bucket: Bucket, key: str, headers: dict[str, str]) -> None:
    """With nothing declared, any client may upload, with or without a content type, and again."""
    ticket = await bucket.store.ticket(key, None, None, 300)
    assert ticket.headers == {}
    assert await bucket.put(ticket.url, headers, PHOTO) == 200
    first = await looked(bucket.store, key)
    assert await bucket.put(ticket.url, headers, PHOTO[::-1]) == 200
    second = await looked(bucket.store, key)
    assert second.head == PHOTO[::-1][:64]
    assert second.etag != first.etag


async def test_a_forged_ticket_is_refused(bucket: Bucket, key: str) -> None:
    """A ticket is good for its key, and as it was signed."""
    ticket = await bucket.store.ticket(key, "image/jpeg", len(PHOTO), 300)
    forged = [
        ticket.url.replace(key, f"incoming/{uuid4()}.jpg"),
        ticket.url.replace("X-Amz-Expires=300", "X-Amz-Expires=3000"),
        ticket.url.replace("X-Amz-Signature=", "X-Amz-Signature=0"),
        ticket.url.split("?")[0],
    ]
    assert [await bucket.put(url, ticket.headers, PHOTO) for url in forged] == [403] * 4
    assert await bucket.store.look(key) is None


# --- looking, deleting, publishing ------------------------------------------------------------------


async def looked(store: UploadStore, key: str) -> StoredUpload:
    upload = await store.look(key)
    assert upload is not None
    return upload


async def upload(bucket: Bucket, key: str, body: bytes = PHOTO) -> None:
    ticket = await bucket.store.ticket(key, None, None, 300)
    assert await bucket.put(ticket.url, {"Content-Type": "image/jpeg"}, body) == 200


async def test_a_look_shows_etag_length_type_and_first_bytes(bucket: Bucket, key: str) -> None:
    """It tells everything upload-complete has to check; the ETag comes without its quotes."""
    await upload(bucket, key)
    found = await looked(bucket.store, key)
    assert (found.length, found.content_type, found.head) == (len(PHOTO), "image/jpeg", PHOTO[:64])
    assert found.etag
    assert '"' not in found.etag


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65])
async def test_a_look_at_a_tiny_object_is_exact(bucket: Bucket, key: str, length: int) -> None:
    """Objects around the length of the look, and empty ones, are told exactly."""
    await upload(bucket, key, PHOTO[:length])
    found = await looked(bucket.store, key)
    assert (found.length, found.head) == (length, PHOTO[: min(length, 64)])


async def test_deleting_is_repeatable(bucket: Bucket, key: str) -> None:
    """Deleting removes the object, and deleting nothing is fine; its place may be taken again."""
    await upload(bucket, key)
    await bucket.store.delete(key)
    assert await bucket.store.look(key) is None
    await bucket.store.delete(key)
    ticket = await bucket.store.ticket(key, "image/jpeg", len(PHOTO), 300)
    assert await bucket.put(ticket.url, ticket.headers, PHOTO) == 200


async def test_all_that_lies_there_of_a_job_is_found(bucket: Bucket) -> None:
    """As it came, and the public copy, under the names of any version, of whatever letters; nothing of
    another job."""
    job_id, other = uuid4(), uuid4()
    odd = f"{job_id}/a b&c<사진>.jpg"
    names = [f"incoming/{job_id}", f"incoming/{job_id}.png", f"{job_id}.jpg", f"{job_id}.webp", odd]
    for name in (*names, f"incoming/{other}", f"{other}.jpg"):
        await bucket.store.publish_photo(name, CleanPhoto(PHOTO, "image/jpeg", 4, 3), 60)
    assert sorted(await bucket.store.keys_of(job_id)) == sorted(names)
    for name in names:
        await bucket.store.delete(name)
    assert list(await bucket.store.keys_of(job_id)) == []


async def test_the_public_copy_lies_in_its_place(bucket: Bucket) -> None:
    """It can be looked at as any object, written again by the next attempt, and deleted."""
    key = f"{uuid4()}.png"
    for data in (PHOTO[::-1], PHOTO):
        await bucket.store.publish_photo(key, CleanPhoto(data, "image/png", 4, 3), 86_400)
    found = await looked(bucket.store, key)
    assert (found.length, found.content_type, found.head) == (len(PHOTO), "image/png", PHOTO[:64])
    await bucket.store.delete(key)
    assert await bucket.store.look(key) is None


# --- what only S3 knows -----------------------------------------------------------------------------


async def test_an_expired_ticket_is_refused(
    store: S3UploadStore, http: aiohttp.ClientSession, key: str
) -> None:
    """A ticket is good for its time only."""
    brief = await store.ticket(key, "image/jpeg", len(PHOTO), 1)
    await asyncio.sleep(2.1)
    assert await put(http, brief.url, brief.headers, PHOTO) == 403
    assert await store.look(key) is None


async def test_tickets_for_aws_name_the_bucket_in_its_region() -> None:
    """Without an endpoint the URL goes to the bucket's own regional host over TLS: no redirect."""
    async with S3UploadStore.open(
        bucket="photos", region="ap-northeast-2", access_key_id="id", secret_access_key="secret"
    ) as store:
        ticket = await store.ticket("incoming/x.jpg", "image/jpeg", 5, 300)
    assert ticket.url.startswith("https://photos.s3.ap-northeast-2.amazonaws.com/incoming/x.jpg?")
    assert "X-Amz-SignedHeaders=content-length%3Bcontent-type%3Bhost%3Bif-none-match" in ticket.url
    assert "secret" not in ticket.url


async def uploaded(store: S3UploadStore, http: aiohttp.ClientSession, key: str, body: bytes = PHOTO) -> None:
    ticket = await store.ticket(key, None, None, 300)
    assert await put(http, ticket.url, {"Content-Type": "image/jpeg"}, body) == 200


async def test_what_is_not_there_is_told_apart_from_trouble(
    store: S3UploadStore, parts: dict[str, str], key: str
) -> None:
    """A missing object is None or photo_missing; a missing bucket or a wrong key is Unavailable."""
    assert await store.look(key) is None
    with pytest.raises(JobFailed, match="photo_missing"):
        await store.read(key, "0" * 32, 5)
    async with opened(parts, S3_BUCKET_NAME="no-such-bucket") as stranger:
        with pytest.raises(Unavailable, match="NoSuchBucket"):
            await stranger.look(key)
    async with opened(parts, AWS_SECRET_ACCESS_KEY="wrong") as stranger:
        with pytest.raises(Unavailable, match="SignatureDoesNotMatch"):
            await stranger.look(key)
        with pytest.raises(Unavailable, match="SignatureDoesNotMatch"):
            await stranger.read(key, "0" * 32, 5)


async def test_a_replaced_photo_is_not_read(
    store: S3UploadStore, http: aiohttp.ClientSession, key: str
) -> None:
    """Only the bytes that were accepted are read: another ETag or length is photo_changed."""
    await uploaded(store, http, key)
    etag = (await looked(store, key)).etag
    with pytest.raises(JobFailed, match="photo_changed"):
        await store.read(key, etag, len(PHOTO) + 1)
    await uploaded(store, http, key, PHOTO[::-1])
    with pytest.raises(JobFailed, match="photo_changed"):
        await store.read(key, etag, len(PHOTO))


async def test_many_refused_reads_do_not_exhaust_the_client(
    store: S3UploadStore, http: aiohttp.ClientSession, key: str
) -> None:
    """Every body is closed, also when we leave early: more reads than pooled connections still work."""
    await uploaded(store, http, key, PHOTO * 20)
    etag = (await looked(store, key)).etag
    for _ in range(70):
        with pytest.raises(JobFailed, match="photo_changed"):
            await store.read(key, etag, 1)
    assert len(await store.read(key, etag, len(PHOTO) * 20)) == len(PHOTO) * 20


async def test_the_public_copy_carries_its_cache_time(
    store: S3UploadStore, http: aiohttp.ClientSession
) -> None:
    """The CDN and the browser are told how long to keep it."""
    key = f"{uuid4()}.png"
    await store.publish_photo(key, CleanPhoto(PHOTO, "image/png", 4, 3), 86_400)
    async with http.get(URL(await store.read_address(key, 60), encoded=True)) as got:
        assert got.headers["Cache-Control"] == "public, max-age=86400"


# --- trouble ----------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def troubled(handler: Handler, **timeouts: float) -> AsyncIterator[S3UploadStore]:
    """A store whose S3 is a loopback server that answers with `handler`."""
    async with (
        served(handler) as url,
        S3UploadStore.open(
            bucket="photos",
            region="ap-northeast-2",
            endpoint_url=url,
            access_key_id="id",
            secret_access_key="CANARY",
            **timeouts,
        ) as store,
    ):
        yield store


async def test_a_struggling_s3_is_asked_at_most_twice() -> None:
    """503 SlowDown is tried once more, then it is Unavailable, whose text holds no address."""
    asked = 0

    async def slow_down(request: web.BaseRequest) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=503, text="<Error><Code>SlowDown</Code></Error>")

    async with troubled(slow_down) as store:
        with pytest.raises(Unavailable) as trouble:
            await store.look("incoming/x.jpg")
    assert asked == 2
    assert str(trouble.value) == "s3: SlowDown"


async def test_a_wrong_clock_is_told_apart_from_an_s3_that_is_away() -> None:
    """It is this process' own trouble: nobody else waits for S3 to come back."""

    async def skewed(_request: web.BaseRequest) -> web.Response:
        return web.Response(status=403, text="<Error><Code>RequestTimeTooSkewed</Code></Error>")

    async with troubled(skewed) as store:
        with pytest.raises(Unavailable) as trouble:
            await store.publish_photo("x.jpg", CleanPhoto(PHOTO, "image/jpeg", 4, 3), 60)
    assert (trouble.value.part, trouble.value.reason) == ("clock", "RequestTimeTooSkewed")


async def test_a_silent_s3_is_given_up_in_time() -> None:
    """An S3 that accepts and never answers is Unavailable within the total time-out."""

    async def never(request: web.BaseRequest) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    async with troubled(never, read_timeout_seconds=60, total_timeout_seconds=0.5) as store:
        with pytest.raises(Unavailable, match="timed out"):
            async with asyncio.timeout(30):
                await store.read("incoming/x.jpg", "etag", 5)


async def test_a_body_that_breaks_off_is_unavailable() -> None:
    """A connection cut in the middle of the photo is trouble of S3, not of the photo."""

    async def cut(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": "1000", "ETag": '"e"'})
        await answer.prepare(request)
        await answer.write(b"x" * 500)
        assert request.transport is not None
        request.transport.close()
        return answer

    async with troubled(cut) as store:
        with pytest.raises(Unavailable):
            await store.read("incoming/x.jpg", "e", 1000)


async def test_an_absent_s3_is_unavailable() -> None:
    """Nobody listening is Unavailable; a ticket needs no network at all."""
    async with S3UploadStore.open(
        bucket="photos",
        region="ap-northeast-2",
        endpoint_url="http://127.0.0.1:1",
        access_key_id="id",
        secret_access_key="secret",
    ) as store:
        assert (await store.ticket("incoming/x.jpg", None, None, 300)).url
        with pytest.raises(Unavailable):
            await store.look("incoming/x.jpg")


async def test_store_nearby_is_asked_without_a_proxy(
    parts: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell's proxy is for what lies outside: nothing listens where it points."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with opened(parts) as store:
        assert await store.look(f"incoming/{uuid4()}") is None
