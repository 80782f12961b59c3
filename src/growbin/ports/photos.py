"""Ports for photos and for who reads them: S3, the CDN, the cleaner, the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from growbin.job import (
    CleanPhoto,
    ContentType,
    FetchedPhoto,
    Locale,
    ModelAnswer,
    StoredUpload,
)


@dataclass(frozen=True, slots=True)
class Ticket:
    """The presigned permission to upload one photo."""

    url: str
    headers: dict[str, str]


class UploadStore(Protocol):
    """S3."""

    async def ticket(
        self, key: str, content_type: str | None, content_length: int | None, expires_seconds: int
    ) -> Ticket:
        """Presign a PUT. What is declared is bound into the signature, with `If-None-Match: *`."""

    async def look(self, key: str) -> StoredUpload | None:
        """What lies under `key` (one ranged read), or None when there is nothing."""

    async def keys_of(self, job_id: UUID) -> Sequence[str]:
        """Whatever lies there of a job: as it came, and the public copy, in the shape of any version."""

    async def delete(self, key: str) -> None: ...

    async def publish_photo(self, key: str, photo: CleanPhoto, cache_seconds: int) -> None:
        """Put the clean copy in its public place."""


class PhotoCache(Protocol):
    """What the CDN keeps of public photos."""

    async def forget(self, keys: Sequence[str]) -> None:
        """Within a minute the CDN serves these photos no more."""


class PhotoSource(Protocol):
    """CDN first, then S3."""

    async def fetch(self, key: str, etag: str, length: int) -> FetchedPhoto:
        """Raises JobFailed(photo_missing | photo_changed)."""


class PhotoCleaner(Protocol):
    async def clean(
        self, data: bytes, target: ContentType, *, owner: str | None = None, address: str | None = None
    ) -> CleanPhoto:
        """Hygiene in a child process. Owners and addresses take turns. Raises
        JobFailed(unsupported_photo | photo_unreadable | photo_too_complex)."""


class Analyst(Protocol):
    """The vision model."""

    async def ask(self, photo: CleanPhoto, question: str | None, locale: Locale) -> ModelAnswer:
        """At most one paid answer. Raises Throttled (nothing was paid), Unavailable (perhaps paid),
        JobFailed(model_refused | model_answer_invalid)."""
