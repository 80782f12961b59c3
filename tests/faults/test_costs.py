"""What is spent: bounded whoever dies, known to the cent, not paid twice, and never at the cost of strangers.

The doses are short; the long ones are BUDGET_JOBS=200 BUDGET_KILL_JOBS=2000 BUDGET_KILLS=40
ATTACKER_ADDRESSES=1000 STRANGERS=200 SHARED_UPLOADS=1000 SHARED_PHOTOS=100 SHARED_SESSIONS=10
BILLED_JOBS=500.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from operator import itemgetter
from typing import Any

import aiohttp
import pytest

from tests.faults.cluster import Cluster, Process, Servers
from tests.faults.instruments.oracle import TrackedJob
from tests.faults.model import RATE_LIMITED
from tests.faults.photos import drawn
from tests.faults.steps import eventually
from tests.faults.surgery import PROGRESS, database
from tests.openai_stand_in import GPT_4O, StandIn

JOBS = int(os.environ.get("BUDGET_JOBS", "60"))
CALLS = JOBS // 4
KILL_JOBS = int(os.environ.get("BUDGET_KILL_JOBS", "60"))
KILLS = int(os.environ.get("BUDGET_KILLS", "4"))
ADDRESSES = int(os.environ.get("ATTACKER_ADDRESSES", "8"))
STRANGERS = int(os.environ.get("STRANGERS", "20"))
UPLOADS = int(os.environ.get("SHARED_UPLOADS", "60"))
PHOTOS = int(os.environ.get("SHARED_PHOTOS", "6"))
SESSIONS = int(os.environ.get("SHARED_SESSIONS", "3"))
BILLED_JOBS = int(os.environ.get("BILLED_JOBS", "30"))
SETTLE_SECONDS = 90.0 + max(JOBS, KILL_JOBS, UPLOADS, 10 * ADDRESSES) / 4
LAPSED_SECONDS = 20.0  # a call's three seconds, ten more, and room
ATTACKS, FIRSTS = 10, 3  # photos of one address, each of a new session, and for how many a call is kept
KEPT_CALLS, KEPT_SHARE = ADDRESSES * FIRSTS + STRANGERS, 0.9
CALLS_OF_ALL = int(KEPT_CALLS / KEPT_SHARE)
AWAY_SECONDS, PATIENCE_SECONDS = 3.0, 12.0
LEAST_SERVED = 0.95
KEPT_WITHIN_SECONDS = 2.0  # from hearing an answer, on a busy machine
MOST_IN_HAND = 32  # of one consumer
AT_ONCE, IN_FLIGHT = 20, 100

# Uploads come at about twenty a second here, and a long dose has ten thousand of them.
pytestmark = pytest.mark.timeout(600 + (KILL_JOBS + UPLOADS + ATTACKS * ADDRESSES) / 4)


async def no_budget_used(cluster: Cluster) -> None:
    async with database(cluster, PROGRESS) as redis:
        async for key in redis.scan_iter(match="budget:*"):
            await redis.delete(key)


async def books(cluster: Cluster) -> dict[str, int]:
    """Everybody's; what lapsed and nobody has looked at since counts as settled."""
    now_ms = int(time.time() * 1000)
    async with database(cluster, PROGRESS) as redis, redis.pipeline(transaction=True) as at_one_moment:
        at_one_moment.hgetall("budget:{everybody}")
        at_one_moment.zcount("budget:{everybody}:open", "-inf", now_ms)
        at_one_moment.zcount("budget:{everybody}:open", f"({now_ms}", "+inf")
        told, lapsed, still_open = await at_one_moment.execute()
    return {
        "calls": int(told.get("day:calls", 0)),
        "reserved": int(told.get("reserved", 0)),
        "settled": int(told.get("settled", 0)) + lapsed,
        "open": still_open,
    }


async def at_once(calls: Iterable[Any], most: int = AT_ONCE) -> list[Any]:
    turns = asyncio.Semaphore(most)

    async def one(call: Any) -> Any:
        async with turns:
            return await call

    return await asyncio.gather(*map(one, calls))


