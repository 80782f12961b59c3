"""Raw photos: through the CDN, and from S3 when the CDN fails, or its first byte is late."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Literal

import aiohttp
import structlog

from growbin.errors import JobFailed, Unavailable
from growbin.job import READER_HEADER, FetchedPhoto
from growbin.telemetry import metrics, traces

log = structlog.get_logger()

STALL_SECONDS = 1.0  # between two pieces of a body
# How long a first byte may take before S3 is asked as well: twice what it usually takes, within these.
SHORTEST_PATIENCE_SECONDS = 0.08
MOST_PATIENCE_SECONDS = 0.5
LEARNT_FROM_EACH = 0.1
LATE = "late"

# (key, etag, length) -> the bytes; raises JobFailed(photo_missing | photo_changed) or Unavailable.
ReadFromStore = Callable[[str, str, int], Awaitable[bytes]]
_Asked = asyncio.Task[aiohttp.ClientResponse]


class CdnPhotoSource:
    """Trusts no body of the CDN that is not the accepted photo by length and ETag. A CDN that fails or is
    late `failures_to_skip` times in a row is left alone for `skip_seconds`."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        enabled: bool,
        read_from_store: ReadFromStore,
        max_bytes: int,
        failures_to_skip: int,
        skip_seconds: float,
    ) -> None:
        self._session = session
        self._base_url = base_url
        self._enabled = enabled
        self._read_from_store = read_from_store
        self._max_bytes = max_bytes
        self._failures_to_skip = failures_to_skip
        self._skip_seconds = skip_seconds
        self._failures = 0
        self._skipped_until = 0.0
        self._usual_seconds = 0.0  # until the first byte

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        *,
        base_url: str,
        reader_secret: str,
        enabled: bool,
        read_from_store: ReadFromStore,
        max_bytes: int,
        connect_timeout_seconds: float = 2,
        total_timeout_seconds: float = 10,
        failures_to_skip: int = 5,
        skip_seconds: float = 30,
    ) -> AsyncIterator[CdnPhotoSource]:
        """`read_from_store` is the fallback; `reader_secret` opens `incoming/` at the CDN."""
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=total_timeout_seconds, connect=connect_timeout_seconds),
            connector=aiohttp.TCPConnector(limit=0),  # bounded by the consumer's concurrency
            headers={READER_HEADER: reader_secret, "Accept-Encoding": "identity"},
            auto_decompress=False,  # a small gzip body could unpack into gigabytes
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        ) as session:
            yield cls(session, base_url, enabled, read_from_store, max_bytes, failures_to_skip, skip_seconds)

    async def fetch(self, key: str, etag: str, length: int) -> FetchedPhoto:
        """Raises JobFailed(photo_missing | photo_changed | photo_too_large); Unavailable from S3."""
        if length > self._max_bytes:
            raise JobFailed("photo_too_large", f"{length} bytes")
        if self._enabled and asyncio.get_running_loop().time() < self._skipped_until:
            metrics.photo_reads_failed.labels(source="cdn").inc()
        elif self._enabled:
            # A task, so that S3 can be asked while the CDN goes on.
            asked = asyncio.create_task(
                self._session.get(f"{self._base_url}/{key}", allow_redirects=False), name=f"cdn-{key}"
            )
            try:
                return await self._fetch_from_either(asked, key, etag, length)
            finally:
                _give_up(asked)
        return await _measured("s3", self._fetch_from_store(key, etag, length))

    async def _fetch_from_either(self, asked: _Asked, key: str, etag: str, length: int) -> FetchedPhoto:
        """From the CDN, else from S3. Of a CDN that is late no byte is read, unless S3 is away."""
        try:
            return await _measured("cdn", self._fetch_from_cdn(asked, etag, length))
        except _CdnReadFailed as failure:
            log.warning("cdn_read_failed", key=key, reason=failure.reason, status=failure.status)
            is_late = failure.reason == LATE
        try:
            return await _measured("s3", self._fetch_from_store(key, etag, length))
        except Unavailable as away:
            if not is_late:
                raise
            try:
                return await _measured("cdn", self._read_from_cdn(asked, etag, length))
            except _CdnReadFailed:
                raise away from None

    async def _fetch_from_store(self, key: str, etag: str, length: int) -> FetchedPhoto:
        return FetchedPhoto(await self._read_from_store(key, etag, length), "s3", None)

    async def _fetch_from_cdn(self, asked: _Asked, etag: str, length: int) -> FetchedPhoto:
        began = time.perf_counter()
        patience_seconds = min(max(SHORTEST_PATIENCE_SECONDS, 2 * self._usual_seconds), MOST_PATIENCE_SECONDS)
        await asyncio.wait([asked], timeout=patience_seconds)
        is_late = not asked.done()
        seconds = 2 * patience_seconds if is_late else time.perf_counter() - began
        self._usual_seconds += LEARNT_FROM_EACH * (seconds - self._usual_seconds)
        if is_late:
            self._count(failed=True)
            raise _CdnReadFailed(LATE)
        return await self._read_from_cdn(asked, etag, length)

    async def _read_from_cdn(self, asked: _Asked, etag: str, length: int) -> FetchedPhoto:
        try:
            async with await asked as answer:
                _check_head(answer, etag, length)
                data = await _read_exactly(answer, length)
                cache = cache_of(answer)
        except _CdnReadFailed as failure:
            self._count(failed=failure.status is None or failure.status not in (200, 403, 404))
            raise
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._count(failed=True)
            raise _CdnReadFailed(type(error).__name__) from error
        self._count(failed=False)
        return FetchedPhoto(data, "cdn", cache)

    def _count(self, *, failed: bool) -> None:
        """An answer about this photo, if only "not here" or another one, shows that the CDN works."""
        self._failures = self._failures + 1 if failed else 0
        if self._failures >= self._failures_to_skip:
            self._skipped_until = asyncio.get_running_loop().time() + self._skip_seconds


