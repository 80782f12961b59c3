"""One client that takes all it may, and strangers who take tickets and do nothing: what they are refused,
what they cost, and what others notice of it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tests.faults.client import Client
from tests.faults.cluster import Cluster, Servers
from tests.faults.steps import accepted_in_the_end, begin, eventually, uploaded
from tests.faults.surgery import PROGRESS, RECORDS, database
from tests.load_profile import ONE_ADDRESS

SESSIONS = 3
ANALYZE = "/api/v1/waste/analyze"
NOBODYS = "00000000-0000-4000-8000-000000000000"
JOBS = "/api/v1/waste/jobs"
BEHIND_PROXY = {"TRUSTED_PROXIES": "127.0.0.0/8"}
DEFAULT_RATES = {**dict.fromkeys(ONE_ADDRESS, ""), **BEHIND_PROXY}
TICKETS = int(os.environ.get("RATE_TICKETS", "1000"))  # 20,000 in the long run
AT_ONCE = 32
LOOKS = 100
LOOK_PAUSE_SECONDS = 0.05
SHORT_SECONDS = 6  # what an unused ticket and its session live, so that the test sees them go
OTHER_KEYS = 10  # the buckets of the address and of all, the proof of readiness
SHORT_LIVES = dict.fromkeys(
    ("NEW_SESSION_SECONDS", "UNUSED_TICKET_SECONDS", "UPLOAD_WAIT_SECONDS"), str(SHORT_SECONDS)
)
REDIS = (RECORDS, PROGRESS, SESSIONS)


def an_address() -> str:
    """Nobody else's: buckets outlive a case."""
    return f"198.{random.choice([18, 19])}.{random.randrange(256)}.{random.randrange(256)}"


class Visitor:
    """Calls from an address of its own, with a Bearer token or a cookie jar of its own."""

    def __init__(self, http: aiohttp.ClientSession, gateway: str, address: str, token: str = "") -> None:
        self._http = http
        self._gateway = gateway
        self.headers = {"X-Forwarded-For": address}
        if token:
            self.headers["Authorization"] = f"Bearer {token}"

    async def call(self, method: str, path: str, **headers: str) -> tuple[int, Mapping[str, str], Any]:
        async with self._http.request(
            method, self._gateway + path, headers={**self.headers, **headers}
        ) as answer:
            return (
                answer.status,
                answer.headers,
                await answer.json(content_type=None) if answer.status != 204 else None,
            )

    async def session(self, address: str = "") -> Visitor:
        """Somebody with a session, at the same address or another."""
        address = address or self.headers["X-Forwarded-For"]
        status, _, body = await Visitor(self._http, self._gateway, address).call("POST", "/api/v1/sessions")
        assert status == 201, body
        return Visitor(self._http, self._gateway, address, body["token"])


@asynccontextmanager
async def visitors(cluster: Cluster, address: str) -> AsyncIterator[Visitor]:
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(), connector=aiohttp.TCPConnector(limit=0)
    ) as http:
        yield Visitor(http, cluster.gateways[0].url, address)


async def many(count: int, call: Callable[[int], Awaitable[int]]) -> Counter[int]:
    """The statuses of so many calls, some at once."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> int:
        async with turns:
            return await call(number)

    return Counter(await asyncio.gather(*(one(number) for number in range(count))))


async def lives_in(cluster: Cluster) -> list[int]:
    """The seconds that each key in Redis has left."""
    lives: list[int] = []
    for number in REDIS:
        async with database(cluster, number) as redis, redis.pipeline(transaction=False) as pipeline:
            async for key in redis.scan_iter(count=1000):
                pipeline.ttl(key)
            lives += await pipeline.execute()
    return lives


# --- the controls --------------------------------------------------------------------------------


async def test_ticket_over_the_rate_is_refused(servers: Servers) -> None:
    """The bucket is charged: the third of two in a minute waits, and what is told is true."""
    async with (
        Cluster.running(
            servers, gateways=1, consumers=0, SESSION_TICKETS_PER_MINUTE="2", **BEHIND_PROXY
        ) as cluster,
        visitors(cluster, an_address()) as stranger,
    ):
        visitor = await stranger.session()
        answers = [await visitor.call("POST", ANALYZE) for _ in range(3)]
        assert [status for status, _, _ in answers] == [201, 201, 429]
        assert 1 <= int(answers[-1][1]["Retry-After"]) <= 30
        assert '"session";r=0' in answers[-1][1]["RateLimit"]


async def test_job_that_has_ended_is_no_longer_unfinished(servers: Servers) -> None:
    """The consumer's end makes room at once, for the session and for its address."""
    async with Cluster.running(
        servers,
        gateways=1,
        consumers=1,
        MAX_UNFINISHED_PER_SESSION="1",
        MAX_UNFINISHED_PER_ADDRESS="1",
        **BEHIND_PROXY,
    ) as cluster:
        cluster.client.headers["X-Forwarded-For"] = an_address()
        job, hold = await begin(cluster, "first")
        second = cluster.ledger.track("second", job.token)
        await cluster.client.ticket(second)
        await cluster.client.put(second)
        assert (await cluster.client.complete(second)).status == 429
        hold.release()
        assert (await cluster.client.seen(job)).name == "done"

        async def is_taken() -> bool:
            return (await cluster.client.complete(second)).status == 202

        await eventually(is_taken, "there is room again", 10)
        await cluster.prove()


