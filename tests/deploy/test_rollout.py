"""The local overlay's gateways and consumers, started, probed and stopped as a cluster would."""

from __future__ import annotations

import asyncio
import re
import shlex
import time

import aiohttp
import pytest

from growbin.local.parts.programs import ConsumerProgram, GatewayProgram
from growbin.local.parts.rabbitmq import RabbitMQ
from tests.deploy.image import Image
from tests.deploy.manifests import ROOT
from tests.deploy.pods import PodProcess, Pods
from tests.faults.cluster import Servers
from tests.faults.inspection import BUG, NO_BUGS
from tests.faults.instruments.oracle import outcome
from tests.faults.steps import begin, eventually, rabbitmqctl, use

JOBS_EACH_SECOND = 2.0
MODEL_SECONDS = 3.0
HELD_SECONDS = 5.0


async def metric(pod: PodProcess, name: str) -> float:
    """The sum of a metric's samples, as Prometheus would read them."""
    async with aiohttp.ClientSession() as http, http.get(f"{pod.probe_url}/metrics") as answer:
        text = await answer.text()
    samples = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)", text, re.MULTILINE)
    assert samples, f"{pod.name} does not measure {name}"
    return sum(map(float, samples))


@pytest.mark.timeout(240)
async def test_rolling_every_pod_under_load_loses_nothing(servers: Servers, image: Image) -> None:
    """Two gateways and three consumers, each replaced while people use them: every job done, paid once."""
    Pods.image = image
    async with Pods.running(servers, gateways=2, consumers=3) as pods:
        pods.model.delay_seconds = lambda _marker: MODEL_SECONDS
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(use(pods, over, JOBS_EACH_SECOND))
            await eventually(lambda: any_open_streams(pods), "streams are counted")
            # Both at once, as `kubectl apply` begins them.
            rolled = await asyncio.gather(
                pods.roll(pods.consumers, ConsumerProgram), pods.roll(pods.gateways, GatewayProgram)
            )
            over.set()
        ended = [pod for deployment in rolled for pod in deployment]
        await pods.prove()
        jobs = pods.ledger.jobs.values()
        print(f"{len(jobs)} jobs while {len(ended)} pods were replaced")
        assert {outcome(job) for job in jobs} == {"done"}
        assert {pods.model.paid(job.marker) for job in jobs} == {1}
        every = [*ended, *pods.pods]
        assert not [restart for pod in every for restart in pod.restarts]
        lines = [line for pod in ended for line in pod.log.splitlines()]
        assert not [line for line in lines if BUG.search(line) and not any(word in line for word in NO_BUGS)]
        consumers = [pod for pod in pods.pods if pod in pods.consumers]
        assert sum([await metric(pod, "growbin_jobs_ended_total") for pod in consumers]) > 0
        assert sum([await metric(pod, "growbin_queue_wait_seconds_count") for pod in consumers]) > 0


async def any_open_streams(pods: Pods) -> bool:
    counts = [await metric(pod, "growbin_open_streams") for pod in pods.pods if pod in pods.gateways]
    return sum(counts) > 0


async def make_user(broker: RabbitMQ, name: str, password: str) -> None:
    """By the words of docs/upkeep.md."""
    page = (ROOT / "docs" / "upkeep.md").read_text()
    commands = re.findall(r"^ctl ((?:add_user|set_user_tags|set_permissions) .*)$", page, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["add_user", "set_user_tags", "set_permissions"]
    for command in commands:
        words = [word.replace("$new", name).replace("$password", password) for word in shlex.split(command)]
        await rabbitmqctl(broker, *words)


@pytest.mark.timeout(240)
async def test_replacing_the_brokers_user_under_load_loses_nothing(servers: Servers, image: Image) -> None:
    """A second user, every pod rolled to it, the first user deleted: every job done, every one paid once."""
    Pods.image = image
    broker = servers.rabbitmq
    await make_user(broker, "first", "first-password")
    async with Pods.running(servers, gateways=1, consumers=1) as pods:
        pods.broker_user = "first:first-password"
        await pods.roll(pods.consumers, ConsumerProgram)
        await pods.roll(pods.gateways, GatewayProgram)
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(use(pods, over, JOBS_EACH_SECOND))
            await eventually(lambda: any_open_streams(pods), "streams are counted")
            await make_user(broker, "second", "second-password")
            pods.broker_user = "second:second-password"
            await asyncio.gather(
                pods.roll(pods.consumers, ConsumerProgram), pods.roll(pods.gateways, GatewayProgram)
            )
            connected = await rabbitmqctl(broker, "list_connections", "user")
            assert "second" in connected
            assert "first" not in connected
            await rabbitmqctl(broker, "delete_user", "first")
            over.set()
        await pods.prove()
        jobs = pods.ledger.jobs.values()
        print(f"{len(jobs)} jobs while the user was replaced")
        assert {outcome(job) for job in jobs} == {"done"}
        assert {pods.model.paid(job.marker) for job in jobs} == {1}
    await rabbitmqctl(broker, "delete_user", "second")


async def test_consumer_told_to_end_finishes_what_it_has_in_hand(servers: Servers, image: Image) -> None:
    """From SIGTERM on it is alive and not ready; it ends by itself when its paid call has been answered."""
    Pods.image = image
    async with Pods.running(servers, gateways=1, consumers=1) as pods:
        [consumer] = pods.consumers
        assert isinstance(consumer, PodProcess)
        job, hold = await begin(pods, "in-hand")
        began = time.monotonic()
        stopping = asyncio.create_task(consumer.stop())
        await asyncio.sleep(HELD_SECONDS)
        assert await consumer.container.passes("livenessProbe")
        assert not await consumer.container.passes("readinessProbe")
        hold.release()
        assert await stopping == 0
        assert time.monotonic() - began >= HELD_SECONDS
        await pods.client.seen(job)
        await consumer.start()
        await pods.prove()
        assert (outcome(job), pods.model.paid("in-hand")) == ("done", 1)


async def test_grace_shorter_than_the_work_is_seen(servers: Servers, image: Image) -> None:
    """Planted: a kubelet that waits half a second. The consumer is killed, and its exit code tells."""
    Pods.image = image
    async with Pods.running(servers, gateways=1, consumers=1) as pods:
        consumer = pods.pods[1]
        consumer.container.stop_seconds = 0.5  # type: ignore[misc]
        await begin(pods, "cut-short")
        assert await consumer.stop() < 0
