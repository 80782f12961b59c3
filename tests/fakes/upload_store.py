"""The fake of ports.UploadStore."""

from __future__ import annotations

import asyncio
import hashlib
import secrets

from growbin.job import (
    CleanPhoto,
    StoredUpload,
    Ticket,
)
from tests.fakes.absence import MayBeAway


class FakeUploadStore(MayBeAway):
    """`put` plays the client that uses its ticket."""

    part = "s3"

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, StoredUpload] = {}
        self.published: dict[str, CleanPhoto] = {}
        self.publish_gate: asyncio.Event | None = None  # what was put is there, and nobody is told
        self.looks = 0

    def put(self, key: str, data: bytes, content_type: str = "image/jpeg") -> None:
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        self.objects[key] = StoredUpload(f'"{etag}"', len(data), content_type, data[:64])

    async def ticket(
        self, key: str, content_type: str | None, content_length: int | None, expires_seconds: int
    ) -> Ticket:
        self._answer()
        headers = {"If-None-Match": "*"}
        if content_type is not None:
            headers["Content-Type"] = content_type
        if content_length is not None:
            headers["Content-Length"] = str(content_length)
        signature = secrets.token_hex(32)
        url = f"https://bucket.test/{key}?X-Amz-Expires={expires_seconds}&X-Amz-Signature={signature}"
        return Ticket(url, headers)

    async def look(self, key: str) -> StoredUpload | None:
        self._answer()
        self.looks += 1
        return self.objects.get(key)

    async def delete(self, key: str) -> None:
        self._answer()
        self.objects.pop(key, None)
        self.published.pop(key, None)

    async def publish_photo(self, key: str, photo: CleanPhoto, cache_seconds: int) -> None:
        self._answer()
        self.published[key] = photo
        if self.publish_gate is not None:
            await self.publish_gate.wait()