async def test_session_is_kept_before_anything_is_published(servers: Servers) -> None:
    """While the broker is away nothing is accepted, and the session lives as long as an answer already."""
    async with Cluster.running(servers) as cluster:
        job = await uploaded(cluster, "kept")
        name = f"session:{{{hashlib.sha256(job.token.encode()).hexdigest()}}}"
        async with database(cluster, SESSIONS) as redis:
            assert await redis.ttl(name) <= 3600
            for link in cluster.links("amqp"):
                await link.down()
            assert (await cluster.client.complete(job)).status == 503
            assert await redis.ttl(name) > 6 * 24 * 3600
            for link in cluster.links("amqp"):
                await link.passing()

        async def is_taken() -> bool:
            return (await cluster.client.complete(job)).status == 202

        await eventually(is_taken, "the job is accepted")
        await cluster.prove()


# --- strangers -----------------------------------------------------------------------------------


@pytest.mark.timeout(120 + TICKETS / 50)  # an address has a hundred answers a second
async def test_tickets_of_one_stranger_are_refused_over_the_rate_and_leave_redis(servers: Servers) -> None:
    """Thousands of them without a session, from one address: what is over the rate is 429, Redis holds no
    more than it allows, and gives it back."""
    async with (
        Cluster.running(servers, gateways=1, consumers=0, **SHORT_LIVES, **DEFAULT_RATES) as cluster,
        visitors(cluster, an_address()) as stranger,
    ):
        before = await lives_in(cluster)
        began = time.monotonic()

        async def analyze(_number: int) -> int:
            return (await stranger.call("POST", ANALYZE))[0]

        statuses = await many(TICKETS, analyze)
        seconds = time.monotonic() - began
        after = await lives_in(cluster)
        print(f"{TICKETS} tickets in {seconds:.1f} s: {dict(statuses)}, {len(after) - len(before)} keys more")
        assert set(statuses) == {201, 429}
        assert 120 <= statuses[201] <= 120 + 2 * seconds + 1
        # Record, snapshot, log, session, list and the session's bucket of each.
        assert len(after) - len(before) <= 6 * statuses[201] + OTHER_KEYS
        lives_on = SHORT_SECONDS + 15 * 60  # a ticket's session, after its end
        assert sum(life > lives_on for life in after) <= sum(life > lives_on for life in before)

        async def has_shrunk() -> bool:
            lives = await lives_in(cluster)
            return len(lives) - len(before) <= 2 * statuses[201] + OTHER_KEYS  # sessions and lists

        took = await eventually(has_shrunk, "what an unused ticket had is gone", 60)
        print(f"gone within {took:.0f} s")


async def test_address_at_all_its_caps_leaves_others_their_turn(servers: Servers) -> None:
    """One address takes all the tickets, reads, lists and deletions that it may, and tries a quarter more: it
    gets what its rates allow and 429 for the rest, while others are never refused."""
    async with (
        Cluster.running(servers, gateways=1, consumers=0, **DEFAULT_RATES) as cluster,
        visitors(cluster, an_address()) as greedy,
    ):
        visitor = await greedy.session()
        others = [await greedy.session(an_address()) for _ in range(6)]
        _, _, ticket = await visitor.call("POST", ANALYZE)
        job = f"{JOBS}/{ticket['job_id']}"

        async def look() -> list[float]:
            took = []
            for number in range(LOOKS):
                began = time.monotonic()
                status, _, _ = await others[number % len(others)].call("GET", JOBS)
                took.append((time.monotonic() - began) * 1000)
                assert status == 200
                await asyncio.sleep(LOOK_PAUSE_SECONDS)
            return took

        quiet = await look()
        over = asyncio.Event()
        counts: dict[str, Counter[int]] = {}

        async def insist(method: str, path: str, each_second: float) -> None:
            """First all at once that may come at once, then a quarter more often than it may."""
            seen: Counter[int] = Counter()
            counts[f"{method} {path.replace(job, '…')}"] = seen
            while not (over.is_set() and seen[429]):
                seen[(await visitor.call(method, path))[0]] += 1
                await asyncio.sleep(seen[429] and 1 / (1.25 * each_second))

        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for method, path, each_second in (
                ("POST", ANALYZE, 0.5),
                ("GET", job, 10),
                ("GET", f"{JOBS}?limit=50", 10),
                ("POST", f"{job}/cancel", 0.5),
                ("DELETE", f"{JOBS}/{NOBODYS}", 0.5),
            ):
                group.create_task(insist(method, path, each_second))
            busy = await look()
            over.set()
        seconds = time.monotonic() - began
        p95 = [statistics.quantiles(took, n=20)[-1] for took in (quiet, busy)]
        print(f"others' p95 {p95[0]:.0f} ms quiet, {p95[1]:.0f} ms busy; {seconds:.1f} s: {counts}")
        let_through = {
            name: sum(count for status, count in seen.items() if status != 429)
            for name, seen in counts.items()
        }
        reads = let_through["GET …"] + let_through[f"GET {JOBS}?limit=50"]
        changes = let_through["POST …/cancel"] + let_through[f"DELETE {JOBS}/{NOBODYS}"]
        assert let_through[f"POST {ANALYZE}"] <= 30 + seconds / 2 + 1
        assert reads <= 20 + 20 * seconds + 1
        assert changes <= 60 + seconds + 1
        assert all(status in (201, 200, 202, 204, 404, 429) for seen in counts.values() for status in seen)


