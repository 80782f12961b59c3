"""python -m bench.references.peers.on_faststream consume | publish JOBS"""

from __future__ import annotations

import asyncio
import sys

from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

from bench.references.naive_job import SETTINGS, job_to_do
from bench.references.peers import new_job

queue = RabbitQueue("faststream.jobs", durable=True, queue_type=QueueType.QUORUM)
prefetch = Channel(prefetch_count=int(SETTINGS["CONSUMER_CONCURRENCY"]))
broker = RabbitBroker(SETTINGS["RABBITMQ_URL"], default_channel=prefetch, log_level=30)
work = job_to_do()


@broker.subscriber(queue, ack_policy=AckPolicy.NACK_ON_ERROR)
async def do(job: dict[str, str]) -> None:
    await work.do(job)


async def publish(count: int) -> None:
    async with broker:
        await broker.declare_queue(queue)
        for _ in range(count):
            await broker.publish(new_job(), queue=queue, persist=True)


if __name__ == "__main__":
    if sys.argv[1] == "publish":
        asyncio.run(publish(int(sys.argv[2])))
    else:
        asyncio.run(FastStream(broker, on_startup=[work.open]).run())
