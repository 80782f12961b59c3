"""What one session or one address may do before it is asked to wait, and what it is told."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

import pytest
from aiohttp import ClientResponse
from prometheus_client import REGISTRY

from growbin.gateway.rates import AT_ONCE_SECONDS, LONGEST_QUEUE_SECONDS, MOST_ADDRESSES, RATES, Pace
from growbin.rates import Bucket
from tests.unit.conftest import Start
from tests.unit.gateway_node import Client, Node, problem

ANALYZE = "/api/v1/waste/analyze"
ADVICE = "/api/v1/waste/advice?name=can"


def is_told_to_wait(headers: Mapping[str, str], seconds: int) -> bool:
    return 1 <= int(headers["Retry-After"]) <= seconds


async def test_session_with_too_many_tickets_waits_and_others_do_not(start: Start) -> None:
    """The refusal says when to come again, in the fields of the IETF's draft too; a new session is free."""
    node = await start(session_tickets_per_minute=2)
    client, other = await node.client(), await node.client()
    first = await client.post(ANALYZE)
    assert first.headers["RateLimit-Policy"] == '"address";q=1000000;w=60, "session";q=2;w=60'
    assert re.fullmatch(r'"address";r=\d+;t=1, "session";r=1;t=30', first.headers["RateLimit"])
    assert (await client.post(ANALYZE)).status == 201
    refused = await client.post(ANALYZE)
    body = await problem(refused, 429, "too_many_requests")
    assert is_told_to_wait(refused.headers, 30)
    assert f"Wait {refused.headers['Retry-After']} s" in body["detail"]
    assert '"session";r=0;' in refused.headers["RateLimit"]
    assert (await other.post(ANALYZE)).status == 201
    assert (await client.get("/api/v1/waste/jobs")).status == 200  # a rate of its own
    assert len(node.records.uploads) == 3
    node.clock.advance(30)
    assert (await client.post(ANALYZE)).status == 201


@pytest.mark.parametrize(
    ("addresses", "is_one"),
    [
        (("192.0.2.1", "192.0.2.1"), True),
        (("192.0.2.1", "192.0.2.2"), False),
        (("2001:db8:0:7::1", "2001:db8:0:7:ffff::2"), True),
        (("2001:db8:0:7::1", "2001:db8:0:8::1"), False),
        (("::ffff:192.0.2.1", "192.0.2.1"), True),
    ],
)
async def test_address_is_counted_over_all_its_sessions(
    start: Start, addresses: tuple[str, str], is_one: bool
) -> None:
    """Past proxies that we trust; of IPv6 by the /64, for nobody has less."""
    node = await start(address_tickets_per_minute=1)
    statuses = [
        (await (await node.client()).post(path, headers={"X-Forwarded-For": address})).status
        for path, address in zip((ANALYZE, "/api/v1/sessions"), addresses, strict=True)
    ]
    assert statuses == [201, 429 if is_one else 201]


async def test_everybody_together_may_have_so_many_tickets(start: Start) -> None:
    """Sessions and addresses are cheap; what is told of it is when to come again."""
    node = await start(all_tickets_per_minute=2)

    async def analyze(address: str) -> ClientResponse:
        return await (await node.client()).post(ANALYZE, headers={"X-Forwarded-For": address})

    answers = [await analyze(f"192.0.2.{number}") for number in range(3)]
    assert [answer.status for answer in answers] == [201, 201, 429]
    assert "everybody" not in answers[0].headers["RateLimit"]
    assert '"everybody";r=0;' in answers[2].headers["RateLimit"]
    assert len(node.sessions.owners) == len(node.records.uploads) == 2


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/waste/jobs"),
        ("GET", "/api/v1/waste/jobs/{}"),
        ("POST", "/upload-complete/{}"),
        ("POST", "/api/v1/waste/jobs/{}/feedback"),
    ],
)
async def test_reads_are_counted_by_the_second(start: Start, method: str, path: str) -> None:
    """Whatever looks up a session and is no ticket, stream or deletion counts as a read."""
    node = await start(reads_per_second=2)
    client = await node.client()
    job_id = (await node.ticket(client))["job_id"]
    answers = [await client.request(method, path.format(job_id)) for _ in range(4)]
    assert answers[0].status != 429
    await problem(answers[-1], 429, "too_many_requests")
    assert answers[-1].headers["Retry-After"] == "1"


