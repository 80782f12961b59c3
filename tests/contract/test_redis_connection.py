"""Calls to Redis, on a real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from yarl import URL

from growbin.adapters.redis.connection import ask, open_redis, reason_of
from growbin.errors import Unavailable
from growbin.local.parts.valkey import Valkey
from tests.faults.instruments.proxy import Proxy


async def test_cancelled_call_is_cancelled_wherever_it_is(parts: dict[str, str]) -> None:
    """A task that is cancelled in the midst of a call ends, at whichever turn of the event loop it is told:
    not even a call that is just being sent goes on as if nothing had been said."""
    async with open_redis(parts["REDIS_URL"]) as redis:

        async def call_on_and_on() -> None:
            for _ in range(100):
                await ask(redis.ping())

        await ask(redis.ping())  # connected
        for turns in range(60):
            caller = asyncio.create_task(call_on_and_on())
            for _ in range(turns):
                await asyncio.sleep(0)
            caller.cancel()
            await asyncio.wait([caller])
            assert caller.cancelled(), f"it went on when told after {turns} turns"


@dataclass
class Pair:
    """A primary and its replica behind one address."""

    primary: Valkey
    replica: Valkey
    address: Proxy

    @property
    def url(self) -> str:
        return self.primary.url.replace(f":{self.primary.port}", f":{self.address.port}")

    async def hand_over(self) -> None:
        """As a planned failover does: the old primary lives on as a replica, and keeps its connections."""
        await operate(self.replica, "REPLICAOF", "NO", "ONE")
        await operate(self.primary, "REPLICAOF", "127.0.0.1", str(self.replica.port))

    def move_address(self) -> None:
        self.address.upstream_port = self.replica.port


async def operate(valkey: Valkey, *command: str) -> object:
    async with Redis.from_url(valkey.url) as operator:
        return await operator.execute_command(*command)  # type: ignore[no-untyped-call]


@pytest_asyncio.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    primary, replica = Valkey(tmp_path / "a"), Valkey(tmp_path / "b")
    try:
        for valkey in (primary, replica):
            await valkey.start()
            await valkey.ready()
        await operate(replica, "CONFIG", "SET", "masterauth", primary.secrets["password"])
        await operate(primary, "CONFIG", "SET", "masterauth", replica.secrets["password"])
        await operate(replica, "CONFIG", "SET", "requirepass", primary.secrets["password"])
        replica.secrets["password"] = primary.secrets["password"]
        await operate(primary, "CONFIG", "SET", "masterauth", primary.secrets["password"])
        await operate(replica, "REPLICAOF", "127.0.0.1", str(primary.port))
        async with Proxy("redis", primary.port) as address:
            yield Pair(primary, replica, address)
    finally:
        for valkey in (primary, replica):
            await valkey.kill()


async def test_first_write_after_the_name_has_moved_finds_the_new_primary(pair: Pair) -> None:
    """Connections to the old one live on and are many: one refusal, and whatever the process has to that
    server is given up, also by a pool that only reads."""
    async with open_redis(f"{pair.url}/0") as writing, open_redis(f"{pair.url}/3") as reading:
        await asyncio.gather(*(ask(redis.get("key")) for redis in (writing, reading) for _ in range(10)))
        await pair.hand_over()
        with pytest.raises(Unavailable, match="ReadOnlyError"):
            await ask(writing.set("key", "refused"))
        pair.move_address()
        await ask(writing.set("key", "kept"))
        answers = await asyncio.gather(
            *(ask(redis.role()) for redis in (writing, reading) for _ in range(20))
        )
        assert {answer[0] for answer in answers} == {"master"}
        assert await ask(writing.get("key")) == "kept"


async def test_refusal_inside_a_script_is_known_as_well(pair: Pair) -> None:
    """The write is done once, by the new primary."""
    async with open_redis(pair.url) as redis:
        script = redis.register_script("return redis.call('INCR', KEYS[1])")
        await ask(script(keys=["warm"]))
        await pair.hand_over()
        pair.move_address()
        assert await ask(script(keys=["count"])) == 1


async def test_replica_that_serves_nothing_is_left_on_a_read_as_well(pair: Pair) -> None:
    """MASTERDOWN is an answer to reads: it, too, says that another is the one to ask."""
    async with open_redis(pair.url) as redis:
        await ask(redis.ping())
        await operate(pair.primary, "CONFIG", "SET", "replica-serve-stale-data", "no")
        await operate(pair.primary, "REPLICAOF", "127.0.0.1", "1")  # MASTERDOWN: it knows no primary
        pair.move_address()
        await operate(pair.replica, "REPLICAOF", "NO", "ONE")
        assert await ask(redis.get("key")) is None
        assert (await ask(redis.role()))[0] == "master"


@pytest_asyncio.fixture
async def alone(tmp_path: Path) -> AsyncIterator[tuple[Proxy, str]]:
    """A server of one's own, and the way to it."""
    valkey = Valkey(tmp_path)
    try:
        await valkey.start()
        await valkey.ready()
        async with Proxy("redis", valkey.port) as proxy:
            yield proxy, valkey.url.replace(f":{valkey.port}", f":{proxy.port}")
    finally:
        await valkey.kill()


