"""Sessions and their rates, on a real Valkey and as the fake: one suite for both."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

import pytest
import pytest_asyncio

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import open_redis
from growbin.adapters.redis.sessions import RedisSessions
from growbin.ports import Sessions
from growbin.rates import Admission, Bucket, LiveSession, Rate
from tests.contract.round_trips import counting
from tests.fakes import Clock, FakeSessions

HOUR, DAY = 3600, 24 * 3600
NEW_SESSION_SECONDS = HOUR
PLENTY = Bucket(1000, 36_000)  # one each half minute and more: none while a test runs


@dataclass(frozen=True)
class Door:
    """Sessions, and time that passes for one of them."""

    sessions: Sessions
    pass_seconds: Callable[[str, float], Awaitable[None]]

    async def new(self) -> str:
        token, admission = await self.sessions.create(an_address(), rate())
        assert admission.session is not None
        return token

    async def look(self, token: str) -> LiveSession | None:
        return (await self.sessions.look(token, an_address(), rate())).session


def an_address() -> str:
    return uuid.uuid4().hex[:16]


def rate(
    session: Bucket = PLENTY, address: Bucket = PLENTY, everybody: Bucket | None = None, kind: str = ""
) -> Rate:
    """Of a kind of its own: what everybody does is not what this test does."""
    return Rate(kind or uuid.uuid4().hex, session, address, everybody)


def owner_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def database(parts: dict[str, str]) -> str:
    return f"{parts['REDIS_URL'].rstrip('/')}/3"


@pytest_asyncio.fixture(params=["fake", "real"])
async def door(request: pytest.FixtureRequest) -> AsyncIterator[Door]:
    if request.param == "fake":
        clock = Clock()

        async def advance(_: str, seconds: float) -> None:
            clock.advance(seconds)

        yield Door(FakeSessions(clock, NEW_SESSION_SECONDS), advance)
        return
    url = database(request.getfixturevalue("parts"))
    async with (
        RedisSessions.open(url=url, new_session_seconds=NEW_SESSION_SECONDS) as sessions,
        open_redis(url) as redis,
    ):

        async def age(token: str, seconds: float) -> None:
            key = keys.session(owner_of(token))
            ends_at, *kept = str(await redis.get(key)).split()
            left_ms = await redis.pttl(key)
            await redis.set(key, " ".join([f"{int(ends_at) - seconds:.0f}", *kept]))
            await redis.pexpire(key, int(left_ms - seconds * 1000))

        yield Door(sessions, age)


# --- lives ---------------------------------------------------------------------------------------


async def test_ended_session_is_unknown_from_then_on(door: Door) -> None:
    """Its token opens nothing any more; others do."""
    ended, other = [await door.new() for _ in range(2)]
    for _ in range(2):
        await door.sessions.end(owner_of(ended))
    assert await door.look(ended) is None
    assert (found := await door.look(other)) is not None
    assert found.owner == owner_of(other)


async def test_new_session_is_known_by_the_hash_of_its_token(door: Door) -> None:
    """Each token is another, too long to be guessed, and stands for its own owner."""
    tokens = [await door.new() for _ in range(3)]
    assert all(len(token) >= 43 for token in tokens)
    found = [await door.look(token) for token in tokens]
    owners = [session.owner for session in found if session]
    assert owners == [owner_of(token) for token in tokens]
    assert len(set(owners)) == 3


@pytest.mark.parametrize("token", ["", "x" * 43, "열쇠", "*"])
async def test_token_that_nobody_was_given_has_no_owner(door: Door, token: str) -> None:
    """Nor does it get one by asking; the owner's hash is no token either."""
    known = await door.new()
    for stranger in (token, token, owner_of(known)):
        assert await door.look(stranger) is None
    assert not await door.sessions.keep(owner_of(token))
    assert await door.look(token) is None


async def test_session_that_has_completed_nothing_lives_an_hour_after_its_last_call(door: Door) -> None:
    """Each call begins the hour anew; once it is over the token is worth nothing, for good."""
    token = await door.new()
    for _ in range(3):
        await door.pass_seconds(token, 0.9 * HOUR)
        session = await door.look(token)
        assert session is not None
        assert (session.is_kept, HOUR - 5 < session.expires_in <= HOUR) == (False, True)
    await door.pass_seconds(token, 1.1 * HOUR)
    for _ in range(2):
        assert await door.look(token) is None


async def test_ticket_keeps_its_session_until_it_has_ended(door: Door) -> None:
    """It lives as long as was asked for, and no later call makes that shorter."""
    token, first = await door.sessions.create(an_address(), rate(), at_least_seconds=2 * HOUR)
    second = await door.sessions.look(token, an_address(), rate(), at_least_seconds=3 * HOUR)
    for session, hours in ((first.session, 2), (second.session, 3), (await door.look(token), 3)):
        assert session is not None
        assert hours * HOUR - 5 < session.expires_in <= hours * HOUR


