"""Reading a photo: the CDN is believed only when it delivers exactly the accepted bytes."""

import asyncio
import gzip
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from growbin.adapters.photos import photo_source
from growbin.adapters.photos.photo_source import LATE, CdnPhotoSource
from growbin.errors import JobFailed, Unavailable
from tests.loopback import served

KEY = "incoming/11111111-2222-4333-8444-555555555555.jpg"
PHOTO = bytes(range(256)) * 1000
ETAG = "0123abcd"
SECRET = "reader-CANARY"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, nothing is late but what a row makes late."""
    for name in ("SHORTEST_PATIENCE_SECONDS", "MOST_PATIENCE_SECONDS", "STALL_SECONDS"):
        monkeypatch.setattr(photo_source, name, 30)


@pytest.fixture
def soon_impatient(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a CDN whose usual time is not known yet."""
    monkeypatch.setattr(photo_source, "SHORTEST_PATIENCE_SECONDS", 0.08)


class Store:
    """Stands in for S3, and remembers what it was asked."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.asked: list[tuple[str, str, int]] = []
        self._failure = failure

    async def read(self, key: str, etag: str, length: int) -> bytes:
        self.asked.append((key, etag, length))
        if self._failure:
            raise self._failure
        return PHOTO


@asynccontextmanager
async def source(base_url: str, store: Store, **options: Any) -> AsyncIterator[CdnPhotoSource]:
    defaults: dict[str, Any] = {"reader_secret": SECRET, "enabled": True, "max_bytes": 10_000_000}
    async with CdnPhotoSource.open(
        base_url=base_url, read_from_store=store.read, **(defaults | options)
    ) as source:
        yield source


@asynccontextmanager
async def raw_cdn(answer: bytes) -> AsyncIterator[str]:
    """A server that sends `answer` as it stands, then closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def photo_answer(
    body: bytes = PHOTO, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    return web.Response(status=status, body=body, headers=headers, content_type="image/jpeg")


async def fetched_from_s3(base_url: str, reason: str, **options: Any) -> None:
    """The photo came from S3 after one warning with this reason."""
    store = Store()
    with capture_logs() as logs:
        async with source(base_url, store, **options) as photos:
            photo = await photos.fetch(KEY, ETAG, len(PHOTO))
    assert (photo.data, photo.source, photo.cache) == (PHOTO, "s3", None)
    assert store.asked == [(KEY, ETAG, len(PHOTO))]
    assert [(line["event"], line["log_level"], line["reason"]) for line in logs] == [
        ("cdn_read_failed", "warning", reason)
    ]
    assert "CANARY" not in str(logs)
    assert "127.0.0.1" not in str(logs)


@pytest.mark.parametrize(
    ("x_cache", "cache"),
    [
        ("HIT", "hit"),
        ("Hit from cloudfront", "hit"),
        ("RefreshHit from cloudfront", "hit"),
        ("MISS", "miss"),
        ("Miss from cloudfront", "miss"),
        ("EXPIRED", "miss"),
        (None, None),
    ],
)
async def test_a_good_answer_of_the_cdn_is_the_photo(x_cache: str | None, cache: str | None) -> None:
    """The CDN's bytes are taken, S3 is not asked, and the cache status is told."""

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append(
            (request.path, request.headers.get("X-Growbin-Reader"), request.headers["Accept-Encoding"])
        )
        return photo_answer(headers={"ETag": f'"{ETAG}"'} | ({"X-Cache": x_cache} if x_cache else {}))

    seen: list[tuple[str, str | None, str]] = []
    store = Store()
    async with served(answer) as base_url, source(base_url, store) as photos:
        photo = await photos.fetch(KEY, ETAG, len(PHOTO))
    assert (photo.data, photo.source, photo.cache) == (PHOTO, "cdn", cache)
    assert seen == [(f"/{KEY}", SECRET, "identity")]
    assert store.asked == []


@pytest.mark.parametrize("header", [f'W/"{ETAG}"', ETAG, f'"{ETAG}"', None])
async def test_the_etag_is_compared_without_its_dress(header: str | None) -> None:
    """Weak, bare and quoted forms of the same ETag are the same; none at all is fine, too."""

    async def answer(request: web.BaseRequest) -> web.Response:
        return photo_answer(headers={"ETag": header} if header else None)

    async with served(answer) as base_url, source(base_url, Store()) as photos:
        assert (await photos.fetch(KEY, ETAG, len(PHOTO))).source == "cdn"


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (lambda: photo_answer(b"", 404), "status"),
        (lambda: photo_answer(b"", 403), "status"),
        (lambda: photo_answer(b"<html>", 500), "status"),
        (lambda: photo_answer(status=206), "status"),
        (lambda: photo_answer(b"", 302, {"Location": "http://127.0.0.1:1/elsewhere"}), "status"),
        (lambda: photo_answer(PHOTO[:-1]), "length"),
        (lambda: photo_answer(PHOTO + b"!"), "length"),
        (lambda: photo_answer(b""), "length"),
        (lambda: photo_answer(headers={"ETag": '"another"'}), "etag"),
        (
            lambda: photo_answer(gzip.compress(PHOTO), headers={"Content-Encoding": "gzip"}),
            "content_encoding",
        ),
    ],
)
async def test_a_wrong_answer_of_the_cdn_leads_to_s3(
    response: Callable[[], web.Response], reason: str
) -> None:
    """Other status, length, ETag or encoding: one warning, then S3."""

    async def answer(request: web.BaseRequest) -> web.Response:
        return response()

    async with served(answer) as base_url:
        await fetched_from_s3(base_url, reason)


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (OK + b"\r\n" + PHOTO[:500], "length"),
        (OK + b"Content-Length: %d\r\n\r\n" % len(PHOTO) + PHOTO[:500], "ClientPayloadError"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1f4\r\n" + PHOTO[:500], "ClientPayloadError"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "ClientResponseError"),
        (OK + b"X-Long: " + b"a" * 20_000 + b"\r\n\r\n", "ClientResponseError"),
        (b"garbage\r\n\r\n", "ClientResponseError"),
        (b"", "ServerDisconnectedError"),
    ],
)
async def test_a_broken_answer_of_the_cdn_leads_to_s3(answer: bytes, reason: str) -> None:
    """Cut bodies, also those that end like whole ones, and things that are no HTTP: S3."""
    async with raw_cdn(answer) as base_url:
        await fetched_from_s3(base_url, reason)


