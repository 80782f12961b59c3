"""The budget of paid calls, on a real Valkey and as the fake: one suite for both."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from growbin.adapters.redis import keys
from growbin.adapters.redis.progress_log import RedisProgressLog
from growbin.budgets import Budget, Scope, parse_limits
from growbin.job import Job, ModelAnswer
from growbin.ports import BudgetSpent, Counting, Started
from growbin.usage import Usage
from tests.fakes import Clock, FakeProgressLog
from tests.jobs import job_of, upload

CALL_MICROS = 1000
DAY_MS = 86_400_000


def budget(first_share: float = 0, **limits: str) -> Budget:
    scopes: tuple[Scope, ...] = ("everybody", "session", "address")
    told = tuple(limit for scope in scopes for limit in parse_limits(scope, limits.get(scope, "")))
    return Budget(told, first_share, call_micros=CALL_MICROS)


@dataclass
class Desk:
    """Consumers under one budget."""

    progress: RedisProgressLog | FakeProgressLog

    async def job(self, owner: str | None = None, address: str | None = None) -> tuple[Job, int]:
        """A started job of a session, and its attempt; a new session and address where none is named."""
        record = upload().model_copy(
            update={
                "owner": owner or secrets.token_hex(32),
                "address_hash": address or secrets.token_hex(8),
            }
        )
        job = job_of(record)
        start = await self.progress.begin(job, alone=False, call_id=secrets.token_hex(4))
        assert isinstance(start, Started)
        return job, start.attempt

    async def count(self, owner: str | None = None, address: str | None = None) -> Counting:
        job, attempt = await self.job(owner, address)
        return await self.progress.count_paid_call(job, attempt, secrets.token_hex(4))

    async def let_lapse(self) -> None:
        """All open reservations were made too long ago."""
        if isinstance(self.progress, FakeProgressLog):
            assert self.progress.book is not None
            self.progress.book.open = dict.fromkeys(self.progress.book.open, 0)
        else:
            names: Any = await self.progress._redis.zrange(keys.open_reservations(), 0, -1)
            for member in names:
                await self.progress._redis.zadd(keys.open_reservations(), {member: 1})

    async def let_windows_pass(self) -> None:
        """What was counted was counted yesterday."""
        if isinstance(self.progress, FakeProgressLog):
            book = self.progress.book
            assert book is not None
            book.used = Counter(
                {(holder, window, at - 1, what): n for (holder, window, at, what), n in book.used.items()}
            )
        else:
            await self.progress._redis.hset(keys.budget(keys.EVERYBODY), mapping={"day": 1, "minute": 1})

    async def let_a_day_pass(self) -> None:
        """As above; so were the reservations made that are open."""
        await self.let_windows_pass()
        if isinstance(self.progress, FakeProgressLog):
            book = self.progress.book
            assert book is not None
            book.open = {call_id: at_ms - DAY_MS for call_id, at_ms in book.open.items()}
        else:
            names: Any = await self.progress._redis.zrange(keys.open_reservations(), 0, -1)
            for member in names:
                await self.progress._redis.zincrby(keys.open_reservations(), -DAY_MS, member)

    async def books(self) -> dict[str, int]:
        """Everybody's: calls and micro-dollars of the day, what was reserved, settled, and is open."""
        if isinstance(self.progress, FakeProgressLog):
            book = self.progress.book
            assert book is not None
            names = ("calls", "micros")
            day = {
                name: sum(
                    number
                    for (holder, window, _, what), number in book.used.items()
                    if (holder, window, what) == ("everybody", "day", name)
                )
                for name in names
            }
            return {**day, "reserved": book.reserved, "settled": book.settled, "open": len(book.open)}
        redis = self.progress._redis
        told = await redis.hgetall(keys.budget(keys.EVERYBODY))
        return {
            "calls": int(told.get("day:calls", 0)),
            "micros": int(told.get("day:micros", 0)),
            "reserved": int(told.get("reserved", 0)),
            "settled": int(told.get("settled", 0)),
            "open": await redis.zcard(keys.open_reservations()),
        }


Open = Callable[[Budget], Awaitable[Desk]]