def outcome(job: TrackedJob) -> str:
    assert job.final is not None
    failure, result = job.final.get("failure"), job.final.get("result")
    return str(failure["code"] if failure else result["answered_by"] if result else job.final.get("stage"))


@asynccontextmanager
async def billed(servers: Servers, provider: StandIn, **settings: Any) -> AsyncIterator[Cluster]:
    """A cluster whose model is the provider's stand-in."""
    model: dict[str, Any] = {"OPENAI_BASE_URL": provider.url, "OPENAI_MODEL": provider.tariff.model}
    async with Cluster.running(servers, consumers=2, **model, **settings) as cluster:
        cluster.ledger.is_model_elsewhere = True
        yield cluster


async def uploaded_from(
    cluster: Cluster, marker: str, token: str, *, address: str = "", photo: bytes | None = None, question: str
) -> TrackedJob:
    """An accepted job, as if it came from that address."""
    job = cluster.ledger.track(marker, token)
    job.is_innocent = False
    headers = {"Idempotency-Key": marker, **({"X-Forwarded-For": address} if address else {})}
    body = {"question": question, "content_type": "image/jpeg"}
    answer = await cluster.client.call("POST", "/api/v1/waste/analyze", token, body=body, headers=headers)
    assert answer.status == 201, answer
    job.ticket, job.job_id = answer.body, answer.body["job_id"]
    await cluster.client.put(job, photo)

    async def accepted() -> bool:
        return (await cluster.client.complete(job)).status == 202

    await eventually(accepted, f"{marker} is accepted")
    return job


async def metric(process: Process, name: str) -> Decimal:
    async with aiohttp.ClientSession() as http, http.get(f"{process.probe_url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return Decimal(next(line.split()[1] for line in lines if line.startswith(name)))


def paid_lines_of(consumer: Process) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in consumer.log.splitlines() if '"model_call_paid"' in line]


def paid_lines(cluster: Cluster) -> list[Mapping[str, Any]]:
    return [line for consumer in cluster.consumers for line in paid_lines_of(consumer)]


def heard_and_died(line: Mapping[str, Any], kills: Iterable[float]) -> bool:
    """A consumer was killed so soon after it heard the answer that it may not have kept it."""
    at = datetime.fromisoformat(line["timestamp"]).timestamp()
    return any(at < killed < at + KEPT_WITHIN_SECONDS for killed in kills)


# --- bounded


async def test_parallel_jobs_make_exactly_as_many_calls_as_the_budget_has(servers: Servers) -> None:
    """The rest fails before any call, each with the moment when it opens again."""
    limits: dict[str, Any] = {"BUDGET": f"{CALLS} calls/day", "BUDGET_FIRST_SHARE": "0"}
    async with Cluster.running(servers, consumers=2, **limits) as cluster:
        await no_budget_used(cluster)
        jobs = await at_once(cluster.client.submit(f"spend-{number}") for number in range(JOBS))
        for job in jobs:
            job.is_innocent = False
        await cluster.prove(SETTLE_SECONDS)
        assert Counter(map(outcome, jobs)) == {"model": CALLS, "budget_exhausted": JOBS - CALLS}
        assert len(cluster.model.calls) == CALLS
        for job in jobs:
            if job.final and (failure := job.final.get("failure")):
                assert failure["opens_at"].endswith("T00:00:00.000Z")
        assert await books(cluster) == {"calls": CALLS, "reserved": CALLS, "settled": CALLS, "open": 0}
        await no_budget_used(cluster)


@pytest.mark.long
async def test_call_that_the_model_refused_uses_no_budget(servers: Servers) -> None:
    """Nothing was paid: what it had reserved is there for the next call, and the books say so."""
    limits: dict[str, Any] = {"BUDGET": "2 calls/day", "BUDGET_FIRST_SHARE": "0"}
    async with Cluster.running(servers, **limits) as cluster:
        await no_budget_used(cluster)
        for marker in ("one", "two"):
            cluster.model.script(marker, RATE_LIMITED)
            job = await cluster.client.submit(marker)
            assert (await cluster.client.follow(job)).code == "done"
        assert len(cluster.model.calls) == 4
        assert await books(cluster) == {"calls": 2, "reserved": 4, "settled": 4, "open": 0}
        await cluster.prove()
        await no_budget_used(cluster)


