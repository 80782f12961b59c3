"""How often gateway and consumer ask the parts for one job: counted on the wire, without noise."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.faults.cluster import Cluster, Process, Servers
from tests.faults.instruments.proxy import Proxy
from tests.faults.said import Command, amqp_methods, http_requests, redis_commands
from tests.faults.steps import eventually

JOBS, WARM_UP_JOBS = 5, 3
SETTLE_SECONDS = 0.5

# They may only be made smaller; wanted are 10 and 5. Three of the gateway's are for the client's
# Idempotency-Key, one for its session's first job. A trip is a write with at least one command for the job.
MOST_TRIPS = {"gateway": 16, "consumer": 4}
MOST_COMMANDS = {"gateway": 16, "consumer": 4}
# The client's upload is among the gateway's, for its ticket leads there.
S3_REQUESTS = {"gateway": {"PUT": 1, "GET": 1}, "consumer": {"PUT": 1}}
AMQP_METHODS = {"gateway": {"publish": 1}, "consumer": {"ack": 1}}


@dataclass
class Ear:
    """What one process says to the parts."""

    redis: list[list[Command]] = field(default_factory=list)
    s3: list[Command] = field(default_factory=list)
    amqp: Counter[str] = field(default_factory=Counter)

    @classmethod
    def at(cls, process: Process) -> Ear:
        ear = cls()
        also(process.links["redis"], lambda chunk: ear.redis.append(redis_commands(chunk)))
        also(process.links["s3"], lambda chunk: ear.s3.extend(http_requests(chunk)))
        also(process.links["amqp"], lambda chunk: ear.amqp.update(amqp_methods(chunk)))
        return ear

    def forget(self) -> None:
        self.redis.clear()
        self.s3.clear()
        self.amqp.clear()


def also(link: Proxy, listen: Callable[[bytes], object]) -> None:
    before = link.overhear

    def both(chunk: bytes) -> None:
        if before is not None:
            before(chunk)
        listen(chunk)

    link.overhear = both


async def test_a_job_asks_each_part_as_seldom_as_we_know_how(servers: Servers) -> None:
    """Redis in so many writes and commands at most that name the job or its session, S3 three times with the
    client's upload, RabbitMQ once each."""
    async with Cluster.running(servers) as cluster:
        ears = {"gateway": Ear.at(cluster.gateways[0]), "consumer": Ear.at(cluster.consumers[0])}
        tokens = [await cluster.client.session() for _ in range(WARM_UP_JOBS + JOBS)]
        for number in range(WARM_UP_JOBS):  # connections are opened, scripts brought
            await one_job(cluster, ears["consumer"], f"warm-{number}", tokens.pop())
        for ear in ears.values():
            ear.forget()
        names = [hashlib.sha256(token.encode()).hexdigest().encode() for token in tokens]
        for number in range(JOBS):
            job_id = await one_job(cluster, ears["consumer"], f"job-{number}", tokens.pop())
            names.append(job_id.encode())

        for role, ear in ears.items():
            writes = [[one for one in chunk if tells_of(one, names)] for chunk in ear.redis]
            trips, commands = sum(map(bool, writes)), sum(map(len, writes))
            kinds = Counter(one[0].decode() for chunk in writes for one in chunk)
            print(f"{role}: {trips / JOBS} trips, {commands / JOBS} commands a job; {dict(kinds)}")
            assert 0 < trips <= MOST_TRIPS[role] * JOBS
            assert 0 < commands <= MOST_COMMANDS[role] * JOBS
            asked = Counter(one[0].decode() for one in ear.s3 if tells_of(one, names))
            assert per_job(asked) == S3_REQUESTS[role]
            assert per_job(ear.amqp) == AMQP_METHODS[role]


def tells_of(command: Command, names: list[bytes]) -> bool:
    return any(name in word for word in command for name in names)


def per_job(counts: Counter[str]) -> dict[str, float]:
    return {name: count / JOBS for name, count in counts.items()}


async def one_job(cluster: Cluster, consumer: Ear, marker: str, token: str) -> str:
    """The job's id."""
    acknowledged = consumer.amqp["ack"]

    async def is_acknowledged() -> bool:
        return consumer.amqp["ack"] > acknowledged

    job = await cluster.client.submit(marker, token=token)
    assert (await cluster.client.follow(job)).name == "done"
    await eventually(is_acknowledged, f"{marker} is acknowledged")
    await asyncio.sleep(SETTLE_SECONDS)  # what else comes after the end: an unsubscription
    return job.job_id