async def test_photo_of_another_waits_for_what_one_address_may_have_under_way_and_no_more(
    servers: Servers,
) -> None:
    """One address wants 80 photos at once: 60 are taken, and another each time that one ends. Who comes then
    is done as soon as 60 were, at the throughput that was measured."""
    async with Cluster.running(
        servers,
        gateways=1,
        consumers=1,
        MAX_UNFINISHED_PER_SESSION="20",
        MAX_UNFINISHED_PER_ADDRESS="60",
        **BEHIND_PROXY,
    ) as cluster:
        cluster.model.delay_seconds = lambda _marker: 2.0
        cluster.client.headers["X-Forwarded-For"] = an_address()
        other = cluster.new_client()
        other.headers["X-Forwarded-For"] = an_address()
        alone = await quickly(other, cluster, "alone")
        tokens = [await cluster.client.session() for _ in range(4)]
        jobs = [cluster.ledger.track(f"greedy-{number}", tokens[number % 4]) for number in range(80)]
        for job in jobs:
            await cluster.client.ticket(job)
            await cluster.client.put(job)
        holds = [cluster.model.hold(job.marker) for job in jobs]  # none ends before all have asked
        answers = await asyncio.gather(*map(cluster.client.complete, jobs))
        statuses = Counter(answer.status for answer in answers)
        assert statuses[429] >= 10
        began = time.monotonic()
        for hold in holds:
            hold.release()
        waiting = [asyncio.create_task(accepted_in_the_end(cluster, job)) for job in jobs]
        waited = await quickly(other, cluster, "other")
        await asyncio.gather(*waiting)
        ends = [(await cluster.client.follow(job, 120)).name for job in jobs]
        throughput = len(jobs) / (time.monotonic() - began)
        print(
            f"{dict(statuses)}; {throughput:.1f} photos a second; another's took {waited:.1f} s, "
            f"{alone:.1f} s when it was alone"
        )
        assert set(ends) == {"done"}
        assert waited <= 60 / throughput + 2 * alone
        await other.close()
        await cluster.prove()


async def quickly(client: Client, cluster: Cluster, marker: str) -> float:
    """The seconds from one's upload-complete to the advice."""
    job = cluster.ledger.track(marker, await client.session())
    await client.ticket(job)
    await client.put(job)
    began = time.monotonic()
    assert (await client.complete(job)).status == 202
    client.watch(job)
    assert (await client.seen(job, 120)).name == "done"
    return time.monotonic() - began


async def test_tickets_of_a_thousand_addresses_are_refused_over_the_rate_of_all(servers: Servers) -> None:
    """Who has many addresses meets the bound of everybody.

    The last row here: until that bucket is full again, which takes a minute, the default rates refuse whoever
    comes to this Redis.
    """
    network = random.randrange(0x10000)
    async with (
        Cluster.running(
            servers,
            gateways=1,
            consumers=0,
            **SHORT_LIVES,
            **DEFAULT_RATES | {"ALL_TICKETS_PER_MINUTE": "500"},
        ) as cluster,
        visitors(cluster, an_address()) as stranger,
    ):
        began = time.monotonic()

        async def analyze(number: int) -> int:
            address = f"2001:db8:{network:x}:{number % 1000:x}::1"
            return (await stranger.call("POST", ANALYZE, **{"X-Forwarded-For": address}))[0]

        statuses = await many(TICKETS, analyze)
        seconds = time.monotonic() - began
        print(f"{TICKETS} tickets of 1,000 addresses in {seconds:.1f} s: {dict(statuses)}")
        assert set(statuses) == {201, 429}
        assert statuses[201] <= 500 * (1 + seconds / 60) + 1