async def test_kept_session_lives_seven_days_after_its_last_call_and_thirty_at_most(door: Door) -> None:
    """Each visit begins the seven days anew, but the thirtieth day is the last, and what is told is true."""
    token = await door.new()
    assert await door.sessions.keep(owner_of(token))
    told = []
    for _ in range(4):
        await door.pass_seconds(token, 6.9 * DAY)
        session = await door.look(token)
        assert session is not None
        assert session.is_kept
        told.append(session.expires_in)
    week, last = 7 * DAY, (30 - 4 * 6.9) * DAY
    assert all(week - 5 < expires_in <= week for expires_in in told[:3])
    assert last - 5 < told[3] <= last + 1
    await door.pass_seconds(token, last + 5)
    assert await door.look(token) is None


async def test_kept_session_that_nobody_uses_ends_after_seven_days(door: Door) -> None:
    """It does not come back."""
    token = await door.new()
    assert await door.sessions.keep(owner_of(token))
    await door.pass_seconds(token, 7.1 * DAY)
    assert await door.look(token) is None
    assert not await door.sessions.keep(owner_of(token))


async def test_only_the_hash_of_a_token_is_stored(parts: dict[str, str]) -> None:
    """Who reads the store cannot visit; and the list of the session's jobs lives as long as it does."""
    url = database(parts)
    async with RedisSessions.open(url=url) as sessions, open_redis(url) as redis:
        token, _ = await sessions.create(an_address(), tickets := rate(session=Bucket(1, 60)))
        owner = owner_of(token)
        found = {key async for key in redis.scan_iter(match=f"*{owner}*")}
        assert found == {keys.session(owner), keys.rate(owner, tickets.kind)}
        assert [key async for key in redis.scan_iter(match=f"*{token}*")] == []
        await redis.lpush(keys.session_jobs(owner), "a job")
        for life in (HOUR, 7 * DAY):
            await redis.expire(keys.session_jobs(owner), 60)
            await sessions.look(token, an_address(), rate())
            assert life - 60 < await redis.ttl(keys.session_jobs(owner)) <= life
            await sessions.keep(owner)


async def test_new_job_is_listed_as_its_session_is_looked_up(parts: dict[str, str]) -> None:
    """At the head of a list that lives as long as the session and holds the latest hundred; of a call that is
    refused, or has no session, nothing is listed."""
    url = database(parts)
    async with RedisSessions.open(url=url) as sessions, open_redis(url) as redis:
        first, *later = [uuid.uuid4() for _ in range(102)]
        token, _ = await sessions.create(an_address(), rate(), new_job=first)
        name = keys.session_jobs(owner_of(token))
        assert await redis.lrange(name, 0, -1) == [str(first)]
        assert HOUR - 60 < await redis.ttl(name) <= HOUR
        for job_id in later:
            await sessions.look(token, an_address(), rate(), new_job=job_id)
        await sessions.look(token, an_address(), rate())
        assert await redis.lrange(name, 0, -1) == [str(job_id) for job_id in later[:0:-1]]

        spent = rate(session=Bucket(1, 60))
        newest = uuid.uuid4()
        await sessions.look(token, an_address(), spent, new_job=newest)
        await sessions.look(token, an_address(), spent, new_job=uuid.uuid4())
        assert (await redis.lindex(name, 0)) == str(newest)
        stranger = uuid.uuid4().hex
        await sessions.look(stranger, an_address(), rate(), new_job=uuid.uuid4())
        assert not await redis.exists(keys.session_jobs(owner_of(stranger)))


async def test_session_of_an_earlier_version_is_kept(parts: dict[str, str]) -> None:
    """It wrote "1" for seven days: the session lives on, and its thirty days begin now."""
    url = database(parts)
    async with RedisSessions.open(url=url) as sessions, open_redis(url) as redis:
        token = uuid.uuid4().hex
        await redis.set(keys.session(owner_of(token)), "1", ex=7 * DAY)
        for _ in range(2):
            session = (await sessions.look(token, an_address(), rate())).session
            assert session is not None
            assert (session.is_kept, 7 * DAY - 5 < session.expires_in <= 7 * DAY) == (True, True)


async def test_session_whose_end_has_passed_is_over_though_its_key_lives(parts: dict[str, str]) -> None:
    """An earlier version beside us slides seven days without an end."""
    url = database(parts)
    async with RedisSessions.open(url=url) as sessions, open_redis(url) as redis:
        token = uuid.uuid4().hex
        await redis.set(keys.session(owner_of(token)), "1000000000 kept", ex=7 * DAY)
        assert (await sessions.look(token, an_address(), rate())).session is None


# --- rates ---------------------------------------------------------------------------------------


def left(admission: Admission) -> dict[str, int]:
    return {level.holder: level.left for level in admission.levels}


async def test_call_over_a_sessions_rate_is_told_when_to_come_again(door: Door) -> None:
    """What the bucket holds may come at once; what is refused is counted nowhere and hurts no other."""
    token, other = await door.new(), await door.new()
    reads = rate(session=Bucket(3, 600))
    address = an_address()
    admissions = [await door.sessions.look(token, address, reads) for _ in range(5)]
    assert [left(admission) for admission in admissions[:3]] == [
        {"address": 1000 - number, "session": 3 - number} for number in (1, 2, 3)
    ]
    assert [admission.retry_after_seconds for admission in admissions[:3]] == [0, 0, 0]
    assert all(170 <= admission.retry_after_seconds <= 200 for admission in admissions[3:])
    after = await door.sessions.look(other, address, reads)
    assert (after.retry_after_seconds, left(after)) == (0, {"address": 996, "session": 2})


