"""What a consumer costs by itself: photo and model cost nothing, progress and result are told as ever.

growbin is its consumer with lease, retries, metrics and logs on; naive is plain aio-pika; in the full form
there are FastStream, Taskiq, Celery (prefork) and Dramatiq besides, on the naive job.
Then growbin and plain aio-pika at a prefetch of 1,000, with a model that takes a second. Their
jobs lie in the queue when they begin: they sleep while it is filled.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import aio_pika
from redis.asyncio import Redis

from bench.instruments import OURS, ROOT, Dose, Program, Round, Wanted, growbin, in_turn, program, start
from bench.references.peers import new_job
from bench.system import NAIVE, System, started
from growbin.adapters.rabbitmq.job_queue import RabbitJobQueue
from growbin.adapters.redis.progress_log import RedisProgressLog
from growbin.job import job_of
from growbin.local.child import draw_port
from tests.jobs import upload

PEERS_FOLDER = ROOT / ".venv-peers" / "bin"
# How each is started; all names of modules are below `bench.references.peers`.
PEERS = {
    "faststream": "python -m {module} consume",
    "taskiq": "taskiq worker --workers 1 {module}:broker",
    "celery": "celery --app {module} worker --pool prefork --concurrency 8 --loglevel warning",
    "dramatiq": "dramatiq --processes 1 --threads 32 {module}",
}
JOBS, WARM_UP_JOBS, MANY_JOBS = 600, 50, 2_000
PREFETCH, MANY = 32, 1_000
AT_ONCE_PUBLISHED = 32
PATIENCE_SECONDS = 120
SETTLE_SECONDS = 1.0
DONE = re.compile(rb'"stage": ?"done"')

COST, SPEED = "CPU ms a job", "s for a job"
OVERHEAD, AT_ONCE = "nothing but the consumer", "1,000 at once, a model of 1 s"
WANTED = (
    Wanted(COST, 1.1, NAIVE, OVERHEAD),
    Wanted(COST, 1.0, "faststream", OVERHEAD),
    Wanted(COST, 1.0, "taskiq", OVERHEAD),
    Wanted(COST, 0.4, "celery", OVERHEAD),
    Wanted(SPEED, 1 / 0.95, NAIVE, AT_ONCE),
)
Publish = Callable[[int], Coroutine[None, None, None]]


@dataclass(frozen=True, slots=True)
class Consumer:
    name: str
    program: Program
    publish: Publish


async def measured(dose: Dose) -> AsyncIterator[Round]:
    peers = [] if dose.is_quick else list(PEERS)
    async with System.running() as system:
        for case, names, prefetch, seconds, jobs in (
            (OVERHEAD, [OURS, NAIVE, *peers], PREFETCH, 0.0, JOBS),
            (AT_ONCE, [OURS, NAIVE], MANY, 1.0, MANY_JOBS),
        ):
            settings = settings_for(system, prefetch, seconds)
            async with AsyncExitStack() as stack:
                consumers = [await stack.enter_async_context(consuming(name, settings)) for name in names]
                for one in consumers:
                    await measure(one, case, settings, WARM_UP_JOBS)
                for one in in_turn(consumers, dose.rounds):
                    count = jobs // 6 if dose.is_quick else jobs
                    yield await measure(one, case, settings, count)


def settings_for(system: System, prefetch: int, model_seconds: float) -> dict[str, str]:
    return {
        **system.settings,
        "CONSUMER_CONCURRENCY": str(prefetch),
        "BENCH_FAKED_SECONDS": str(model_seconds),
        "QUEUE_NAME": f"bench.{prefetch}",
    }


async def measure(consumer: Consumer, case: str, settings: Mapping[str, str], jobs: int) -> Round:
    await asyncio.sleep(SETTLE_SECONDS)
    before = consumer.program.cpu()
    seconds = await all_done(consumer, settings, jobs)
    await asyncio.sleep(SETTLE_SECONDS)
    spent = consumer.program.cpu() - before
    return Round(
        case, consumer.name, {COST: (spent.own + spent.children) / jobs * 1000, SPEED: seconds / jobs}
    )


async def all_done(consumer: Consumer, settings: Mapping[str, str], jobs: int) -> float:
    """The seconds from when so many jobs are in the queue until as many have told their end."""
    async with Redis.from_url(settings["REDIS_URL"]) as redis, redis.pubsub() as subscription:
        await subscription.psubscribe("*events*")
        with consumer.program.frozen():
            await consumer.publish(jobs)
        began = time.monotonic()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while jobs:
                heard = await subscription.get_message(ignore_subscribe_messages=True, timeout=1)
                jobs -= bool(heard and DONE.search(heard["data"]))
        return time.monotonic() - began


@asynccontextmanager
async def consuming(name: str, settings: Mapping[str, str]) -> AsyncIterator[Consumer]:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        if name == OURS:
            words = [sys.executable, "-m", "bench.references.faked_growbin", "consumer"]
            running = await enter(growbin("consumer", settings, words))
            publish = await enter(publishing_ours(settings))
        elif name == NAIVE:
            running = await enter(started(NAIVE, "consumer", settings, draw_port()))
            publish = await enter(publishing_naive(settings))
        else:
            settings = {**settings, "PYTHONPATH": str(ROOT)}  # their commands do not look here by themselves
            publish = publishing_peer(name, settings)
            await publish(0)  # the queue must be there
            running = await enter(program(peer_words(PEERS[name], name), settings))
        yield Consumer(name, running, publish)


@asynccontextmanager
async def publishing_ours(settings: Mapping[str, str]) -> AsyncIterator[Publish]:
    """As the gateway does it: log first, then the queue. Each job has an owner of its own."""
    queue = RabbitJobQueue.open(urls=[settings["RABBITMQ_URL"]], queue_name=settings["QUEUE_NAME"])
    log = RedisProgressLog.open(
        url=f"{settings['REDIS_URL'].rstrip('/')}/2", image_base_url="http://cdn.test"
    )
    async with queue as jobs, log as progress:

        async def publish_one() -> None:
            uploaded = upload(owner=uuid.uuid4().hex * 2)
            await progress.open_job(uploaded, uploaded.ticket_expires_at_ms)
            await jobs.publish(job_of(uploaded))

        async def publish(count: int) -> None:
            for first in range(0, count, AT_ONCE_PUBLISHED):
                batch = range(first, min(first + AT_ONCE_PUBLISHED, count))
                await asyncio.gather(*(publish_one() for _ in batch))

        yield publish


@asynccontextmanager
async def publishing_naive(settings: Mapping[str, str]) -> AsyncIterator[Publish]:
    async with await aio_pika.connect(settings["RABBITMQ_URL"]) as connection:
        channel = await connection.channel()

        async def publish(count: int) -> None:
            for _ in range(count):
                body = json.dumps(new_job()).encode()
                message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
                await channel.default_exchange.publish(message, "naive.jobs")

        yield publish


def publishing_peer(name: str, settings: Mapping[str, str]) -> Publish:
    async def publish(count: int) -> None:
        words = peer_words(f"python -m {{module}} publish {count}", name)
        async with program(words, settings) as publisher:
            await asyncio.to_thread(publisher.process.wait)

    return publish


def peer_words(line: str, name: str) -> list[str]:
    first, *others = line.format(module=f"bench.references.peers.on_{name}").split()
    path = PEERS_FOLDER / first
    assert path.exists(), "make bench installs what the full form needs"
    return [str(path), *others]


if __name__ == "__main__":
    start("consumers", measured, __doc__, *WANTED)