async def test_an_endless_body_is_cut_at_the_photos_length() -> None:
    """A body without length is read no further than the photo is long."""

    sent = 0

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal sent
        answer = web.StreamResponse()
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        while sent < 200_000_000:
            await answer.write(b"x" * 100_000)
            sent += 100_000
        return answer

    async with served(endless) as base_url:
        await fetched_from_s3(base_url, "length")
    assert sent < 50_000_000


async def test_a_slow_cdn_is_given_up_within_the_total_time() -> None:
    """Neither silence nor a drip of bytes holds a photo longer than allowed."""

    async def drip(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": str(len(PHOTO))})
        await answer.prepare(request)
        while True:
            await answer.write(b"x")
            await asyncio.sleep(0.05)

    async with served(drip) as base_url, asyncio.timeout(30):
        await fetched_from_s3(base_url, "TimeoutError", total_timeout_seconds=0.4)


async def test_an_absent_cdn_leads_to_s3() -> None:
    """Nobody listening: S3."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        await fetched_from_s3(base_url, "ClientConnectorError")


async def test_a_disabled_cdn_is_never_asked() -> None:
    """With the CDN switched off S3 is read at once, without a warning."""
    store = Store()
    with capture_logs() as logs:
        async with source("http://127.0.0.1:1", store, enabled=False) as photos:
            assert (await photos.fetch(KEY, ETAG, len(PHOTO))).source == "s3"
    assert logs == []


@pytest.mark.parametrize(
    "failure", [JobFailed("photo_missing"), JobFailed("photo_changed"), Unavailable("s3", "timed out")]
)
async def test_when_s3_fails_as_well_its_error_stands(failure: Exception) -> None:
    """Missing or changed in S3 ends the job; trouble of S3 is for later."""
    async with source("http://127.0.0.1:1", Store(failure)) as photos:
        with pytest.raises(type(failure)) as raised:
            await photos.fetch(KEY, ETAG, len(PHOTO))
    assert raised.value is failure


async def test_a_photo_above_the_limit_is_not_read_at_all() -> None:
    """A length above the cap fails the job before anything is asked."""
    store = Store()
    async with source("http://127.0.0.1:1", store, max_bytes=1000) as photos:
        with pytest.raises(JobFailed, match="photo_too_large"):
            await photos.fetch(KEY, ETAG, 1001)
    assert store.asked == []


async def test_a_cdn_that_keeps_failing_is_skipped_for_a_while() -> None:
    """After five failures in a row it is left alone; later it is tried again, and believed again."""
    asked, broken = 0, True

    async def answer(request: web.BaseRequest) -> web.Response:
        nonlocal asked
        asked += 1
        return photo_answer(b"", 500) if broken else photo_answer()

    async with served(answer) as base_url, source(base_url, Store(), skip_seconds=1) as photos:
        for _ in range(8):
            assert (await photos.fetch(KEY, ETAG, len(PHOTO))).source == "s3"
        assert asked == 5
        broken = False
        async with asyncio.timeout(30):
            while (await photos.fetch(KEY, ETAG, len(PHOTO))).source == "s3":
                await asyncio.sleep(0.05)
        broken = True
        for _ in range(4):
            await photos.fetch(KEY, ETAG, len(PHOTO))
        assert asked == 10


@pytest.mark.parametrize("status", [403, 404])
async def test_a_photo_the_cdn_does_not_have_is_no_failure_of_the_cdn(status: int) -> None:
    """However many photos are missing, the CDN is asked for the next one."""
    asked = 0

    async def answer(request: web.BaseRequest) -> web.Response:
        nonlocal asked
        asked += 1
        return photo_answer(b"", status)

    async with served(answer) as base_url, source(base_url, Store()) as photos:
        for _ in range(8):
            await photos.fetch(KEY, ETAG, len(PHOTO))
    assert asked == 8


# --- a CDN that is late ---------------------------------------------------------------------------


@asynccontextmanager
async def late_cdn(delay_seconds: Callable[[int], float]) -> AsyncIterator[tuple[str, list[web.BaseRequest]]]:
    """A CDN that begins its n-th answer after so long."""
    asked = list[web.BaseRequest]()

    async def answer(request: web.BaseRequest) -> web.Response:
        asked.append(request)
        await asyncio.sleep(delay_seconds(len(asked)))
        return photo_answer()

    async with served(answer) as url:
        yield url, asked


async def test_stalled_answer_of_the_cdn_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in ten stalls: S3 brings those photos, asked once for each, and the CDN goes on with the rest. The
    request that stalled is closed: of its photo nothing is read."""
    monkeypatch.setattr(photo_source, "SHORTEST_PATIENCE_SECONDS", 1)  # which no other answer takes
    store, sources = Store(), list[str]()
    async with (
        late_cdn(lambda number: 60 if number % 10 == 0 else 0) as (url, asked),
        source(url, store, total_timeout_seconds=60) as photos,
    ):
        with capture_logs() as logs:
            for _ in range(20):
                photo = await photos.fetch(KEY, ETAG, len(PHOTO))
                sources.append(photo.source)
                assert photo.data == PHOTO
        assert [line["reason"] for line in logs] == [LATE] * 2
        assert sources == [*["cdn"] * 9, "s3"] * 2
        assert len(store.asked) == 2
        async with asyncio.timeout(30):
            while any(request.transport is not None for request in asked[9::10]):
                await asyncio.sleep(0.01)


@pytest.mark.usefixtures("soon_impatient")
async def test_late_cdn_is_waited_for_where_s3_is_away() -> None:
    """Late is better than never; and what S3 says of the photo itself is believed."""
    async with late_cdn(lambda _: 0.3) as (url, _):
        async with source(url, Store(Unavailable("s3", "away"))) as photos:
            photo = await photos.fetch(KEY, ETAG, len(PHOTO))
            assert (photo.source, photo.data) == ("cdn", PHOTO)
        async with source(url, Store(JobFailed("photo_changed"))) as photos:
            with pytest.raises(JobFailed, match="photo_changed"):
                await photos.fetch(KEY, ETAG, len(PHOTO))
    async with (
        late_cdn(lambda _: 30) as (url, _),
        source(url, Store(Unavailable("s3", "away")), total_timeout_seconds=0.5) as photos,
    ):
        with pytest.raises(Unavailable, match="s3: away"):
            await photos.fetch(KEY, ETAG, len(PHOTO))


@pytest.mark.usefixtures("soon_impatient")
async def test_cdn_that_is_always_late_is_left_alone() -> None:
    """As one that always fails: S3 is asked at once."""
    async with late_cdn(lambda _: 30) as (url, asked), source(url, Store()) as photos:
        for _ in range(7):
            assert (await photos.fetch(KEY, ETAG, len(PHOTO))).source == "s3"
        assert len(asked) <= 5  # one that is left before it is on its way counts as late all the same


@pytest.mark.usefixtures("soon_impatient")
async def test_cdn_that_usually_takes_its_time_is_given_it() -> None:
    """Late is what takes twice as long as usual: S3 need not do a far CDN's work."""
    async with late_cdn(lambda _: 0.12) as (url, _), source(url, Store(), failures_to_skip=1000) as photos:
        assert (await photos.fetch(KEY, ETAG, len(PHOTO))).source == "s3"
        async with asyncio.timeout(60):
            while (await photos.fetch(KEY, ETAG, len(PHOTO))).source == "s3":
                pass  # what was late makes the usual time longer


async def test_body_that_stalls_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first byte was in time, the rest is not: S3 after a second."""
    monkeypatch.setattr(photo_source, "STALL_SECONDS", 1)
    head = f'HTTP/1.1 200 OK\r\nContent-Length: {len(PHOTO)}\r\nETag: "{ETAG}"\r\n\r\n'.encode()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + PHOTO[:1000])
        await reader.read()
        writer.close()

    server = await asyncio.start_server(stall, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        began = time.monotonic()
        async with asyncio.timeout(30):
            await fetched_from_s3(url, "TimeoutError", total_timeout_seconds=60)
        assert time.monotonic() - began > 0.9
