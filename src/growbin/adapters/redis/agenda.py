"""The agenda on Redis: deletions that are not finished, each pass an entry that comes due by Redis' clock.

An entry is `{job_id} {pass}`, and `{job_id} {pass} again` from its first claim on.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Self
from uuid import UUID

import structlog
from redis.asyncio import Redis

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import ask, open_redis
from growbin.ports import Erasure

log = structlog.get_logger()

# To claim is to move forward: of two gateways one finds the entry due, and should that one die, it comes due
# again for both.
CLAIM = """
local clock = redis.call('TIME')
local now_ms = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now_ms), 'LIMIT', 0, ARGV[1])
for _, entry in ipairs(due) do
  redis.call('ZREM', KEYS[1], entry)
  local claimed = string.match(entry, ' again$') and entry or entry .. ' again'
  redis.call('ZADD', KEYS[1], string.format('%.0f', now_ms + tonumber(ARGV[2])), claimed)
end
return due
"""

AGAIN = " again"
_ENTRY = re.compile(rf"([0-9a-f-]{{36}}) [0-9]+({AGAIN})?")


def passes_of(job_id: UUID, after_seconds: Sequence[float]) -> Mapping[str, int]:
    """The entries of a deletion, and the milliseconds from now at which each is due."""
    return {
        f"{job_id} {number}": int(seconds * 1000) for number, seconds in enumerate(after_seconds, start=1)
    }


class RedisAgenda:
    """Implements ports.Agenda; every method may raise Unavailable."""

    def __init__(self, redis: Redis, claim_seconds: float) -> None:
        self._redis = redis
        self._claim_ms = int(claim_seconds * 1000)
        self._claim = redis.register_script(CLAIM)

    @classmethod
    @asynccontextmanager
    async def open(cls, *, url: str, claim_seconds: float = 20) -> AsyncIterator[Self]:
        async with open_redis(url) as redis:
            yield cls(redis, claim_seconds)

    async def claim(self, most: int) -> Sequence[Erasure]:
        due = await ask(self._claim(keys=[keys.AGENDA], args=[most, self._claim_ms]))
        return [erasure for erasure in map(_read, due) if erasure]

    async def wipe(self, job_id: UUID) -> None:
        named = (keys.progress, keys.events, keys.lease, keys.attempts, keys.answer)
        await ask(self._redis.delete(*(name(job_id) for name in named)))

    async def done(self, erasure: Erasure) -> None:
        await ask(self._redis.zrem(keys.AGENDA, erasure.entry))


def _read(due: str) -> Erasure | None:
    """None for what another version wrote: it stays for that one."""
    found = _ENTRY.fullmatch(due)
    if not found:
        log.warning("agenda_entry_unreadable")
        return None
    return Erasure(UUID(found[1]), due.removesuffix(AGAIN) + AGAIN, is_repeated=found[2] is not None)
