"""The fake of ports.UploadStore."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Sequence
from uuid import UUID

from growbin.job import CleanPhoto, StoredUpload
from growbin.ports import Ticket
from tests.fakes.absence import MayBeAway

HEAD_BYTES = 64


class FakeUploadStore(MayBeAway):
    """One bucket. `use` plays the client that sends its photo with a ticket; `put` lays an object there,
    whoever sent it."""

    part = "s3"

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, StoredUpload] = {}
        self.published: dict[str, CleanPhoto] = {}
        self.publish_gate: asyncio.Event | None = None  # what was put is there, and nobody is told
        self.delete_gate: asyncio.Event | None = None  # what is to be deleted is still there
        self.looks = 0
        self._tickets: dict[str, tuple[str, dict[str, str], int | None]] = {}

    def use(self, url: str, headers: dict[str, str], data: bytes) -> int:
        """The status that answers a PUT."""
        if url not in self._tickets:
            return 403
        key, bound_headers, bound_length = self._tickets[url]
        if not bound_headers.items() <= headers.items() or bound_length not in (None, len(data)):
            return 403
        if "If-None-Match" in bound_headers and key in self.objects:
            return 412
        self.put(key, data, headers.get("Content-Type", ""))
        return 200

    def put(self, key: str, data: bytes, content_type: str = "image/jpeg") -> None:
        if not data:  # a ranged read finds no first byte of it, and so learns nothing else
            self.objects[key] = StoredUpload(etag="", length=0, content_type="", head=b"")
            return
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        self.objects[key] = StoredUpload(etag, len(data), content_type, data[:HEAD_BYTES])

    async def ticket(
        self, key: str, content_type: str | None, content_length: int | None, expires_seconds: int
    ) -> Ticket:
        self._answer()
        headers: dict[str, str] = {}
        if content_type is not None:
            headers["Content-Type"] = content_type
        if content_type is not None or content_length is not None:
            headers["If-None-Match"] = "*"
        signature = secrets.token_hex(32)
        url = f"https://bucket.test/{key}?X-Amz-Expires={expires_seconds}&X-Amz-Signature={signature}"
        self._tickets[url] = key, headers, content_length
        return Ticket(url, headers)

    async def look(self, key: str) -> StoredUpload | None:
        self._answer()
        self.looks += 1
        return self.objects.get(key)

    async def keys_of(self, job_id: UUID) -> Sequence[str]:
        self._answer()
        return [key for key in self.objects if key.removeprefix("incoming/").startswith(str(job_id))]

    async def delete(self, key: str) -> None:
        self._answer()
        if self.delete_gate is not None:
            await self.delete_gate.wait()
        self.objects.pop(key, None)
        self.published.pop(key, None)

    async def publish_photo(self, key: str, photo: CleanPhoto, cache_seconds: int) -> None:
        self._answer()
        self.published[key] = photo
        self.put(key, photo.data, photo.content_type)
        if self.publish_gate is not None:
            await self.publish_gate.wait()