async def test_consumers_killed_over_their_calls_leave_the_books_in_balance(servers: Servers) -> None:
    """Reserved is settled and open at every moment; after the drain nothing is open: who died has spent."""
    limits: dict[str, Any] = {
        "BUDGET": "1000000 calls/day",
        "BUDGET_FIRST_SHARE": "0",
        "MODEL_TIMEOUT_SECONDS": "3",
    }
    chance = random.Random(KILL_JOBS)
    async with Cluster.running(servers, consumers=2, **limits) as cluster:
        await no_budget_used(cluster)
        cluster.model.delay_seconds = lambda _marker: chance.uniform(0.05, 0.8)

        async def whole(number: int) -> None:
            job = await cluster.client.submit(f"kill-{number}")
            await cluster.client.follow(job, timeout_seconds=SETTLE_SECONDS)

        doing = asyncio.create_task(at_once(map(whole, range(KILL_JOBS)), IN_FLIGHT))
        for _ in range(KILLS):
            await asyncio.sleep(chance.uniform(0.5, 2))
            victim = chance.choice(cluster.consumers)
            await victim.kill()
            now = await books(cluster)
            assert now["reserved"] == now["settled"] + now["open"]
            await victim.start()
        await doing
        await cluster.prove(SETTLE_SECONDS)

        async def nothing_open() -> bool:
            return (await books(cluster))["open"] == 0

        await eventually(nothing_open, "no reservation is open", LAPSED_SECONDS)
        now = await books(cluster)
        assert now["reserved"] == now["settled"] == now["calls"]
        assert sum(call.paid for call in cluster.model.calls) <= now["calls"]
        assert now["calls"] >= KILL_JOBS
        await no_budget_used(cluster)