async def test_all_calls_of_a_client_share_one_connection(alone: tuple[Proxy, str]) -> None:
    """However many are made at once, before anything was connected as well; and each gets its own answer,
    also beside one that is refused."""
    proxy, url = alone
    async with open_redis(f"{url}/2") as redis:
        told = await asyncio.gather(*(ask(redis.echo(str(number))) for number in range(200)))
        assert told == [str(number) for number in range(200)]
        await ask(redis.lpush("list", "item"))
        answers = await asyncio.gather(
            *(redis.get("list") if number % 3 == 0 else redis.echo(str(number)) for number in range(60)),
            return_exceptions=True,
        )
        for number, answer in enumerate(answers):
            assert isinstance(answer, ResponseError) if number % 3 == 0 else answer == str(number)
        assert len(proxy.connections) == 1


async def test_calls_of_one_turn_travel_together_and_are_answered_by_themselves(
    alone: tuple[Proxy, str],
) -> None:
    """One piece for all, a script among them that the server has forgotten."""
    proxy, url = alone
    async with open_redis(url) as redis:
        script = redis.register_script("return ARGV[1]")
        await ask(script(args=["brought"]))
        await ask(redis.script_flush())
        said = list[bytes]()
        proxy.overhear = said.append
        calls = (
            script(args=[str(number)]) if number % 2 else redis.echo(str(number)) for number in range(40)
        )
        assert await asyncio.gather(*map(ask, calls)) == [str(number) for number in range(40)]
        assert said[0].count(b"ECHO") == said[0].count(b"EVALSHA") == 20
        assert b"".join(said).count(b"ECHO") == 20
        assert len(said) <= 3  # the script, and those again that need it


async def test_answer_of_a_cancelled_call_is_nobody_elses(alone: tuple[Proxy, str]) -> None:
    """It comes in its turn and is dropped; the connection goes on."""
    proxy, url = alone
    async with open_redis(url) as redis:
        await ask(redis.ping())
        await proxy.slow(0.5)
        said = asyncio.Event()
        proxy.overhear = lambda _: said.set()
        calls = [asyncio.create_task(ask(redis.echo(str(number)))) for number in range(30)]
        await said.wait()  # they are under way
        for call in calls[::2]:
            call.cancel()
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert found[1::2] == [str(number) for number in range(1, 30, 2)]
        assert all(isinstance(answer, asyncio.CancelledError) for answer in found[::2])
        assert await ask(redis.echo("next")) == "next"
        assert len(proxy.connections) == 1


@pytest.mark.usefixtures("impatient")
async def test_connection_that_fell_silent_is_left(alone: tuple[Proxy, str]) -> None:
    """Half open, it would be believed for a quarter of an hour: the calls that it swallows time out, and the
    next one goes over another, with those that wait."""
    proxy, url = alone
    async with open_redis(url) as redis:
        await ask(redis.ping())
        proxy.silence(b"")
        swallowed = asyncio.create_task(ask(redis.echo("swallowed")))
        await asyncio.sleep(1)
        late = asyncio.create_task(ask(redis.echo("late")))
        with pytest.raises(Unavailable, match="TimeoutError"):
            await swallowed
        await asyncio.sleep(0.1)
        assert await ask(redis.echo("heard")) == "heard"
        assert await late == "late"


async def test_call_whose_connection_breaks_is_made_once_more(alone: tuple[Proxy, str]) -> None:
    """All that were under way, over one new connection; while nothing listens it is Unavailable at once."""
    proxy, url = alone
    async with open_redis(url) as redis:
        await ask(redis.ping())
        await proxy.slow(0.1)
        calls = [asyncio.create_task(ask(redis.echo(str(number)))) for number in range(20)]
        await asyncio.sleep(0.05)
        await proxy.cut()
        assert await asyncio.gather(*calls) == [str(number) for number in range(20)]
        await proxy.down()
        with pytest.raises(Unavailable, match="ConnectionError"):
            await ask(redis.ping())
        await proxy.passing()
        assert await ask(redis.ping())


async def test_refused_password_is_told_from_what_passes_by_itself(parts: dict[str, str]) -> None:
    """Whoever reads the probe or doctor learns that a person is needed."""
    url = str(URL(parts["REDIS_URL"]).with_password("wrong"))
    async with open_redis(url) as redis:
        with pytest.raises(Unavailable, match="does not pass by itself"):
            await ask(redis.ping())
    assert "by itself" not in reason_of(ConnectionRefusedError("refused"))
