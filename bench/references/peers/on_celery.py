"""celery --app bench.references.peers.on_celery worker --pool prefork --concurrency 8
python -m bench.references.peers.on_celery publish JOBS
"""

from __future__ import annotations

import asyncio
import sys

from celery import Celery, signals
from kombu import Queue

from bench.references.naive_job import SETTINGS, job_to_do
from bench.references.peers import new_job

app = Celery("peers", broker=SETTINGS["RABBITMQ_URL"])
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    task_default_queue="celery.jobs",
    task_queues=[Queue("celery.jobs", queue_arguments={"x-queue-type": "quorum"})],
    worker_detect_quorum_queues=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"confirm_publish": True},
)
work = job_to_do()
loop = asyncio.new_event_loop()


@signals.worker_process_init.connect
def begin(**_: object) -> None:
    loop.run_until_complete(work.open())


@app.task(name="do")
def do(job: dict[str, str]) -> None:
    loop.run_until_complete(work.do(job))


if __name__ == "__main__":
    for _ in range(int(sys.argv[2])):
        do.delay(new_job())
