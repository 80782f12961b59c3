"""What a person on call hears: each fault's own alert while it lasts, no other, and silence afterwards.

A real Prometheus scrapes real processes; the rules' durations are divided by 30. `make alerts` has all rows.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from tests.faults.client import Refused
from tests.faults.cluster import Cluster, Process, Servers
from tests.faults.instruments.oracle import TrackedJob
from tests.faults.model import ANSWER, BAD_KEY, Reply, refused
from tests.faults.prometheus import Prometheus
from tests.faults.steps import rabbitmqctl
from tests.faults.surgery import PROGRESS, database
from tests.faults.test_broker_faults import ALARMS
from tests.metric_names import panel_queries

JOB_PAUSE_SECONDS = 0.5
LONG_QUIET_SECONDS = 20.0  # whatever had a reason would fire within it
SHORT_QUIET_SECONDS = 4.0
HEARD_SECONDS = 60.0
CLEARED_SECONDS = 60.0

Act = Callable[[Cluster], Awaitable[None]]


@asynccontextmanager
async def people(cluster: Cluster) -> AsyncIterator[None]:
    """Two jobs a second, each watched by its person, whatever happens."""
    asking: set[asyncio.Task[None]] = set()

    async def ask(marker: str) -> None:
        with suppress(Refused):
            cluster.client.watch(await cluster.client.submit(marker))

    async def go_on_asking() -> None:
        for number in itertools.count():
            task = asyncio.create_task(ask(f"person-{number}"))
            asking.add(task)
            task.add_done_callback(asking.discard)
            await asyncio.sleep(JOB_PAUSE_SECONDS)

    crowd = asyncio.create_task(go_on_asking())
    try:
        yield
    finally:
        for task in (crowd, *asking):
            task.cancel()
        await asyncio.gather(crowd, *asking, return_exceptions=True)


# --- faults, and how they end -------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    name: str
    alert: str
    begin: Act
    end: Act
    besides: frozenset[str] = frozenset()  # what else may be heard
    settings: dict[str, Any] = field(default_factory=dict)


def links_down(kind: str) -> Act:
    async def begin(cluster: Cluster) -> None:
        for link in cluster.links(kind):
            await link.down()

    return begin


def links_slow(kind: str, delay_seconds: float) -> Act:
    async def begin(cluster: Cluster) -> None:
        for link in cluster.links(kind):
            await link.slow(delay_seconds)

    return begin


def links_pass(kind: str) -> Act:
    async def end(cluster: Cluster) -> None:
        for link in cluster.links(kind):
            await link.passing()

    return end


def model_says(reply: Reply) -> Act:
    async def change(cluster: Cluster) -> None:
        cluster.model.default = reply

    return change


def model_takes(seconds: float) -> Act:
    async def change(cluster: Cluster) -> None:
        cluster.model.delay_seconds = lambda _marker: seconds

    return change


async def kill_consumers(cluster: Cluster) -> None:
    for consumer in cluster.consumers:
        await consumer.kill()


async def start_consumers(cluster: Cluster) -> None:
    for consumer in cluster.consumers:
        await consumer.start()


async def kill_gateways(cluster: Cluster) -> None:
    for gateway in cluster.gateways:
        await gateway.kill()


async def start_gateways(cluster: Cluster) -> None:
    for gateway in cluster.gateways:
        await gateway.start()


async def kill_broker(cluster: Cluster) -> None:
    await cluster.broker.kill()


async def start_broker(cluster: Cluster) -> None:
    await cluster.broker.start()


def alarm_broker(kind: str) -> Act:
    async def begin(cluster: Cluster) -> None:
        await rabbitmqctl(cluster.servers.rabbitmq, *ALARMS[kind][0])

    return begin


def calm_broker(kind: str) -> Act:
    async def end(cluster: Cluster) -> None:
        await rabbitmqctl(cluster.servers.rabbitmq, *ALARMS[kind][1])

    return end


async def fill_redis(cluster: Cluster) -> None:
    async with database(cluster, PROGRESS) as redis:
        await redis.config_set("maxmemory", 1_500_000)


async def nearly_fill_redis(cluster: Cluster) -> None:
    async with database(cluster, PROGRESS) as redis:
        used = (await redis.info("memory"))["used_memory"]
        await redis.config_set("maxmemory", int(used / 0.85))


async def empty_redis(cluster: Cluster) -> None:
    async with database(cluster, PROGRESS) as redis:
        await redis.config_set("maxmemory", 0)


async def spend_budget(cluster: Cluster) -> None:
    async with database(cluster, PROGRESS) as redis:
        await redis.hset(EVERYBODYS_BUDGET, "day:calls", str(CALLS_A_DAY))


async def set_budget_back(cluster: Cluster) -> None:
    async with database(cluster, PROGRESS) as redis:
        await redis.delete(EVERYBODYS_BUDGET)


class DeafReaders:
    """Each second somebody opens the stream of a story that fills all buffers, and reads none of it."""

    def __init__(self) -> None:
        self._opening: asyncio.Task[None] | None = None

    async def begin(self, cluster: Cluster) -> None:
        job = await cluster.client.submit("long-story")
        cluster.client.watch(job)
        await cluster.client.seen(job)
        async with database(cluster, PROGRESS) as redis:
            events = f"job:{{{job.job_id}}}:events"
            epoch = str(await redis.lindex(events, 0)).partition(".")[0]
            await redis.lpush(events, f'{epoch}.0.long progress {{"message":"{"x" * LONG_STORY_BYTES}"}}')
        self._opening = asyncio.create_task(self._open(cluster.gateways[0], job))

    async def end(self, _cluster: Cluster) -> None:
        assert self._opening is not None
        self._opening.cancel()
        await asyncio.wait([self._opening])

    async def _open(self, gateway: Process, job: TrackedJob) -> None:
        request = (
            f"GET /api/v1/waste/jobs/{job.job_id}/events HTTP/1.1\r\n"
            f"Host: x\r\nAuthorization: Bearer {job.token}\r\n\r\n"
        )
        loop = asyncio.get_running_loop()
        with ExitStack() as opened:
            while True:
                reader = opened.enter_context(socket.socket())
                reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
                reader.setblocking(False)
                await loop.sock_connect(reader, ("127.0.0.1", gateway.links["http"].upstream_port))
                await loop.sock_sendall(reader, request.encode())
                await asyncio.sleep(1)


async def cdn_down(cluster: Cluster) -> None:
    await cluster.cdn_link.down()


async def cdn_slow(cluster: Cluster) -> None:
    await cluster.cdn_link.slow(2)


async def cdn_passes(cluster: Cluster) -> None:
    await cluster.cdn_link.passing()


PATIENCE = refused(429, "rate_limit_exceeded", retry_after_seconds=0.5)
EVERYBODYS_BUDGET, CALLS_A_DAY = "budget:{everybody}", 100_000
LONG_STORY_BYTES, SMALL_BUFFER_BYTES = 6_000_000, 4_096
DEAF_READERS = DeafReaders()
MODEL_AWAY = Fault("model away", "GrowbinPartAway", links_down("model"), links_pass("model"))
ONE_AT_ONCE = {"CONSUMER_CONCURRENCY": "1", "BACKLOG_LIMIT": "5"}
FAULTS = (
    Fault("key refused", "GrowbinPartAway", model_says(BAD_KEY), model_says(ANSWER)),
    Fault("model slow", "GrowbinModelSlow", model_takes(28), model_takes(0.05)),
    # Its own pauses, of up to half a minute, are not divided by 30.
    Fault("model full", "GrowbinModelThrottles", model_says(PATIENCE), model_says(ANSWER)),
    Fault("S3 away", "GrowbinPartAway", links_down("s3"), links_pass("s3")),
    Fault("S3 slow", "GrowbinAnswersSlow", links_slow("s3", 0.7), links_pass("s3")),
    Fault("CDN away", "GrowbinCdnPassedBy", cdn_down, cdn_passes),
    Fault("CDN slow", "GrowbinCdnPassedBy", cdn_slow, cdn_passes),
    Fault("Redis away", "GrowbinRedisAway", links_down("redis"), links_pass("redis")),
    Fault("Redis slow", "GrowbinAnswersSlow", links_slow("redis", 0.12), links_pass("redis")),
    Fault(
        "Redis full",
        "GrowbinRedisAway",
        fill_redis,
        empty_redis,
        besides=frozenset({"GrowbinRedisNearlyFull"}),
    ),
    Fault("Redis nearly full", "GrowbinRedisNearlyFull", nearly_fill_redis, empty_redis),
    Fault("broker away", "GrowbinBrokerAway", kill_broker, start_broker),
    # Slow, and not yet too slow: above its time-out a publish is refused, and that is another alert.
    Fault(
        "broker slow",
        "GrowbinAnswersSlow",
        links_slow("amqp", 0.5),
        links_pass("amqp"),
        settings={"PUBLISH_TIMEOUT_SECONDS": "3"},
    ),
    Fault("broker's memory full", "GrowbinBrokerAlarm", alarm_broker("memory"), calm_broker("memory")),
    Fault("broker's disk full", "GrowbinBrokerAlarm", alarm_broker("disk"), calm_broker("disk")),
    Fault("consumers gone", "GrowbinNobodyConsumes", kill_consumers, start_consumers),
    Fault("gateways gone", "GrowbinGatewaysGone", kill_gateways, start_gateways),
    Fault(
        "budget spent",
        "GrowbinBudgetSpent",
        spend_budget,
        set_budget_back,
        besides=frozenset({"GrowbinBudgetNearlySpent"}),
        settings={"BUDGET": f"{CALLS_A_DAY} calls/day"},
    ),
    Fault(
        "streams lost",
        "GrowbinStreamsLost",
        DEAF_READERS.begin,
        DEAF_READERS.end,
        settings={"STREAM_WRITE_TIMEOUT_SECONDS": "2"},
    ),
    Fault("backlog full", "GrowbinBacklogFull", model_takes(5), model_takes(0.05), settings=ONE_AT_ONCE),
)


# --- what is heard ------------------------------------------------------------------------------


async def heard(servers: Servers, fault: Fault, quiet_seconds: float) -> None:
    """Quiet before, its alert during, quiet again after; nothing else at any time. And each query of the
    dashboard has data; and no metric has a label set that was not there from the start."""
    async with Cluster.running(servers, **fault.settings) as cluster:
        at_first = await label_sets(cluster)
        async with people(cluster), Prometheus.watching(cluster) as prometheus:
            await asyncio.sleep(quiet_seconds)
            assert await prometheus.ever_fired() == set()
            await fault.begin(cluster)
            try:
                took = await prometheus.until(fires=True, alert=fault.alert, within_seconds=HEARD_SECONDS)
            finally:
                await fault.end(cluster)
            left = await prometheus.until(fires=False, alert=fault.alert, within_seconds=CLEARED_SECONDS)
            await asyncio.sleep(quiet_seconds)
            fired = await prometheus.ever_fired()
            print(f"{fault.name}: {fault.alert} after {took:.1f} s, silent {left:.1f} s after the end")
            assert fired - fault.besides == {fault.alert}
            assert await without_data(prometheus) == []
        assert await label_sets(cluster) == at_first


async def without_data(prometheus: Prometheus) -> list[str]:
    """The panels whose query gives nothing but NaN."""
    empty = []
    for panel, query in panel_queries():
        found = await prometheus.panel(query)
        if all(math.isnan(float(series["value"][1])) for series in found):
            empty.append(f"{panel}: {query}")
    return empty


async def label_sets(cluster: Cluster) -> set[tuple[str, str]]:
    """Of our own metrics; a part that was never asked about is told with the first scrape."""
    found = set()
    async with aiohttp.ClientSession() as http:
        for process in cluster.processes:
            async with http.get(f"{process.probe_url}/metrics") as answer:
                for line in (await answer.text()).splitlines():
                    if line.startswith("growbin_"):
                        found.add((process.name, line.rpartition(" ")[0]))
    return found


async def test_model_that_is_away_is_heard_of_alone(servers: Servers) -> None:
    """While it is away, and not after; jobs that wait for it bring no second page."""
    await heard(servers, MODEL_AWAY, SHORT_QUIET_SECONDS)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", [MODEL_AWAY, *FAULTS], ids=lambda fault: fault.name)
async def test_fault_is_heard_of_while_it_lasts_and_nothing_else_is(servers: Servers, fault: Fault) -> None:
    """One fault, one alert."""
    await heard(servers, fault, LONG_QUIET_SECONDS)