async def test_address_is_counted_whatever_its_sessions(door: Door) -> None:
    """Also unknown tokens and new sessions, of which a refused one is not made."""
    calls = rate(address=Bucket(3, 600))
    address = an_address()
    token, made = await door.sessions.create(address, calls)
    assert made.retry_after_seconds == 0
    assert (await door.sessions.look("nobody", address, calls)).retry_after_seconds == 0
    assert (await door.sessions.look(token, address, calls)).retry_after_seconds == 0
    refused_token, refused = await door.sessions.create(address, calls)
    assert 170 <= refused.retry_after_seconds <= 200
    assert refused.session is None
    assert await door.look(refused_token) is None
    assert (await door.sessions.look(token, an_address(), calls)).retry_after_seconds == 0


async def test_session_that_is_only_made_has_all_its_calls_before_it(door: Door) -> None:
    """A rate may count for address and everybody alone."""
    tickets = rate(session=Bucket(1, 60), everybody=PLENTY)
    address = an_address()
    token, made = await door.sessions.create(address, replace(tickets, session=None))
    assert left(made) == {"address": 999, "everybody": 999}
    admissions = [await door.sessions.look(token, address, tickets) for _ in range(2)]
    assert [admission.retry_after_seconds > 0 for admission in admissions] == [False, True]


async def test_everybody_together_is_counted_too(door: Door) -> None:
    """The third of all, from whatever address and session, waits."""
    calls = rate(everybody=Bucket(2, 60))
    admissions = [(await door.sessions.create(an_address(), calls))[1] for _ in range(3)]
    assert [admission.retry_after_seconds > 0 for admission in admissions] == [False, False, True]


async def test_bucket_fills_evenly(door: Door) -> None:
    """After a part of its time the same part of it is there again."""
    token = await door.new()
    reads = rate(session=Bucket(4, 2))  # one each half second
    address = an_address()

    async def taken() -> int:
        count = 0
        while not (await door.sessions.look(token, address, reads)).retry_after_seconds:
            count += 1
        return count

    assert await taken() >= 4
    await asyncio.sleep(1.1)
    assert await taken() >= 2


@pytest.mark.parametrize("calls", [7, 30, 120])
async def test_whole_bucket_may_be_taken_at_once(door: Door, calls: int) -> None:
    """Also where its part of a minute is no whole number of milliseconds; not one more."""
    token, address = await door.new(), an_address()
    reads = rate(address=Bucket(calls, 6000))
    refused = [
        (await door.sessions.look(token, address, reads)).retry_after_seconds > 0 for _ in range(calls + 1)
    ]
    assert refused == [False] * calls + [True]


async def test_bucket_lives_no_longer_than_it_takes_to_fill(parts: dict[str, str]) -> None:
    """Who stays away leaves nothing behind; a value that nobody could have written is an empty bucket."""
    url = database(parts)
    async with RedisSessions.open(url=url) as sessions, open_redis(url) as redis:
        token, _ = await sessions.create(an_address(), rate())
        reads, address = rate(address=Bucket(2, 60)), an_address()
        await sessions.look(token, address, reads)
        key = keys.rate(address, reads.kind)
        assert 25 < await redis.ttl(key) <= 30
        for odd in ("1e300", "x", "nan"):
            await redis.set(key, odd)
            assert (await sessions.look(token, address, reads)).retry_after_seconds <= 60


async def test_call_is_either_refused_or_counted(door: Door) -> None:
    """However near to its rate it comes, also by less than a millisecond: no session is made and refused."""
    address, calls = an_address(), rate(address=Bucket(300, 1))
    admissions: list[Admission] = []
    for _ in range(2):  # more at once than there is room for
        made = await asyncio.gather(*(door.sessions.create(address, calls) for _ in range(450)))
        admissions += [admission for _, admission in made]
    refused = [admission.retry_after_seconds > 0 for admission in admissions]
    assert refused == [admission.session is None for admission in admissions]
    assert any(refused)


# --- round trips ---------------------------------------------------------------------------------


async def test_counting_a_call_costs_no_round_trip_of_its_own(parts: dict[str, str]) -> None:
    """To look up a session, with three buckets, is one round trip; so is to make one, and to keep it."""
    async with counting(database(parts)) as (url, sent), RedisSessions.open(url=url) as sessions:
        calls = rate(everybody=PLENTY)
        token, _ = await sessions.create(an_address(), calls)  # which connects, and loads the script
        for call in (
            lambda: sessions.look(token, an_address(), calls),
            lambda: sessions.create(an_address(), calls),
            lambda: sessions.keep(owner_of(token)),
        ):
            before = len(sent)
            await call()
            assert len(sent) - before == 1
