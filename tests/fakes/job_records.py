"""The fake of ports.JobRecords."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from growbin.errors import Rejected
from growbin.job import Job, Upload
from tests.fakes.absence import MayBeAway
from tests.fakes.clock import Clock

RECENT_JOBS = 100
STAMPS = {"etag", "length", "content_type", "accepted_at_ms", "deadline_ms"}


class FakeJobRecords(MayBeAway):
    def __init__(self, clock: Clock, ticket_seconds: int = 300) -> None:
        super().__init__()
        self.clock = clock
        self.uploads: dict[UUID, Upload] = {}
        self._ticket_ms = ticket_seconds * 1000
        self._keys: dict[tuple[str, str], Upload] = {}
        self._recent: dict[str, list[UUID]] = {}

    async def create(self, upload: Upload, idempotency_key: str | None) -> Upload:
        self._answer()
        if idempotency_key is not None:
            claimed = self._keys.setdefault((upload.owner, idempotency_key), upload)
            if _request(claimed) != _request(upload):
                raise Rejected("idempotency_key_reused", "Send a new key.")
            if claimed.job_id in self.uploads:
                return self.uploads[claimed.job_id]
            self._keys[upload.owner, idempotency_key] = upload
        now_ms = self.clock.now_ms()
        times = {"created_at_ms": now_ms, "ticket_expires_at_ms": now_ms + self._ticket_ms}
        self.uploads[upload.job_id] = upload.model_copy(update=times)
        return self.uploads[upload.job_id]

    async def list_job(self, upload: Upload) -> None:
        self._answer()
        self.put_first(upload.owner, upload.job_id)

    def put_first(self, owner: str, job_id: UUID) -> None:
        """As sessions do for a new job."""
        recent = self._recent.setdefault(owner, [])
        if job_id not in recent:
            recent.insert(0, job_id)
            del recent[RECENT_JOBS:]

    def forget_newest(self, owner: str) -> UUID:
        """As a server does that was set back."""
        return self._recent[owner].pop(0)

    async def get(self, job_id: UUID) -> Upload | None:
        self._answer()
        return self.uploads.get(job_id)

    async def mark_published(self, job: Job) -> None:
        self._answer()
        upload = self.uploads.get(job.job_id)
        if upload is not None and not upload.published:
            stamps = job.model_dump(include=STAMPS) | {"published": True}
            self.uploads[job.job_id] = upload.model_copy(update=stamps)

    async def erase(self, job_id: UUID) -> None:
        self._answer()
        self.uploads.pop(job_id, None)

    async def recent(self, owner: str, limit: int) -> Sequence[UUID]:
        self._answer()
        return self._recent.get(owner, [])[:limit]

    async def newest(self, owners: Sequence[str]) -> Sequence[UUID | None]:
        self._answer()
        return [next(iter(self._recent.get(owner, [])), None) for owner in owners]


def _request(upload: Upload) -> tuple[object, ...]:
    return upload.declared_type, upload.declared_length, upload.question, upload.locale
