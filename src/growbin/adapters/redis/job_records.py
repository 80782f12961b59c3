"""The records of uploads on Redis: what was promised to whom, for 24 hours."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self
from uuid import UUID

from redis.asyncio import Redis

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import ask, open_redis
from growbin.adapters.redis.stored_values import parse_object, read_record
from growbin.errors import Rejected, Unavailable
from growbin.job import RECENT_JOBS, SESSION_SECONDS, Job, Upload

# Stamps times from the server's clock, so that gateways with skewed clocks agree.
CREATE = """
local record = cjson.decode(ARGV[1])
local clock = redis.call('TIME')
record.created_at_ms = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
record.ticket_expires_at_ms = record.created_at_ms + tonumber(ARGV[2])
if ARGV[4] then record.claim = ARGV[4] end
local text = cjson.encode(record)
redis.call('SET', KEYS[1], text, 'EX', ARGV[3])
return text
"""

# A key belongs to the first who claims it; only the claim that was seen to lead nowhere is replaced.
CLAIM = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[2] then return holder end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
return ARGV[1]
"""

# Once: the stamps of the first publish that was confirmed stand. What was uploaded is kept for its day, and
# so is the key that made it.
MARK_PUBLISHED = """
local is_json, record = pcall(cjson.decode, redis.call('GET', KEYS[1]))
if not is_json or type(record) ~= 'table' or record.published == true then return end
for name, value in pairs(cjson.decode(ARGV[1])) do record[name] = value end
record.published = true
local is_written, text = pcall(cjson.encode, record)
if not is_written then return end
redis.call('SET', KEYS[1], text, 'EX', ARGV[2])
if type(record.claim) == 'string' and string.sub(record.claim, 1, #ARGV[3]) == ARGV[3] then
  redis.call('EXPIRE', record.claim, ARGV[2])
end
"""

STAMPS = {"etag", "length", "content_type", "accepted_at_ms", "deadline_ms"}

# A job keeps its place: to a stream that is open, whatever stands before what it knows is new. The list lives
# as long as its session (KEYS[2]).
LIST_JOB = """
if not redis.call('LPOS', KEYS[1], ARGV[1]) then
  redis.call('LPUSH', KEYS[1], ARGV[1])
  redis.call('LTRIM', KEYS[1], 0, ARGV[2] - 1)
end
local left_ms = redis.call('PTTL', KEYS[2])
redis.call('PEXPIRE', KEYS[1], left_ms > 0 and left_ms or ARGV[3] * 1000)
"""


def _request_hash(upload: Upload) -> str:
    request = f"{upload.declared_type}|{upload.declared_length}|{upload.question}|{upload.locale}"
    return hashlib.sha256(request.encode()).hexdigest()[:16]


class RedisJobRecords:
    """Implements ports.JobRecords; every method may raise Unavailable."""

    def __init__(self, jobs: Redis, sessions: Redis, ticket_seconds: int, unused_seconds: int) -> None:
        self._jobs = jobs
        self._sessions = sessions
        self._ticket_ms = ticket_seconds * 1000
        self._unused_seconds = unused_seconds
        self._create = jobs.register_script(CREATE)
        self._claim = jobs.register_script(CLAIM)
        self._mark_published = jobs.register_script(MARK_PUBLISHED)
        self._list_job = sessions.register_script(LIST_JOB)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        *,
        jobs_url: str,
        sessions_url: str,
        ticket_seconds: int,
        unused_ticket_seconds: int = 3600,
    ) -> AsyncIterator[Self]:
        """`unused_ticket_seconds`: how long a record lives whose job was not published."""
        async with AsyncExitStack() as stack:
            jobs = await stack.enter_async_context(open_redis(jobs_url))
            sessions = await stack.enter_async_context(open_redis(sessions_url))
            yield cls(jobs, sessions, ticket_seconds, unused_ticket_seconds)

    async def create(self, upload: Upload, idempotency_key: str | None) -> Upload:
        if idempotency_key is None:
            return await self._make(upload)
        name = keys.idempotency(upload.owner, hashlib.sha256(idempotency_key.encode()).hexdigest())
        holder = str(await ask(self._jobs.get(name)) or "")
        if holder and (earlier := await self._claimed(holder, upload)):
            return earlier
        # The record goes before its claim: so each claim that is found leads to a record, also when equal
        # requests come at once; and one whose record has gone may be replaced.
        made = await self._make(upload, name)
        claim = f"{upload.job_id} {_request_hash(upload)}"
        winner = str(await ask(self._claim(keys=[name], args=[claim, holder, self._unused_seconds])))
        if winner == claim:
            return made
        await ask(self._jobs.delete(keys.record(upload.job_id)))
        earlier = await self._claimed(winner, upload)
        if earlier is None:
            raise Unavailable("redis", "the job of this key was erased at the same moment")
        return earlier

    async def _make(self, upload: Upload, *claim: str) -> Upload:
        """The record keeps the name of its `claim`, which lives as long, and which a deletion has to find."""
        text = await ask(
            self._create(
                keys=[keys.record(upload.job_id)],
                args=[
                    upload.model_dump_json(exclude_none=True),
                    self._ticket_ms,
                    self._unused_seconds,
                    *claim,
                ],
            )
        )
        return Upload.model_validate_json(text)

    async def _claimed(self, claim: str, upload: Upload) -> Upload | None:
        """The job that a key made before, unless it has gone."""
        job_id, _, request_hash = claim.partition(" ")
        if not _is_id(job_id):
            return None
        if request_hash != _request_hash(upload):
            raise Rejected(
                "idempotency_key_reused",
                "This Idempotency-Key was used with another request. Send a new key.",
            )
        return await self.get(UUID(job_id))

    async def list_job(self, upload: Upload) -> None:
        await ask(
            self._list_job(
                keys=[keys.session_jobs(upload.owner), keys.session(upload.owner)],
                args=[str(upload.job_id), RECENT_JOBS, SESSION_SECONDS],
            )
        )

    async def get(self, job_id: UUID) -> Upload | None:
        return read_record(job_id, await ask(self._jobs.get(keys.record(job_id))))

    async def mark_published(self, job: Job) -> None:
        stamps = job.model_dump_json(include=STAMPS)
        await ask(
            self._mark_published(
                keys=[keys.record(job.job_id)], args=[stamps, keys.RECORD_SECONDS, keys.IDEMPOTENCY]
            )
        )

    async def erase(self, job_id: UUID) -> None:
        claim = parse_object(await ask(self._jobs.get(keys.record(job_id))) or "").get("claim")
        if isinstance(claim, str) and claim.startswith(
            keys.IDEMPOTENCY
        ):  # first, or who dies in between leaves it without its record
            await ask(self._jobs.delete(claim))
        await ask(self._jobs.delete(keys.record(job_id)))

    async def recent(self, owner: str, limit: int) -> Sequence[UUID]:
        found = await ask(self._sessions.lrange(keys.session_jobs(owner), 0, limit - 1))
        return [UUID(job_id) for job_id in found if _is_id(job_id)]

    async def newest(self, owners: Sequence[str]) -> Sequence[UUID | None]:
        looks = (self._sessions.lindex(keys.session_jobs(owner), 0) for owner in owners)
        found = await ask(asyncio.gather(*looks))
        return [UUID(job_id) if job_id and _is_id(job_id) else None for job_id in found]


def _is_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
