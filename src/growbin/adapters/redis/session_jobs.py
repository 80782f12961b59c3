"""What is asked of many jobs at once: the states of a list."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import ask
from growbin.adapters.redis.progress_log import RedisProgressLog
from growbin.adapters.redis.stored_values import is_snapshot, read_end, read_snapshot
from growbin.job import JobState


class RedisSessionJobs:
    """Implements ports.SessionJobs on the progress log's connections; every method may raise Unavailable."""

    def __init__(self, progress: RedisProgressLog) -> None:
        self._redis = progress.redis
        self._progress = progress

    async def states(self, job_ids: Sequence[UUID]) -> Sequence[JobState | None]:
        if not job_ids:
            return []
        (seconds, microseconds), ends, snapshots = await ask(
            asyncio.gather(
                self._redis.time(),
                self._redis.mget([keys.result(job_id) for job_id in job_ids]),
                self._redis.mget([keys.progress(job_id) for job_id in job_ids]),
            )
        )
        now_ms = seconds * 1000 + microseconds // 1000
        return [await self._state(*found, now_ms) for found in zip(job_ids, ends, snapshots, strict=True)]

    async def _state(
        self, job_id: UUID, end: str | None, snapshot: str | None, now_ms: int
    ) -> JobState | None:
        if end is not None:
            return read_end(job_id, end, now_ms)
        if snapshot is None:
            return None
        if is_snapshot(str(job_id), snapshot, now_ms):
            return read_snapshot(snapshot, now_ms)
        return await self._progress.state(job_id)  # the script knows what becomes of it
