"""What is asked of many jobs at once: the states of a list, and how many of a caller's are unfinished."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import ask
from growbin.adapters.redis.progress_log import RedisProgressLog
from growbin.adapters.redis.stored_values import is_snapshot, read_end, read_snapshot
from growbin.job import JobState, Upload
from growbin.rates import Holder

# KEYS  the holders' sets of unfinished jobs, scored by deadline: whoever looks drops those that are over.
# ARGV  1 job  2 until its deadline, in milliseconds  3... how many each holder may have
# Returns which holder has too many, counted from 1, else 0.
ADMIT = """
local clock = redis.call('TIME')
local now_ms = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
for i, key in ipairs(KEYS) do
  if redis.call('TYPE', key).ok ~= 'zset' then redis.call('DEL', key) end
  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now_ms))
  local is_new = not redis.call('ZSCORE', key, ARGV[1])
  if is_new and redis.call('ZCARD', key) >= tonumber(ARGV[i + 2]) then return i end
end
for _, key in ipairs(KEYS) do
  redis.call('ZADD', key, string.format('%.0f', now_ms + ARGV[2]), ARGV[1])
  redis.call('PEXPIRE', key, ARGV[2])
end
return 0
"""


class RedisSessionJobs:
    """Implements ports.SessionJobs on the progress log's connections; every method may raise Unavailable."""

    def __init__(self, progress: RedisProgressLog) -> None:
        self._redis = progress.redis
        self._progress = progress
        self._admit = self._redis.register_script(ADMIT)

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
        state = read_snapshot(snapshot, now_ms) if is_snapshot(job_id, snapshot) else None
        if state is None or state.left_seconds <= 0:
            # One that is due, or that another version wrote: the script knows what becomes of it.
            return await self._progress.state(job_id)
        return state

    async def admit(
        self, upload: Upload, *, session_most: int, address_most: int, deadline_seconds: int
    ) -> Holder | None:
        holders: list[tuple[Holder, str, int]] = [("session", upload.owner, session_most)]
        if upload.address_hash:
            holders.append(("address", upload.address_hash, address_most))
        full = await ask(
            self._admit(
                keys=[keys.unfinished(name) for _, name, _ in holders],
                args=[str(upload.job_id), deadline_seconds * 1000, *(most for _, _, most in holders)],
            )
        )
        return holders[full - 1][0] if full else None