@pytest_asyncio.fixture(params=["fake", "real"])
async def desk_with(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    """Everybody's budget is one key: each test finds it empty."""
    async with AsyncExitStack() as stack:

        async def open_desk(limits: Budget) -> Desk:
            if request.param == "fake":
                return Desk(FakeProgressLog(Clock(), budget=limits))
            url = f"{request.getfixturevalue('parts')['REDIS_URL'].rstrip('/')}/2"
            opened = RedisProgressLog.open(url=url, image_base_url="http://cdn.test", budget=limits)
            progress = await stack.enter_async_context(opened)
            await progress._redis.delete(keys.budget(keys.EVERYBODY), keys.open_reservations())
            return Desk(progress)

        yield open_desk


async def test_calls_beyond_the_budget_are_refused_before_they_are_made(desk_with: Open) -> None:
    """Exactly so many are counted; the others hear whose budget it was, and when it opens again."""
    desk = await desk_with(budget(everybody="3 calls/day"))
    found = [await desk.count() for _ in range(5)]
    assert found[:3] == ["counted"] * 3
    for spent in found[3:]:
        assert isinstance(spent, BudgetSpent)
        assert spent.scope == "everybody"
        assert spent.opens_at_ms % 86_400_000 == 0
    assert (await desk.books())["calls"] == 3


async def test_refused_call_does_not_count_against_its_job(desk_with: Open) -> None:
    """Neither half is done: when the budget opens, the job has all its calls."""
    desk = await desk_with(budget(everybody="1 call/day"))
    await desk.count()
    job, attempt = await desk.job()
    for call_id in "abcde":
        assert isinstance(await desk.progress.count_paid_call(job, attempt, call_id), BudgetSpent)
    await desk.progress.uncount_paid_call(job, attempt, "e")
    assert (await desk.books())["calls"] == 1


@pytest.mark.parametrize("scope", ["session", "address"])
async def test_one_sessions_and_one_address_share_is_their_own(desk_with: Open, scope: Scope) -> None:
    """Whoever has spent it does not spend others'."""
    desk = await desk_with(Budget(parse_limits(scope, "2 calls/minute"), call_micros=CALL_MICROS))
    while True:
        minute = time.time() // 60
        mine = {"owner" if scope == "session" else "address": secrets.token_hex(32)}
        found = [await desk.count(**mine) for _ in range(3)]
        if time.time() // 60 == minute:  # all in one
            break
    assert found[:2] == ["counted", "counted"]
    assert isinstance(found[2], BudgetSpent)
    assert found[2].scope == scope
    assert await desk.count() == "counted"


async def test_dollars_are_reserved_at_their_most_and_settled_at_what_they_were(desk_with: Open) -> None:
    """Two calls that may cost the whole budget are not both begun; what one has not cost is free again."""
    desk = await desk_with(budget(everybody="$0.0015/day"))
    job, attempt = await desk.job()
    assert await desk.progress.count_paid_call(job, attempt, "a") == "counted"
    assert isinstance(await desk.count(), BudgetSpent)
    answer = ModelAnswer(text="{}", usage=Usage(input_tokens=1, cost_usd=0.0004))
    await desk.progress.keep_answer(job, attempt, answer, "a")
    assert await desk.books() == {"calls": 1, "micros": 400, "reserved": 1, "settled": 1, "open": 0}
    assert await desk.count() == "counted"


@pytest.mark.parametrize(("cost_usd", "micros"), [(0.0002, 200), (None, CALL_MICROS)])
async def test_call_without_an_answer_to_keep_is_settled(
    desk_with: Open, cost_usd: float | None, micros: int
) -> None:
    """At what it cost; where nobody knows, at all that was reserved."""
    desk = await desk_with(budget(everybody="9 calls/day"))
    job, attempt = await desk.job()
    await desk.progress.count_paid_call(job, attempt, "a")
    for _ in range(2):  # the reply was lost
        await desk.progress.settle_paid_call(job, "a", cost_usd)
    assert await desk.books() == {"calls": 1, "micros": micros, "reserved": 1, "settled": 1, "open": 0}


async def test_call_that_was_not_paid_gives_its_budget_back_once(desk_with: Open) -> None:
    """Also when the job is over, or taken back twice."""
    desk = await desk_with(budget(everybody="9 calls/day"))
    job, attempt = await desk.job()
    await desk.progress.count_paid_call(job, attempt, "a")
    await desk.progress.cancel(job.job_id)
    for _ in range(2):
        await desk.progress.uncount_paid_call(job, attempt, "a")
    assert await desk.books() == {"calls": 0, "micros": 0, "reserved": 1, "settled": 1, "open": 0}


async def test_reservation_of_a_dead_process_counts_as_spent(desk_with: Open) -> None:
    """The next call of its job closes it; of a job that makes none, it lapses."""
    desk = await desk_with(budget(everybody="9 calls/day"))
    job, attempt = await desk.job()
    await desk.progress.count_paid_call(job, attempt, "a")
    await desk.progress.count_paid_call(job, attempt, "b")
    spent = {"calls": 2, "micros": 2 * CALL_MICROS}
    assert await desk.books() == {**spent, "reserved": 2, "settled": 1, "open": 1}
    await desk.let_lapse()
    await desk.count()
    spent = {"calls": 3, "micros": 3 * CALL_MICROS}
    assert await desk.books() == {**spent, "reserved": 3, "settled": 2, "open": 1}


async def test_late_answer_of_a_lapsed_call_changes_nothing(desk_with: Open) -> None:
    """What was written off stays so: it is counted once, at its most."""
    desk = await desk_with(budget(everybody="9 calls/day"))
    job, attempt = await desk.job()
    await desk.progress.count_paid_call(job, attempt, "a")
    await desk.let_lapse()
    await desk.count()
    cheap = ModelAnswer(text="{}", usage=Usage(input_tokens=1, cost_usd=0.0))
    await desk.progress.keep_answer(job, attempt, cheap, "a")
    assert (await desk.books())["micros"] == 2 * CALL_MICROS


async def test_part_of_the_budget_is_kept_for_sessions_first_photos(desk_with: Open) -> None:
    """Whoever has had one is refused while strangers still get theirs; of one address so many sessions."""
    desk = await desk_with(budget(first_share=0.5, everybody="10 calls/day"))
    glutton, house = secrets.token_hex(32), secrets.token_hex(8)
    found = [await desk.count(owner=glutton) for _ in range(6)]
    assert found[:5] == ["counted"] * 5
    assert isinstance(found[5], BudgetSpent)
    neighbours = [await desk.count(address=house) for _ in range(4)]
    assert neighbours[:3] == ["counted"] * 3
    assert isinstance(neighbours[3], BudgetSpent)
    assert [await desk.count() for _ in range(2)] == ["counted"] * 2
    assert isinstance(await desk.count(), BudgetSpent)


async def test_first_photo_that_the_model_took_no_work_for_is_still_the_first(desk_with: Open) -> None:
    """Refusals for rate use up neither the session's first photo nor its address' share of them."""
    desk = await desk_with(budget(first_share=0.5, everybody="2 calls/day"))
    await desk.count()
    job, attempt = await desk.job()
    for call_id in "abcdef":
        assert await desk.progress.count_paid_call(job, attempt, call_id) == "counted"
        await desk.progress.uncount_paid_call(job, attempt, call_id)
    assert await desk.progress.count_paid_call(job, attempt, "g") == "counted"


async def test_spent_budget_opens_with_the_next_window(desk_with: Open) -> None:
    """The latest of those that are full is told."""
    desk = await desk_with(budget(everybody="1 call/minute, 1 call/day"))
    await desk.count()
    spent = await desk.count()
    assert isinstance(spent, BudgetSpent)
    assert spent.opens_at_ms % 86_400_000 == 0
    await desk.let_windows_pass()
    assert await desk.count() == "counted"


async def test_call_is_settled_in_the_window_that_it_was_reserved_in(desk_with: Open) -> None:
    """What yesterday's call has not cost is nothing that today may spend."""
    long_calls = replace(budget(everybody="9 calls/day"), call_seconds=2 * DAY_MS / 1000)
    desk = await desk_with(long_calls)
    job, attempt = await desk.job()
    await desk.progress.count_paid_call(job, attempt, "a")
    await desk.let_a_day_pass()
    await desk.count()
    await desk.progress.settle_paid_call(job, "a", 0.0)
    assert (await desk.books())["micros"] == CALL_MICROS


@pytest.mark.parametrize("calls", [9, 20])
async def test_operator_is_warned_once_at_four_fifths(parts: dict[str, str], calls: int) -> None:
    """One line a window, however many calls follow."""
    url = f"{parts['REDIS_URL'].rstrip('/')}/2"
    limits = budget(everybody="10 calls/day")
    async with RedisProgressLog.open(url=url, image_base_url="http://cdn.test", budget=limits) as progress:
        await progress._redis.delete(keys.budget(keys.EVERYBODY), keys.open_reservations())
        desk = Desk(progress)
        with capture_logs() as lines:
            for _ in range(7):
                await desk.count()
        assert not lines
        with capture_logs() as lines:
            for _ in range(calls - 7):
                await desk.count()
    assert [(line["event"], line["used_percent"]) for line in lines] == [("budget_nearly_spent", 80)]


async def test_keys_of_the_budget_go_by_themselves(parts: dict[str, str]) -> None:
    """A day and an hour after they were last begun, whoever they are of."""
    url = f"{parts['REDIS_URL'].rstrip('/')}/2"
    limits = budget(everybody="10 calls/day")
    async with RedisProgressLog.open(url=url, image_base_url="http://cdn.test", budget=limits) as progress:
        await progress._redis.delete(keys.budget(keys.EVERYBODY), keys.open_reservations())
        job, attempt = await Desk(progress).job()
        assert await progress.count_paid_call(job, attempt, "a") == "counted"
        names = [
            keys.budget(keys.EVERYBODY),
            keys.open_reservations(),
            keys.budget(job.owner),
            keys.budget(job.address_hash or ""),
        ]
        for name in names:
            assert 0 < await progress._redis.ttl(name) <= keys.BUDGET_SECONDS


async def test_probe_counts_in_everybodys_budget_and_is_never_refused(parts: dict[str, str]) -> None:
    """It is no person's: neither a session's nor an address' share is used."""
    url = f"{parts['REDIS_URL'].rstrip('/')}/2"
    limits = budget(everybody="2 calls/day")
    async with RedisProgressLog.open(url=url, image_base_url="http://cdn.test", budget=limits) as progress:
        await progress._redis.delete(keys.budget(keys.EVERYBODY), keys.open_reservations())
        for _ in range(3):
            await progress.count_probe()
        desk = Desk(progress)
        spent = {"calls": 3, "micros": 3 * CALL_MICROS}
        assert await desk.books() == {**spent, "reserved": 0, "settled": 0, "open": 0}
        assert isinstance(await desk.count(), BudgetSpent)
    async with RedisProgressLog.open(url=url, image_base_url="http://cdn.test") as unbounded:
        await unbounded.count_probe()