@pytest.mark.parametrize(("method", "path"), [("DELETE", ""), ("POST", "/cancel")])
async def test_deletions_and_cancellations_are_counted_by_the_minute(
    start: Start, method: str, path: str
) -> None:
    """Together: each of them writes a lot."""
    node = await start(changes_per_minute=2)
    client = await node.client()
    jobs = [(await node.ticket(client))["job_id"] for _ in range(3)]
    assert (await client.post(f"/api/v1/waste/jobs/{jobs[0]}/cancel")).status == 202
    assert (await client.request(method, f"/api/v1/waste/jobs/{jobs[1]}{path}")).status in (202, 204)
    refused = await client.request(method, f"/api/v1/waste/jobs/{jobs[2]}{path}")
    await problem(refused, 429, "too_many_requests")
    assert is_told_to_wait(refused.headers, 30)
    assert (await client.get(f"/api/v1/waste/jobs/{jobs[2]}")).status == 200


async def test_all_streams_of_an_address_may_come_back_at_once(start: Start) -> None:
    """After a restart; then no more often than a read."""
    node = await start(reads_per_second=2, max_streams_per_address=10)
    rates = node.server.app[RATES]
    assert (rates.streams.session, rates.streams.address) == (Bucket(2, 1), Bucket(10, 5))
    client = await node.client()
    answers = [await client.get("/api/v1/waste/events") for _ in range(3)]
    assert [answer.status for answer in answers] == [404, 404, 404]  # no session, nobody asked Redis


async def test_public_reads_are_counted_in_the_process(start: Start) -> None:
    """By address, also while Redis is away; what any cache may keep says nothing of one caller."""
    node = await start(reads_per_second=2)
    node.sessions.is_away = True
    client = await node.client()
    answers = [await client.get(ADVICE) for _ in range(4)]
    assert answers[0].status == 200
    assert "RateLimit" not in answers[0].headers
    await problem(answers[-1], 429, "too_many_requests")
    assert answers[-1].headers["RateLimit-Policy"] == '"address";q=2;w=1'
    assert answers[-1].headers["Cache-Control"] == "no-store"
    assert (await client.get(ADVICE, headers={"X-Forwarded-For": "192.0.2.9"})).status == 200


async def test_refused_public_reads_make_nobody_wait_longer(start: Start) -> None:
    """Nothing is taken from an empty bucket: who asks on and on gets its next read as soon as who waits."""
    reads = (await start(reads_per_second=2)).server.app[RATES].public_reads
    while not reads.count("somebody").retry_after_seconds:
        pass
    full_at_ms = reads._full_at_ms["somebody"]
    assert reads.count("somebody").retry_after_seconds == 1
    assert reads._full_at_ms["somebody"] == full_at_ms


async def test_public_reads_of_many_addresses_take_a_bounded_room(node: Node) -> None:
    """Those that asked longest ago are forgotten."""
    reads = node.server.app[RATES].public_reads
    for number in range(MOST_ADDRESSES + 100):
        assert reads.count(str(number)).retry_after_seconds == 0
    assert len(reads._full_at_ms) == MOST_ADDRESSES


# --- the pace of an address ----------------------------------------------------------------------


def slowed() -> float:
    return REGISTRY.get_sample_value("growbin_calls_slowed_total") or 0


async def test_address_that_calls_too_fast_waits_for_its_turn(start: Start) -> None:
    """Whatever it calls, also what is nowhere; nothing is refused for it, and others are answered at once."""
    node = await start(reads_per_second=1)
    client = await node.client()
    at_once, before = 5, slowed()

    async def call(address: str) -> int:
        return (await client.get("/nowhere", headers={"X-Forwarded-For": address})).status

    assert await asyncio.gather(*(call("192.0.2.1") for _ in range(at_once + 5))) == [404] * (at_once + 5)
    assert 1 <= slowed() - before <= 5
    before = slowed()
    assert await asyncio.gather(*(call(f"192.0.2.{2 + it % 2}") for it in range(at_once))) == [404] * at_once
    assert slowed() == before


