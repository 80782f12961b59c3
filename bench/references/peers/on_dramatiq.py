"""dramatiq --processes 1 --threads 32 bench.references.peers.on_dramatiq
python -m bench.references.peers.on_dramatiq publish JOBS
"""

from __future__ import annotations

import sys

import dramatiq
from dramatiq.asyncio import get_event_loop_thread
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import AsyncIO, Middleware

from bench.references.naive_job import SETTINGS, job_to_do
from bench.references.peers import new_job

work = job_to_do()


class Opening(Middleware):  # type: ignore[misc]  # its library is not installed here
    def after_worker_boot(self, _broker: object, _worker: object) -> None:
        get_event_loop_thread().run_coroutine(work.open())


broker = RabbitmqBroker(url=SETTINGS["RABBITMQ_URL"], confirm_delivery=True)
broker.add_middleware(AsyncIO())
broker.add_middleware(Opening())
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="dramatiq.jobs")
async def do(job: dict[str, str]) -> None:
    await work.do(job)


if __name__ == "__main__":
    for _ in range(int(sys.argv[2])):
        do.send(new_job())
