"""The id of an event of a session's stream: opaque to its client, who gives it back."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass
from typing import Self
from uuid import UUID

from growbin.job import RECENT_JOBS

LONGEST_ID = 8000
MOST_JOBS = 2 * RECENT_JOBS  # more than an id has room for; a session may have more tickets than are listed


@dataclass(frozen=True, slots=True)
class Vector:
    """Where a client is. `newest` is the newest job it knows of; a job's id is "" before its first event."""

    newest: UUID | None
    last_ids: dict[UUID, str]

    def encode(self) -> str:
        jobs = {job_id.hex: last_id for job_id, last_id in self.last_ids.items()}
        text = json.dumps([self.newest.hex if self.newest else "", jobs], separators=(",", ":"))
        return base64.urlsafe_b64encode(zlib.compress(text.encode())).decode()

    @classmethod
    def decode(cls, text: str) -> Self | None:
        """None for what we cannot have given."""
        try:
            given = base64.urlsafe_b64decode(text[:LONGEST_ID])
            # A stranger's bytes may unpack to anything: never to more than a vector can be.
            packed = zlib.decompressobj().decompress(given, 4 * LONGEST_ID)
            newest, jobs = json.loads(packed)
            last_ids = {UUID(job_id): str(last_id) for job_id, last_id in list(jobs.items())[:MOST_JOBS]}
            return cls(UUID(newest) if newest else None, last_ids)
        except (ValueError, TypeError, AttributeError, RecursionError, zlib.error):
            return None
