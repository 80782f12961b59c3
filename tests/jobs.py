"""Uploads and jobs to begin with, each with an id of its own."""

from __future__ import annotations

import time
from uuid import uuid4

from growbin.job import Job, Upload


def upload(**chosen: object) -> Upload:
    """As upload-complete leaves it, but for what is `chosen`."""
    job_id = chosen.get("job_id") or uuid4()
    now_ms = int(time.time() * 1000)
    fields = {
        "job_id": job_id,
        "owner": "a" * 64,
        "key": f"incoming/{job_id}.jpg",
        "image_url": f"http://cdn.test/{job_id}.jpg",
        "content_type": "image/jpeg",
        "created_at_ms": now_ms,
        "ticket_expires_at_ms": now_ms + 300_000,
        "etag": "e1",
        "length": 1000,
        "accepted_at_ms": now_ms,
        "deadline_ms": now_ms + 300_000,
    }
    return Upload.model_validate(fields | chosen)


def job_of(record: Upload, *, run: int = 1, deadline_in_ms: int = 300_000) -> Job:
    fields = record.model_dump(include=set(Job.model_fields))
    return Job.model_validate(fields | {"run": run, "deadline_ms": record.created_at_ms + deadline_in_ms})
