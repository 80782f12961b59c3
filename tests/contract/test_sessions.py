"""Sessions, on a real Valkey and as the fake: one suite for both."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
import pytest_asyncio

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import open_redis
from growbin.adapters.redis.sessions import RedisSessions
from growbin.ports import Sessions
from tests.fakes import Clock, FakeSessions

DAY = 24 * 3600


@dataclass(frozen=True)
class Door:
    """Sessions, and days that pass for one of them."""

    sessions: Sessions
    pass_days: Callable[[str, float], Awaitable[None]]


def owner_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def database(parts: dict[str, str]) -> str:
    return f"{parts['REDIS_URL'].rstrip('/')}/3"


@pytest_asyncio.fixture(params=["fake", "real"])
async def door(request: pytest.FixtureRequest) -> AsyncIterator[Door]:
    if request.param == "fake":
        clock = Clock()

        async def advance(_: str, days: float) -> None:
            clock.advance(days * DAY)

        yield Door(FakeSessions(clock), advance)
        return
    url = database(request.getfixturevalue("parts"))
    async with RedisSessions.open(url=url) as sessions, open_redis(url) as redis:

        async def age(token: str, days: float) -> None:
            key = keys.session(owner_of(token))
            await redis.pexpire(key, await redis.pttl(key) - int(days * DAY * 1000))

        yield Door(sessions, age)


async def test_ended_session_is_unknown_from_then_on(door: Door) -> None:
    """Its token opens nothing any more; others do."""
    ended, other = [await door.sessions.create() for _ in range(2)]
    for _ in range(2):
        await door.sessions.end(owner_of(ended))
    assert await door.sessions.owner(ended) is None
    assert await door.sessions.owner(other) == owner_of(other)


async def test_new_session_is_known_by_the_hash_of_its_token(door: Door) -> None:
    """Each token is another, too long to be guessed, and stands for its own owner."""
    tokens = [await door.sessions.create() for _ in range(3)]
    assert all(len(token) >= 43 for token in tokens)
    owners = [await door.sessions.owner(token) for token in tokens]
    assert owners == [owner_of(token) for token in tokens]
    assert len(set(owners)) == 3


@pytest.mark.parametrize("token", ["", "x" * 43, "열쇠", "*"])
async def test_token_that_nobody_was_given_has_no_owner(door: Door, token: str) -> None:
    """Nor does it get one by asking; the owner's hash is no token either."""
    known = await door.sessions.create()
    for stranger in (token, token, owner_of(known)):
        assert await door.sessions.owner(stranger) is None


async def test_session_lives_for_seven_days_after_it_was_last_asked_for(door: Door) -> None:
    """Each visit begins them anew; once they are over the token is worth nothing, for good."""
    token = await door.sessions.create()
    for _ in range(3):
        await door.pass_days(token, 6.9)
        assert await door.sessions.owner(token) == owner_of(token)
    await door.pass_days(token, 7.1)
    for _ in range(2):
        assert await door.sessions.owner(token) is None


async def test_only_the_hash_of_a_token_is_stored(parts: dict[str, str]) -> None:
    """Who reads the store cannot visit; and the list of the session's jobs lives as long as it does."""
    url = database(parts)
    async with RedisSessions.open(url=url) as sessions, open_redis(url) as redis:
        token = await sessions.create()
        owner = owner_of(token)
        assert [key async for key in redis.scan_iter(match=f"*{owner}*")] == [keys.session(owner)]
        assert [key async for key in redis.scan_iter(match=f"*{token}*")] == []
        assert await redis.get(keys.session(owner)) == "1"
        await redis.lpush(keys.session_jobs(owner), "a job")
        await redis.expire(keys.session_jobs(owner), DAY)
        await sessions.owner(token)
        assert 7 * DAY - 60 < await redis.ttl(keys.session_jobs(owner)) <= 7 * DAY