def test_turns_come_evenly_and_the_queue_is_bounded() -> None:
    """A second's worth is answered at once; who calls without end is not put off for ever."""
    pace = Pace(calls_per_second=10)
    at_once = int(10 * AT_ONCE_SECONDS)
    assert [pace.wait_seconds("one") for _ in range(at_once)] == [0.0] * at_once
    waits = [pace.wait_seconds("one") for _ in range(5)]
    assert waits == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5], abs=0.05)
    assert max(pace.wait_seconds("one") for _ in range(1000)) == LONGEST_QUEUE_SECONDS
    assert pace.wait_seconds("other") == 0


def test_turns_of_many_addresses_take_a_bounded_room() -> None:
    """Those that called longest ago are forgotten."""
    pace = Pace(calls_per_second=10)
    for number in range(MOST_ADDRESSES + 100):
        assert pace.wait_seconds(str(number)) == 0
    assert len(pace._last_turn) == MOST_ADDRESSES


async def test_browser_may_read_what_is_left(node: Node, client: Client) -> None:
    """Pages of allowed origins obey as well as ours."""
    response = await client.post(ANALYZE, headers={"Origin": "https://app.test"})
    exposed = response.headers["Access-Control-Expose-Headers"]
    assert {"RateLimit", "RateLimit-Policy", "Retry-After"} <= set(exposed.split(", "))


# --- unfinished jobs -----------------------------------------------------------------------------


async def test_session_with_too_many_unfinished_jobs_waits_for_one_to_end(start: Start) -> None:
    """The upload is kept: the same call succeeds later. Nothing of it was stamped or published."""
    node = await start(max_unfinished_per_session=2)
    client = await node.client()
    first, _ = [await node.submitted(client) for _ in range(2)]
    job_id = await node.uploaded(client)
    refused = await client.post(f"/upload-complete/{job_id}")
    body = await problem(refused, 429, "too_many_unfinished")
    assert "session" in body["detail"]
    assert is_told_to_wait(refused.headers, 5)
    assert node.records.uploads[job_id].accepted_at_ms is None
    assert len(node.queue.published) == 2
    assert (await client.post(f"/upload-complete/{first.job_id}")).status == 202  # to repeat one is free
    assert await node.progress.cancel(first.job_id)
    assert (await client.post(f"/upload-complete/{job_id}")).status == 202


async def test_address_with_too_many_unfinished_jobs_waits(start: Start) -> None:
    """Over all its sessions; another address goes on."""
    node = await start(max_unfinished_per_address=1)
    await node.submitted(await node.client())
    client = await node.client()
    job_id = await node.uploaded(client)
    body = await problem(await client.post(f"/upload-complete/{job_id}"), 429, "too_many_unfinished")
    assert "address" in body["detail"]
    elsewhere = {"X-Forwarded-For": "192.0.2.9"}
    other = await node.client()
    ticket = await (await other.post(ANALYZE, headers=elsewhere)).json()
    [upload] = [it for it in node.records.uploads.values() if str(it.job_id) == ticket["job_id"]]
    node.uploads.put(upload.key, b"\xff\xd8\xff\xe0" + b"photo" * 20)
    assert (await other.post(f"/upload-complete/{ticket['job_id']}", headers=elsewhere)).status == 202


async def test_event_tells_the_hash_of_the_address_alone(node: Node, client: Client) -> None:
    """Of an IPv6 address that of its /64; the address itself stands nowhere."""
    headers = {"X-Forwarded-For": "2001:db8:0:7::1"}
    ticket = await (await client.post(ANALYZE, headers=headers)).json()
    [upload] = node.records.uploads.values()
    assert re.fullmatch(r"[0-9a-f]{16}", upload.address_hash or "")
    node.uploads.put(upload.key, b"\xff\xd8\xff\xe0" + b"photo" * 20)
    assert (await client.post(f"/upload-complete/{ticket['job_id']}")).status == 202
    assert node.queue.published[-1].address_hash == upload.address_hash