async def test_attacker_on_many_addresses_leaves_strangers_their_first_photo(servers: Servers) -> None:
    """Whatever it spends at every cap: strangers' first photos get the model's answer, everybody else the
    embedded one, and nobody is refused or waits."""
    limits: dict[str, Any] = {
        "TRUSTED_PROXIES": "127.0.0.1/32",
        "FALLBACK_MODEL": "embedded",
        "BUDGET": f"{CALLS_OF_ALL} calls/day",
        "BUDGET_FIRST_SHARE": f"{KEPT_SHARE}",
        "BUDGET_PER_ADDRESS": "100 calls/day",
    }
    async with Cluster.running(servers, consumers=2, **limits) as cluster:
        await no_budget_used(cluster)

        async def answered(marker: str, address: str) -> TrackedJob:
            token = await cluster.client.session()
            job = await uploaded_from(cluster, marker, token, address=address, question=f"case:{marker}")
            await cluster.client.follow(job, timeout_seconds=SETTLE_SECONDS)
            return job

        async def attack(number: int) -> list[TrackedJob]:
            address = f"198.{18 + number // 65536}.{number // 256 % 256}.{number % 256}"
            return [await answered(f"attack-{number}-{photo}", address) for photo in range(ATTACKS)]

        async def come(number: int) -> list[TrackedJob]:
            return [await answered(f"stranger-{number}", f"203.0.{113 + number // 256}.{number % 256}")]

        # Strangers come once the attack has spent what is not kept, while it goes on.
        first_half, second_half = range(ADDRESSES // 2), range(ADDRESSES // 2, ADDRESSES)
        others = [*map(attack, second_half), *map(come, range(STRANGERS))]
        random.Random(ADDRESSES).shuffle(others)
        spent = await at_once(map(attack, first_half))
        jobs = [job for some in [*spent, *await at_once(others)] for job in some]
        await cluster.prove(SETTLE_SECONDS)
        strangers = [job for job in jobs if job.marker.startswith("stranger")]
        attacks = [job for job in jobs if job.marker.startswith("attack")]
        assert {outcome(job) for job in jobs} <= {"model", "fallback"}
        served = Counter(map(outcome, strangers))["model"]
        assert served >= LEAST_SERVED * STRANGERS
        assert len(cluster.model.calls) <= CALLS_OF_ALL
        assert Counter(map(outcome, attacks))["fallback"]
        await no_budget_used(cluster)


# --- degraded


async def test_model_that_is_away_is_stood_in_for_once_the_person_has_waited(servers: Servers) -> None:
    """Jobs that come meanwhile are begun and answered in time; when it is back the model answers again."""
    settings: dict[str, Any] = {"FALLBACK_MODEL": "embedded", "FALLBACK_AFTER_SECONDS": f"{AWAY_SECONDS:g}"}
    async with Cluster.running(servers, **settings) as cluster:
        [link] = cluster.consumers[0].links["model"], *()
        await link.down()
        first = [await cluster.client.submit(f"away-{number}") for number in range(3)]
        for job in first:
            cluster.client.watch(job)
        ends = await asyncio.gather(*map(cluster.client.seen, first))
        later = [await cluster.client.submit(f"later-{number}") for number in range(3)]
        for job in later:
            cluster.client.watch(job)
        ends += await asyncio.gather(*map(cluster.client.seen, later))
        for job, end in zip([*first, *later], ends, strict=True):
            assert end.data["result"]["answered_by"] == "fallback"
            assert end.at - (job.accepted_at or 0) < AWAY_SECONDS + PATIENCE_SECONDS
        await link.passing()

        async def is_back() -> bool:
            job = await cluster.client.submit(f"back-{time.monotonic()}")
            end = await cluster.client.follow(job)
            return bool(end.data["result"]["answered_by"] == "model")

        await eventually(is_back, "the model answers again")
        await cluster.prove()


# --- known, and not twice


async def test_sum_of_all_jobs_dollars_is_the_providers_bill(servers: Servers) -> None:
    """To the cent: in the results, in the books of the log, and in the metric; a kept answer is in the bill
    once."""
    async with (
        StandIn(GPT_4O, seconds=lambda: 0.05).serving() as provider,
        billed(servers, provider) as cluster,
    ):
        tokens = [await cluster.client.session() for _ in range(3)]

        async def one(number: int) -> TrackedJob:
            # Every third asks what one before it has asked.
            asked = number - number % 3 if number % 3 == 2 else number
            return await uploaded_from(
                cluster,
                f"bill-{number}",
                tokens[asked % 2],
                photo=drawn(asked % 20),
                question=f"Which bin? {asked}" + "x" * (asked % 7 * 13),
            )

        jobs = await at_once(map(one, range(BILLED_JOBS)))
        await cluster.prove(SETTLE_SECONDS)
        told = [job.final["result"] for job in jobs if job.final]
        assert {result["answered_by"] for result in told} == {"model", "kept"}
        dollars = [Decimal(str(one["usage"]["cost_usd"])) for one in told if one["answered_by"] == "model"]
        assert len(dollars) == len(provider.calls)
        cent, in_results = Decimal("0.01"), sum(dollars, Decimal(0))
        assert in_results.quantize(cent) == provider.bill_usd.quantize(cent)
        assert abs(in_results - provider.bill_usd) < Decimal("0.000001")
        in_log = sum(Decimal(str(line["cost_usd"])) for line in paid_lines(cluster))
        counted = [await metric(one, "growbin_model_cost_dollars_total") for one in cluster.consumers]
        for books_say in (in_log, sum(counted)):
            assert abs(books_say - provider.bill_usd) < Decimal("0.000001")
        assert not provider.refusals


@pytest.mark.long
async def test_answer_is_kept_for_its_own_session_until_it_is_deleted(servers: Servers) -> None:
    """Another session that asks the same about the same photo is answered anew. A DELETE leaves nothing that
    would lead a later job to the answer."""
    async with StandIn(GPT_4O).serving() as provider, billed(servers, provider) as cluster:
        tokens = [await cluster.client.session() for _ in range(2)]

        async def asked(marker: str, token: str) -> TrackedJob:
            job = await uploaded_from(cluster, marker, token, photo=drawn(1), question="Which bin?")
            assert (await cluster.client.follow(job)).code == "done"
            await cluster.client.read(job)
            return job

        mine = [await asked(f"mine-{number}", tokens[0]) for number in range(2)]
        others = await asked("other", tokens[1])
        assert [outcome(job) for job in (*mine, others)] == ["model", "kept", "model"]
        path = f"/api/v1/waste/jobs/{mine[0].job_id}"
        assert (await cluster.client.call("DELETE", path, tokens[0])).status == 204
        async with database(cluster, PROGRESS) as redis:
            owner = hashlib.sha256(tokens[0].encode()).hexdigest()
            assert [key async for key in redis.scan_iter(match=f"same:{{{owner}}}:*")] == []
        assert outcome(await asked("mine-2", tokens[0])) == "model"
        assert len(provider.calls) == 3
        await cluster.prove()


async def test_same_photos_of_the_same_sessions_are_paid_for_once_whoever_is_killed(servers: Servers) -> None:
    """Paid calls are the distinct pairs of session and photo, and those during which a consumer died; then a
    DELETE leaves neither answer nor claim."""
    chance = random.Random(UPLOADS)
    async with (
        StandIn(GPT_4O, seconds=lambda: 1.0).serving() as provider,
        billed(servers, provider, LEASE_SECONDS="10") as cluster,  # a slow machine loses none
    ):
        tokens = [await cluster.client.session() for _ in range(SESSIONS)]
        pairs = [(chance.randrange(SESSIONS), chance.randrange(PHOTOS)) for _ in range(UPLOADS)]
        kills: list[tuple[Process, float]] = []

        async def one(number: int) -> TrackedJob:
            session, photo = pairs[number]
            question = f"Session {session}, photo {photo}"
            return await uploaded_from(
                cluster, f"same-{number}", tokens[session], photo=drawn(photo), question=question
            )

        submitting = asyncio.create_task(at_once(map(one, range(UPLOADS))))
        for number in range(2):
            await asyncio.sleep(chance.uniform(0.5, 1.5))
            victim = cluster.consumers[number % 2]
            await victim.kill()
            kills.append((victim, time.time()))
            await victim.start()
        jobs = await submitting
        await cluster.prove(SETTLE_SECONDS)
        pair_of = {job.job_id: pair for job, pair in zip(jobs, pairs, strict=True)}
        heard: dict[tuple[int, int], list[Mapping[str, Any]]] = {pair: [] for pair in pairs}
        for line in paid_lines(cluster):
            heard[pair_of[line["job_id"]]].append(line)
        for pair, lines in heard.items():
            excused = sum(heard_and_died(line, map(itemgetter(1), kills)) for line in lines)
            assert 1 <= len(lines) <= 1 + excused, f"{pair}: {lines}, {kills}"
        # What nobody heard of was asked by a consumer that died over it.
        for consumer, _ in kills:
            calls = [call for call in provider.calls if call.key.startswith(f"sk-{consumer.name}-")]
            unheard = len(calls) - len(paid_lines_of(consumer))
            assert 0 <= unheard <= MOST_IN_HAND
        for job in jobs:
            if job.token == tokens[0]:
                path = f"/api/v1/waste/jobs/{job.job_id}"
                assert (await cluster.client.call("DELETE", path, job.token)).status == 204
        owners = [hashlib.sha256(token.encode()).hexdigest() for token in tokens]
        async with database(cluster, PROGRESS) as redis:
            left = [key async for key in redis.scan_iter(match=f"same:{{{owners[0]}}}:*")]
            others = [key async for key in redis.scan_iter(match=f"same:{{{owners[1]}}}:*")]
            answers = [
                await redis.exists(f"job:{{{one.job_id}}}:answer") for one in jobs if one.token == tokens[0]
            ]
        assert not left
        assert others
        assert not any(answers)
