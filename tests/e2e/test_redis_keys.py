"""What a finished job leaves in Redis, and for how long: the table of the keys, seen from outside."""

from __future__ import annotations

import hashlib

from redis.asyncio import Redis

from tests.e2e.client import Client
from tests.e2e.photos import drawn
from tests.e2e.system import System

HOUR = 3600
DAY, WEEK = 24 * HOUR, 7 * 24 * HOUR
JUST_NOW = 120  # the test itself takes its time
RECORDS, PROGRESS, SESSIONS = 0, 2, 3


def database(system: System, number: int) -> Redis:
    return Redis.from_url(f"{system.settings['REDIS_URL'].rstrip('/')}/{number}", decode_responses=True)


async def lives(system: System, number: int, pattern: str) -> dict[str, int]:
    """The keys of that pattern and the seconds that each has left (-1: for ever)."""
    async with database(system, number) as redis:
        return {str(key): await redis.ttl(key) async for key in redis.scan_iter(match=pattern)}


async def token_of(client: Client) -> str:
    answer = await client.call("POST", "/api/v1/sessions")
    assert answer.status == 201
    return str(answer.body["token"])


async def test_each_key_of_a_finished_job_has_its_promised_life(client: Client, system: System) -> None:
    """A day for the record and its key, an hour after the end for the log, a week for what is asked later."""
    bearer = {"Authorization": f"Bearer {await token_of(client)}"}
    owner = hashlib.sha256(bearer["Authorization"].removeprefix("Bearer ").encode()).hexdigest()
    ticket = (
        await client.call("POST", "/api/v1/waste/analyze", headers={**bearer, "Idempotency-Key": "once"})
    ).body
    job_id = ticket["job_id"]
    assert await client.put(ticket, drawn("JPEG")) == 200
    assert (await client.call("POST", f"/upload-complete/{job_id}", headers=bearer)).status == 202
    ended = await client.call("GET", f"/api/v1/waste/jobs/{job_id}", headers={**bearer, "Prefer": "wait=60"})
    assert ended.body["stage"] == "done"
    said = await client.call(
        "POST", f"/api/v1/waste/jobs/{job_id}/feedback", body={"right": True}, headers=bearer
    )
    assert said.status == 204

    found = {
        **await lives(system, RECORDS, f"*{{{job_id}}}*"),
        **await lives(system, RECORDS, f"*{{{owner}}}*"),
        **await lives(system, PROGRESS, f"*{{{job_id}}}*"),
        **await lives(system, SESSIONS, f"*{{{owner}}}*"),
    }
    key = hashlib.sha256(b"once").hexdigest()
    promised = {
        f"job:{{{job_id}}}": DAY,
        f"idempotency:{{{owner}}}:{key}": DAY,
        f"job:{{{job_id}}}:progress": HOUR,
        f"job:{{{job_id}}}:events": HOUR,
        f"job:{{{job_id}}}:result": WEEK,
        f"job:{{{job_id}}}:attempts": WEEK,
        f"job:{{{job_id}}}:answer": WEEK,
        f"session:{{{owner}}}": WEEK,
        f"session:{{{owner}}}:jobs": WEEK,
    }
    assert found.keys() == promised.keys()
    wrong = {
        name: found[name] for name, life in promised.items() if not life - JUST_NOW < found[name] <= life
    }
    assert not wrong
    claims = await lives(system, PROGRESS, f"same:{{{owner}}}:*")
    assert [WEEK - JUST_NOW < left <= WEEK for left in claims.values()] == [True]
    async with database(system, RECORDS) as redis:
        assert set(await redis.info("keyspace")) == {
            f"db{number}" for number in (RECORDS, PROGRESS, SESSIONS)
        }


async def test_session_that_is_used_lives_on_with_its_jobs(client: Client, system: System) -> None:
    """Once it has completed an upload each use lets the seven days begin anew, for the session and for the
    list of its jobs alike."""
    token = await token_of(client)
    bearer = {"Authorization": f"Bearer {token}"}
    made = await client.call("POST", "/api/v1/waste/analyze", headers=bearer)
    assert await client.put(made.body, drawn("JPEG")) == 200
    accepted = await client.call("POST", f"/upload-complete/{made.body['job_id']}", headers=bearer)
    assert accepted.status == 202
    owner = hashlib.sha256(token.encode()).hexdigest()
    names = (f"session:{{{owner}}}", f"session:{{{owner}}}:jobs")
    async with database(system, SESSIONS) as redis:
        for name in names:
            assert await redis.expire(name, DAY)  # six days later
        listed = await client.call("GET", "/api/v1/waste/jobs", headers=bearer)
        assert [job["job_id"] for job in listed.body["jobs"]] == [made.body["job_id"]]
        assert [await redis.ttl(name) > WEEK - JUST_NOW for name in names] == [True, True]


async def test_ticket_that_nobody_uses_leaves_nothing_for_longer_than_an_hour(
    client: Client, system: System
) -> None:
    """Record, log, session and list alike, and the key that made it: strangers' tickets go soon."""
    token = await token_of(client)
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "never"}
    job_id = (await client.call("POST", "/api/v1/waste/analyze", headers=headers)).body["job_id"]
    owner = hashlib.sha256(token.encode()).hexdigest()
    found = {
        **await lives(system, RECORDS, f"*{{{job_id}}}*"),
        **await lives(system, RECORDS, f"*{{{owner}}}*"),
        **await lives(system, PROGRESS, f"*{{{job_id}}}*"),
        **await lives(system, SESSIONS, f"*{{{owner}}}*"),
    }
    assert len(found) >= 6
    assert [name for name, seconds in found.items() if not 0 < seconds <= HOUR] == []
