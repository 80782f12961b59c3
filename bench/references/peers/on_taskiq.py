"""taskiq worker --workers 1 bench.references.peers.on_taskiq:broker
python -m bench.references.peers.on_taskiq publish JOBS
"""

from __future__ import annotations

import asyncio
import sys

from taskiq import TaskiqEvents, TaskiqState
from taskiq_aio_pika import AioPikaBroker, Queue, QueueType

from bench.references.naive_job import SETTINGS, job_to_do
from bench.references.peers import new_job

broker = AioPikaBroker(SETTINGS["RABBITMQ_URL"], qos=int(SETTINGS["CONSUMER_CONCURRENCY"])).with_queue(
    Queue(name="taskiq.jobs", type=QueueType.QUORUM)
)
work = job_to_do()


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def begin(_state: TaskiqState) -> None:
    await work.open()


@broker.task(task_name="do")
async def do(job: dict[str, str]) -> None:
    await work.do(job)


async def publish(count: int) -> None:
    await broker.startup()
    for _ in range(count):
        await do.kiq(new_job())
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(publish(int(sys.argv[2])))
