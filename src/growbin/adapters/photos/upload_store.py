"""S3: tickets to upload, a look at what arrived, the way back to the raw bytes, the public copy.

An ETag is kept without its quotes, here and wherever it travels.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import aioboto3
import aiohttp
from botocore.exceptions import BotoCoreError

from growbin.adapters.photos.signed_requests import Refused, SignedRequests
from growbin.errors import JobFailed, Unavailable
from growbin.job import CleanPhoto, StoredUpload
from growbin.nearby import is_nearby
from growbin.ports import Ticket
from growbin.telemetry import metrics

HEAD_BYTES = 64


class S3UploadStore:
    """One bucket, over connections that are kept."""

    def __init__(self, requests: SignedRequests, total_timeout_seconds: float) -> None:
        self._requests = requests
        self._total_timeout_seconds = total_timeout_seconds

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        *,
        bucket: str,
        region: str,
        endpoint_url: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        connect_timeout_seconds: float = 2,
        read_timeout_seconds: float = 5,
        total_timeout_seconds: float = 10,
    ) -> AsyncIterator[S3UploadStore]:
        """AWS when there is no `endpoint_url`; the usual AWS sources of credentials when none are given."""
        session = aioboto3.Session(
            aws_access_key_id=access_key_id, aws_secret_access_key=secret_access_key, region_name=region
        )
        async with SignedRequests.open(
            session,
            bucket,
            region=region,
            endpoint_url=endpoint_url,
            is_proxied=not is_nearby(endpoint_url),
            connect_timeout_seconds=connect_timeout_seconds,
            read_timeout_seconds=read_timeout_seconds,
        ) as requests:
            yield cls(requests, total_timeout_seconds)

    @property
    def origin(self) -> str:
        """Where tickets point: the bucket's name and the endpoint decide it in more ways than one."""
        return self._requests.origin

    async def ticket(
        self, key: str, content_type: str | None, content_length: int | None, expires_seconds: int
    ) -> Ticket:
        """Presign a PUT, without a word to S3.

        What is declared is bound into the signature, and then nothing may lie under `key` yet (412).
        `headers` is what the client must set; a declared length is not among them, because every
        client sets Content-Length itself (browsers allow nothing else): the body must have it.
        """
        headers: dict[str, str] = {}
        if content_type is not None:
            headers["Content-Type"] = content_type
        if content_type is not None or content_length is not None:
            headers["If-None-Match"] = "*"
        length = {} if content_length is None else {"Content-Length": str(content_length)}
        async with self._translated():
            url = await self._requests.presigned("PUT", key, expires_seconds, headers | length)
        return Ticket(url, headers)

    async def read_address(self, key: str, expires_seconds: int) -> str:
        """Presign a GET."""
        async with self._translated():
            return await self._requests.presigned("GET", key, expires_seconds)

    async def look(self, key: str) -> StoredUpload | None:
        """One ranged read; an empty object has length 0, and perhaps no known ETag."""
        try:
            async with (
                self._asked("look"),
                self._requests.answered("GET", key, {"Range": f"bytes=0-{HEAD_BYTES - 1}"}) as answer,
            ):
                head = await answer.content.read(HEAD_BYTES)
        except Refused as refused:
            if _is_missing(refused):
                return None
            if refused.status == 416:  # there is no first byte
                return StoredUpload(etag="", length=0, content_type="", head=b"")
            raise _unavailable(refused) from None
        # "bytes 0-63/12345"; a store that ignores ranges gives the whole length instead.
        _, _, total = answer.headers.get("Content-Range", "").rpartition("/")
        length = int(total) if total.isdecimal() else answer.content_length or 0
        return StoredUpload(
            answer.headers["ETag"].strip('"'), length, answer.headers.get("Content-Type", ""), head
        )

    async def read(self, key: str, etag: str, length: int) -> bytes:
        """The raw photo, if it is still the one that was accepted.

        Raises JobFailed(photo_missing | photo_changed).
        """
        try:
            async with (
                self._asked("read"),
                self._requests.answered("GET", key, {"If-Match": f'"{etag}"'}) as answer,
            ):
                if answer.content_length != length:
                    raise JobFailed("photo_changed", "another length")
                return await answer.read()
        except Refused as refused:
            if _is_missing(refused):
                raise JobFailed("photo_missing") from None
            if refused.status == 412:
                raise JobFailed("photo_changed", "another ETag") from None
            raise _unavailable(refused) from None

    async def keys_of(self, job_id: UUID) -> list[str]:
        """Every object that begins with the job's names, of whatever version."""
        try:
            async with self._asked("list"):
                return [
                    key
                    for prefix in (f"incoming/{job_id}", str(job_id))
                    for key in await self._requests.listed(prefix)
                ]
        except Refused as refused:
            raise _unavailable(refused) from None

    async def delete(self, key: str) -> None:
        """Delete what lies under `key`; nothing there is fine."""
        await self._done("DELETE", key, {})

    async def publish_photo(self, key: str, photo: CleanPhoto, cache_seconds: int) -> None:
        headers = {"Content-Type": photo.content_type, "Cache-Control": f"public, max-age={cache_seconds}"}
        await self._done("PUT", key, headers, photo.data)

    async def _done(self, method: str, key: str, headers: dict[str, str], body: bytes = b"") -> None:
        try:
            async with self._asked(method.lower()), self._requests.answered(method, key, headers, body):
                pass
        except Refused as refused:
            raise _unavailable(refused) from None

    @asynccontextmanager
    async def _asked(self, operation: str) -> AsyncIterator[None]:
        """One exchange over the network, measured."""
        with metrics.s3_seconds.labels(operation).time():
            async with self._translated():
                yield

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        """Bound one operation in time; vendor errors become Unavailable, without any address in them."""
        try:
            async with asyncio.timeout(self._total_timeout_seconds):
                yield
        except TimeoutError:
            raise Unavailable("s3", "timed out") from None
        except (BotoCoreError, aiohttp.ClientError, OSError) as error:
            raise Unavailable("s3", type(error).__name__) from None


def _unavailable(refused: Refused) -> Unavailable:
    # A wrong clock is this process' own: its jobs are for others, and nobody waits for an S3 that is well.
    return Unavailable("clock" if refused.code == "RequestTimeTooSkewed" else "s3", refused.code)


def _is_missing(refused: Refused) -> bool:
    # Not the status: a missing bucket is a 404, too, and that is no fault of the photo.
    return refused.code in ("NoSuchKey", "404")