async def _measured(source: Literal["cdn", "s3"], reading: Coroutine[Any, Any, FetchedPhoto]) -> FetchedPhoto:
    began = time.perf_counter()
    with traces.span(f"read photo from {source}", "client") as span:
        try:
            photo = await reading
        except Exception:
            metrics.photo_reads_failed.labels(source=source).inc()
            raise
        span.set("growbin.photo.bytes", len(photo.data))
        span.set("growbin.photo.cache", photo.cache)
    metrics.photo_fetch_seconds.labels(source=source).observe(time.perf_counter() - began)
    metrics.photos_fetched.labels(source=source, cache=photo.cache or "none").inc()
    metrics.photo_bytes.observe(len(photo.data))
    return photo


class _CdnReadFailed(Exception):
    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


def _check_head(answer: aiohttp.ClientResponse, etag: str, length: int) -> None:
    status, headers = answer.status, answer.headers
    if status != 200:
        raise _CdnReadFailed("status", status)
    if headers.get("Content-Encoding", "identity") != "identity":
        raise _CdnReadFailed("content_encoding", status)
    if answer.content_length not in (None, length):
        raise _CdnReadFailed("length", status)
    if "ETag" in headers and headers["ETag"].removeprefix("W/").strip('"') != etag:
        raise _CdnReadFailed("etag", status)


async def _read_exactly(answer: aiohttp.ClientResponse, length: int) -> bytes:
    """A body cut without Content-Length ends like a whole one: only the length tells."""
    data, loop = io.BytesIO(), asyncio.get_running_loop()  # gives away what was written to it, without a copy
    async with asyncio.timeout(STALL_SECONDS) as patience:
        async for piece in answer.content.iter_any():
            patience.reschedule(loop.time() + STALL_SECONDS)
            data.write(piece)
            if data.tell() > length:
                break
    if data.tell() != length:
        raise _CdnReadFailed("length", answer.status)
    return data.getvalue()


def _give_up(asked: _Asked) -> None:
    """Close what was asked and not read; an answer that was read has let go of its connection."""
    if asked.cancel():
        asked.add_done_callback(_give_up)
    elif not asked.cancelled() and asked.exception() is None:
        asked.result().close()


def cache_of(answer: aiohttp.ClientResponse) -> Literal["hit", "miss"] | None:
    """`HIT`, `Hit from cloudfront`, `RefreshHit from cloudfront`, `MISS`, ... or nothing."""
    header = answer.headers.get("X-Cache")
    if header is None:
        return None
    return "hit" if "hit" in header.lower() else "miss"
