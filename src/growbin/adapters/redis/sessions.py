"""Sessions on Redis. The server keeps only the SHA-256 of a token."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from redis.asyncio import Redis

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import ask, open_redis
from growbin.job import SESSION_SECONDS

TOKEN_BYTES = 32


class RedisSessions:
    """Implements ports.Sessions; every method may raise Unavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @classmethod
    @asynccontextmanager
    async def open(cls, *, url: str) -> AsyncIterator[Self]:
        async with open_redis(url) as redis:
            yield cls(redis)

    async def create(self) -> str:
        token = secrets.token_urlsafe(TOKEN_BYTES)
        owner = hashlib.sha256(token.encode()).hexdigest()
        await ask(self._redis.set(keys.session(owner), "1", ex=SESSION_SECONDS))
        return token

    async def owner(self, token: str) -> str | None:
        owner = hashlib.sha256(token.encode()).hexdigest()
        # EXPIRE both asks whether the session lives and lets its days slide, with those of its jobs' list.
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.expire(keys.session(owner), SESSION_SECONDS)
            pipeline.expire(keys.session_jobs(owner), SESSION_SECONDS)
            lives, _ = await ask(pipeline.execute())
        return owner if lives else None

    async def end(self, owner: str) -> None:
        await ask(self._redis.delete(keys.session(owner), keys.session_jobs(owner)))
