"""Sessions on Redis, and how often they and their addresses call. The server keeps only a token's SHA-256."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Self
from uuid import UUID

from redis.asyncio import Redis

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import ask, open_redis
from growbin.job import RECENT_JOBS, SESSION_SECONDS
from growbin.rates import TOLERANCE_MS, Admission, Bucket, Holder, Level, LiveSession, Rate

TOKEN_BYTES = 32

# One script, so that counting a call costs no round trip of its own. A session's value is the second of its
# end, and whether it is kept: "1767225600 kept". An earlier version wrote "1": its 30 days begin now.
#
# KEYS  1 session  2 its jobs' list  3... the buckets; `of_session` of them, the last, count only if it lives
# ARGV  1 as JSON {operation, new_seconds, kept_seconds, longest_seconds, at_least_seconds, tolerance_ms,
#       buckets: [{calls, ms}], of_session, new_job, most_jobs}
# A bucket's value is the moment, in milliseconds, at which it is full again (growbin/rates.py).
SCRIPT = """
local p = cjson.decode(ARGV[1])
local clock = redis.call('TIME')
local now_s = tonumber(clock[1])
local now_ms = now_s * 1000 + tonumber(clock[2]) / 1000

local session
local text = redis.pcall('GET', KEYS[1])
if p.operation == 'create' then
  session = { ends_at = now_s + p.longest_seconds, is_kept = false }
elseif type(text) == 'string' then
  local ends_at = tonumber(string.match(text, '^%d+') or 1)
  session = { ends_at = ends_at, is_kept = string.find(text, 'kept') ~= nil }
  if session.ends_at == 1 then
    session = { ends_at = now_s + p.longest_seconds, is_kept = true }
  end
  if session.ends_at <= now_s then
    session = nil
  end
end

local counted = session and #p.buckets or #p.buckets - p.of_session
local full_at, full_in, is_refused = {}, {}, false
for i = 1, counted do
  local bucket = p.buckets[i]
  local stored = tonumber(redis.pcall('GET', KEYS[i + 2])) or 0
  local begins = stored > now_ms and math.min(stored, now_ms + bucket.ms) or now_ms -- also what is no number
  full_at[i] = begins + bucket.ms / bucket.calls
  full_in[i] = math.floor(full_at[i] - now_ms) -- so that the caller, who has no fractions, judges alike
  is_refused = is_refused or full_at[i] - now_ms - bucket.ms >= p.tolerance_ms
end
if not is_refused then
  for i = 1, counted do
    redis.call('SET', KEYS[i + 2], string.format('%.3f', full_at[i]), 'PX', full_in[i] + 1)
  end
end
if not session or (is_refused and p.operation == 'create') then
  return { -1, 0, full_in }
end

local left_seconds = math.max(redis.call('TTL', KEYS[1]), 0)
if not is_refused then
  session.is_kept = session.is_kept or p.operation == 'keep'
  local slides_seconds = session.is_kept and p.kept_seconds or p.new_seconds
  local wanted_seconds = math.max(slides_seconds, p.at_least_seconds, left_seconds)
  left_seconds = math.min(wanted_seconds, session.ends_at - now_s)
  local value = string.format('%.0f', session.ends_at) .. (session.is_kept and ' kept' or '')
  redis.call('SET', KEYS[1], value, 'EX', left_seconds)
  -- Once, though the call is made twice where its answer was lost.
  if p.new_job and not redis.call('LPOS', KEYS[2], p.new_job) then
    redis.call('LPUSH', KEYS[2], p.new_job)
    redis.call('LTRIM', KEYS[2], 0, p.most_jobs - 1)
  end
  redis.call('EXPIRE', KEYS[2], left_seconds)
end
return { left_seconds, session.is_kept and 1 or 0, full_in }
"""


class RedisSessions:
    """Implements ports.Sessions; every method may raise Unavailable."""

    def __init__(self, redis: Redis, new_session_seconds: int) -> None:
        self._redis = redis
        self._new_session_seconds = new_session_seconds
        self._script = redis.register_script(SCRIPT)

    @classmethod
    @asynccontextmanager
    async def open(cls, *, url: str, new_session_seconds: int = 3600) -> AsyncIterator[Self]:
        """`new_session_seconds`: how long a session lives that has completed no upload."""
        async with open_redis(url) as redis:
            yield cls(redis, new_session_seconds)

    async def create(
        self, address: str, rate: Rate, *, at_least_seconds: int = 0, new_job: UUID | None = None
    ) -> tuple[str, Admission]:
        token = secrets.token_urlsafe(TOKEN_BYTES)
        return token, await self._run("create", _owner(token), address, rate, at_least_seconds, new_job)

    async def look(
        self,
        token: str,
        address: str,
        rate: Rate,
        *,
        at_least_seconds: int = 0,
        new_job: UUID | None = None,
    ) -> Admission:
        return await self._run("look", _owner(token), address, rate, at_least_seconds, new_job)

    async def keep(self, owner: str) -> bool:
        return (await self._run("keep", owner)).session is not None

    async def end(self, owner: str) -> None:
        await ask(self._redis.delete(keys.session(owner), keys.session_jobs(owner)))

    async def _run(
        self,
        operation: str,
        owner: str,
        address: str = "",
        rate: Rate | None = None,
        at_least_seconds: int = 0,
        new_job: UUID | None = None,
    ) -> Admission:
        buckets = _buckets(owner, address, rate) if rate else []
        parameters = _parameters(operation, self._new_session_seconds, at_least_seconds, rate)
        if new_job is not None:
            parameters = f'{{"new_job":"{new_job}","most_jobs":{RECENT_JOBS},{parameters[1:]}'
        expires_in, is_kept, full_in_ms = await ask(
            self._script(
                keys=[keys.session(owner), keys.session_jobs(owner), *(key for key, _, _ in buckets)],
                args=[parameters],
            )
        )
        session = LiveSession(owner, expires_in, bool(is_kept)) if expires_in >= 0 else None
        counted = zip(buckets, full_in_ms, strict=False)  # the session's own only where it lives
        return Admission(session, [Level(holder, it, full_in) for (_, holder, it), full_in in counted])


@lru_cache
def _parameters(operation: str, new_seconds: int, at_least_seconds: int, rate: Rate | None) -> str:
    """What the calls of one kind have in common."""
    buckets = _buckets("", "", rate) if rate else []
    return json.dumps(
        {
            "operation": operation,
            "new_seconds": new_seconds,
            "kept_seconds": SESSION_SECONDS,
            "longest_seconds": keys.LONGEST_SESSION_SECONDS,
            "at_least_seconds": at_least_seconds,
            "tolerance_ms": TOLERANCE_MS,
            "buckets": [{"calls": it.calls, "ms": it.seconds * 1000} for _, _, it in buckets],
            "of_session": int(rate is not None and rate.session is not None),
        }
    )


def _buckets(owner: str, address: str, rate: Rate) -> list[tuple[str, Holder, Bucket]]:
    """Key, holder and bucket of each; the session's own is the last."""
    found: list[tuple[str, Holder, Bucket]] = [(keys.rate(address, rate.kind), "address", rate.address)]
    if rate.everybody:
        found.append((keys.rate("everybody", rate.kind), "everybody", rate.everybody))
    if rate.session:
        found.append((keys.rate(owner, rate.kind), "session", rate.session))
    return found


def _owner(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
