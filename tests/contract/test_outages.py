"""Which parts are away, on a real Valkey and as the fake: one suite for both."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

import pytest
import pytest_asyncio

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import open_redis
from growbin.adapters.redis.outages import RedisOutages
from growbin.ports import PartAway
from tests.fakes import Clock, FakeOutages


@dataclass(frozen=True)
class Board:
    """What is told of two parts of our own, and seconds that pass."""

    outages: FakeOutages | RedisOutages
    pass_seconds: Callable[[float], Awaitable[None]]
    names: tuple[str, str]

    async def away(self) -> list[PartAway]:
        return list(await self.outages.away(self.names))


def database(parts: dict[str, str]) -> str:
    return f"{parts['REDIS_URL'].rstrip('/')}/2"


@pytest_asyncio.fixture(params=["fake", "real"])
async def board(request: pytest.FixtureRequest) -> AsyncIterator[Board]:
    word = uuid.uuid4().hex
    names = (f"model-{word}", f"s3-{word}")
    if request.param == "fake":
        clock = Clock()

        async def advance(seconds: float) -> None:
            clock.advance(seconds)

        yield Board(FakeOutages(clock), advance, names)
        return
    url = database(request.getfixturevalue("parts"))
    async with RedisOutages.open(url=url) as outages, open_redis(url) as redis:

        async def age(seconds: float) -> None:
            for key in map(keys.part, names):
                await redis.pexpire(key, await redis.pttl(key) - int(seconds * 1000))

        yield Board(outages, age, names)
        await redis.delete(*map(keys.part, names))


async def test_part_is_away_from_the_first_telling_to_the_word_that_it_is_back(board: Board) -> None:
    """Since when, says the first who tells it; later ones only renew it."""
    model, _ = board.names
    assert await board.away() == []
    before = time.time()
    await board.outages.tell_away(model, 5)
    after = time.time()
    [away] = await board.away()
    assert away.part == model
    assert before - 6 < datetime.fromisoformat(away.since).timestamp() < after - 4
    await board.outages.tell_away(model, 0)
    assert await board.away() == [away]
    await board.outages.tell_back(model)
    assert await board.away() == []


async def test_outage_lapses_half_a_minute_after_it_was_told_last(board: Board) -> None:
    """Each telling lets the half minute begin anew; a consumer that died tells nothing for longer."""
    model, _ = board.names
    for _ in range(3):
        await board.outages.tell_away(model, 0)
        await board.pass_seconds(25)
        assert len(await board.away()) == 1
    await board.pass_seconds(6)
    assert await board.away() == []


async def test_longest_away_comes_first(board: Board) -> None:
    """Whatever the order in which they were told or asked for."""
    model, storage = board.names
    await board.outages.tell_away(model, 1)
    await board.outages.tell_away(storage, 60)
    assert [away.part for away in await board.away()] == [storage, model]


async def test_word_that_nothing_was_away_changes_nothing(board: Board) -> None:
    """A consumer may say so after the half minute is over."""
    await board.outages.tell_back(board.names[0])
    assert await board.away() == []


@pytest.mark.parametrize(
    "text", ["", "1", "[]", "{", '{"since": 5}', '{"since": "long ago"}', '{"since": null}']
)
async def test_value_that_cannot_be_read_is_told_to_nobody(parts: dict[str, str], text: str) -> None:
    """Another version may have written it."""
    url, name = database(parts), f"model-{uuid.uuid4().hex}"
    async with RedisOutages.open(url=url) as outages, open_redis(url) as redis:
        await redis.set(keys.part(name), text, ex=5)
        assert await outages.away([name]) == []
