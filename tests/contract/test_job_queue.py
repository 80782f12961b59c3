"""The job queue on a real RabbitMQ: its topology, poison, lost connections. What each verdict does is in
test_verdicts.py, on the fake as well."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from urllib.parse import quote
from uuid import UUID, uuid4

import aio_pika
import aiohttp
import psutil
import pytest
import pytest_asyncio
from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractConnection
from prometheus_client import REGISTRY
from structlog.testing import capture_logs
from yarl import URL

from growbin.adapters.rabbitmq import backlog as counting
from growbin.adapters.rabbitmq.broker_link import BrokerLink
from growbin.adapters.rabbitmq.checkup import compare_topology
from growbin.adapters.rabbitmq.job_event import BadEvent, decode_event, encode_event
from growbin.adapters.rabbitmq.job_queue import RabbitJobQueue
from growbin.adapters.rabbitmq.letters import RabbitDeadLetters
from growbin.adapters.rabbitmq.topology import Arguments, Topology
from growbin.errors import Unavailable
from growbin.job import Job
from growbin.ports import Ack, DeadLetter, HandBack, Handler, Obituary, Retry, Verdict
from tests.jobs import job_of, upload

PUBLISH_SECONDS = 30  # the first publish waits until all queues are declared


def job() -> Job:
    return job_of(upload(question="이건 뭐예요?"))


class Broker:
    """One queue name of our own on the run's broker."""

    def __init__(self, parts: dict[str, str], channel: AbstractChannel) -> None:
        self.topology = Topology(f"test-{uuid4().hex[:12]}")
        self.parts = parts
        self.channel = channel
        self.obituaries: asyncio.Queue[Obituary] = asyncio.Queue()

    @asynccontextmanager
    async def queue(self) -> AsyncIterator[RabbitJobQueue]:
        async with RabbitJobQueue.open(
            urls=[self.parts["RABBITMQ_URL"]],
            queue_name=self.topology.name,
            publish_timeout_seconds=PUBLISH_SECONDS,
            management_url=self.parts["RABBITMQ_MANAGEMENT_URL"],
        ) as queue:
            yield queue

    @asynccontextmanager
    async def consuming(
        self, handle: Handler, concurrency: Callable[[], int] = lambda: 4, grace_seconds: float = 5
    ) -> AsyncIterator[RabbitJobQueue]:
        async def note_obituary(obituary: Obituary) -> str | None:
            self.obituaries.put_nowait(obituary)
            return "internal"

        async with (
            self.queue() as queue,
            queue.consuming(
                handle, note_obituary, concurrency=concurrency, grace_seconds=grace_seconds
            ) as is_subscribed,
        ):
            async with asyncio.timeout(30):
                while not is_subscribed():
                    await asyncio.sleep(0.02)
            yield queue

    @property
    def urls(self) -> list[str]:
        """Two nodes, of which the first is down."""
        return ["amqp://guest:guest@127.0.0.1:1/", self.parts["RABBITMQ_URL"]]

    def letters(self) -> AbstractAsyncContextManager[RabbitDeadLetters]:
        return RabbitDeadLetters.open(urls=self.urls, queue_name=self.topology.name)

    async def kept(self, count: int) -> set[UUID | None]:
        """The jobs of `count` letters: each is kept once its obituary was read."""
        async with self.letters() as letters, asyncio.timeout(30):
            while len(found := await letters.list()) < count:
                await asyncio.sleep(0.05)
        return {letter.job_id for letter in found}


@pytest.fixture(autouse=True)
def patient_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine's management is slow and its counts are late, and the backlog known all the same."""
    monkeypatch.setattr(counting, "MANAGEMENT_TIMEOUT_SECONDS", 30)
    monkeypatch.setattr(counting, "COUNT_LAG_SECONDS", 30)


@pytest_asyncio.fixture
async def broker(parts: dict[str, str]) -> AsyncIterator[Broker]:
    connection = await aio_pika.connect(parts["RABBITMQ_URL"])
    async with connection:
        broker = Broker(parts, await connection.channel())
        yield broker
        for name, _ in broker.topology.queues():
            await broker.channel.queue_delete(name)
        await broker.channel.exchange_delete(broker.topology.dead_exchange)


def test_event_survives_the_round_trip() -> None:
    """What is published is what is consumed, in less than 4 KB of CloudEvents JSON."""
    event = job()
    assert decode_event(encode_event(event)) == event
    longest = event.model_copy(update={"question": "가" * 500, "address_hash": "b" * 64})
    assert len(encode_event(longest)) <= 4096


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff\xfe", b"[]", b"[" * 4000, b'{"type":"x"}', b"x" * 5000, b'{"data":{"job_id":"1"}}'],
)
def test_body_that_is_no_event_is_refused(body: bytes) -> None:
    """Whatever is not our event raises BadEvent, nothing else."""
    with pytest.raises(BadEvent):
        decode_event(body)


def test_bad_event_with_a_readable_id_names_its_job() -> None:
    """An event of a later version still tells whose job must be ended."""
    event = job()
    with pytest.raises(BadEvent) as refused:
        decode_event(encode_event(event).replace(b"completed.v1", b"completed.v9"))
    assert refused.value.job_id == event.job_id


async def test_poison_body_is_dead_lettered_with_its_id(broker: Broker) -> None:
    """A body that cannot be decoded never reaches the handler; its obituary names the job if it can."""

    async def handle(_: Job) -> Verdict:
        raise AssertionError("never called")

    event = job()
    poison = encode_event(event).replace(b"completed.v1", b"completed.v9")
    async with broker.consuming(handle):
        await broker.channel.default_exchange.publish(aio_pika.Message(poison), broker.topology.name)
        obituary = await asyncio.wait_for(broker.obituaries.get(), 30)
    assert (obituary.job_id, obituary.job) == (event.job_id, None)


async def test_leaving_while_a_connection_is_set_up_takes_nothing_new(broker: Broker) -> None:
    """The connection is lost, and the new one subscribes in the moment in which the consumer stops: what
    waits is left to others, not handed back again and again until it is a dead letter."""
    has_begun, may_end, is_subscribing = asyncio.Event(), asyncio.Event(), asyncio.Event()
    first, waiting = job(), job()
    handed_back = 0

    async def handle(delivered: Job) -> Verdict:
        nonlocal handed_back
        if delivered.job_id == first.job_id:
            has_begun.set()
            await may_end.wait()
            return Ack()
        handed_back += 1
        return HandBack()

    def concurrency() -> int:
        task = asyncio.current_task()
        is_set_up = task is not None and task.get_name() == "broker-link-consumer"
        if is_set_up and has_begun.is_set():
            is_subscribing.set()
            return 4
        return 1

    async with broker.consuming(handle, concurrency, grace_seconds=2) as queue:
        await queue.publish(first)
        await asyncio.wait_for(has_begun.wait(), 30)
        await queue.publish(waiting)
        closing = asyncio.create_task(_close_our_connections(broker.parts))
        await is_subscribing.wait()
    await closing
    assert handed_back <= 4
    assert not await broker.kept(0)
    may_end.set()


async def test_link_whose_set_up_hits_a_bug_is_set_up_again(broker: Broker) -> None:
    """Also after a cancellation that the library made up: nothing else would ever connect again."""
    troubles: list[BaseException] = [KeyError("bug"), asyncio.CancelledError()]

    async def set_up(_: AbstractConnection) -> None:
        if troubles:
            await failing(troubles.pop(0))

    async with BrokerLink.open([broker.parts["RABBITMQ_URL"]], "test", set_up) as link:
        await asyncio.wait_for(link.ready.wait(), 30)
    assert not troubles


async def failing(error: BaseException) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    await future


def of_an_earlier_limit(topology: Topology) -> dict[str, Arguments]:
    """As a BACKLOG_LIMIT of 50 once made it; the other queues are still missing."""
    wanted = dict(topology.queues())
    return {topology.name: wanted[topology.name] | {"x-queue-type": "quorum", "x-max-length": 500}}


def with_other_times(topology: Topology) -> dict[str, Arguments]:
    wanted = {name: arguments | {"x-queue-type": "quorum"} for name, arguments in topology.queues()}
    return {
        topology.delay(1): wanted[topology.delay(1)] | {"x-message-ttl": 1_500},
        topology.letters: wanted[topology.letters] | {"x-message-ttl": 3_600_000},
    }


def of_another_type(topology: Topology) -> dict[str, Arguments]:
    """All of them classic, with what such queues know."""
    known = {"x-dead-letter-exchange", "x-dead-letter-routing-key", "x-message-ttl"}
    return {
        name: {key: value for key, value in arguments.items() if key in known} | {"x-queue-type": "classic"}
        for name, arguments in topology.queues()
    }


@pytest.mark.parametrize("others", [of_an_earlier_limit, with_other_times, of_another_type])
async def test_queues_with_other_arguments_are_used_as_they_are_and_told_once(
    broker: Broker, others: Callable[[Topology], dict[str, Arguments]]
) -> None:
    """Jobs are taken, handled, retried and dead-lettered over them; each is warned of once, in the broker's
    words, however many connections find it so, and what was missing is made."""
    found = others(broker.topology)
    for name, arguments in found.items():
        await broker.channel.declare_queue(name, durable=True, arguments=arguments)
    deliveries: Counter[UUID] = Counter()

    async def handle(delivered: Job) -> Verdict:
        deliveries[delivered.job_id] += 1
        return Retry(1) if deliveries[delivered.job_id] == 1 else DeadLetter("internal")

    events = [job(), job()]
    with capture_logs() as logs:
        for event in events:
            async with broker.consuming(handle) as queue:
                await queue.publish(event)
                assert (await asyncio.wait_for(broker.obituaries.get(), 30)).job == event
                await broker.kept(events.index(event) + 1)
        assert await broker.kept(2) == {it.job_id for it in events}
    assert deliveries == {event.job_id: 2 for event in events}
    told = [(line["queue"], line["reason"]) for line in logs if line["event"] == "queue_differs"]
    assert sorted(name for name, _ in told) == sorted(found)
    assert all("inequivalent arg" in reason and name in reason for name, reason in told)


async def test_queue_of_an_earlier_versions_letters_gets_nothing_more(broker: Broker) -> None:
    """That version bound it, and binds it again: with our next connection no event lands there."""
    topology = broker.topology
    async with await aio_pika.connect(broker.parts["RABBITMQ_URL"]) as connection:
        await topology.declare(connection)
    parked = await broker.channel.get_queue(topology.parked, ensure=False)
    await parked.bind(topology.dead_exchange, routing_key=topology.name)

    async def handle(_: Job) -> Verdict:
        return DeadLetter("internal")

    event = job()
    async with broker.consuming(handle) as queue:
        await queue.publish(event)
        await broker.kept(1)
    assert await parked.get(fail=False) is None


async def test_dead_exchange_of_another_type_still_leads_to_people_and_obituaries(broker: Broker) -> None:
    """It is warned of like a queue, and what it needs to pass letters on is bound to it."""
    await broker.channel.declare_exchange(broker.topology.dead_exchange, ExchangeType.DIRECT, durable=True)

    async def handle(_: Job) -> Verdict:
        return DeadLetter("internal")

    event = job()
    with capture_logs() as logs:
        async with broker.consuming(handle) as queue:
            await queue.publish(event)
            assert (await asyncio.wait_for(broker.obituaries.get(), 30)).job == event
            await broker.kept(1)
    told = [line["queue"] for line in logs if line["event"] == "queue_differs"]
    assert told == [broker.topology.dead_exchange]


async def test_comparing_names_all_that_differs_and_all_that_is_missing(broker: Broker) -> None:
    """Several of each, the exchange too, at the first node that answers; and nothing is made by looking."""
    topology = broker.topology
    await broker.channel.declare_exchange(topology.dead_exchange, ExchangeType.TOPIC, durable=True)
    differing = {**of_an_earlier_limit(topology), **with_other_times(topology)}
    for name, arguments in differing.items():
        await broker.channel.declare_queue(name, durable=True, arguments=arguments)
    for _ in range(2):
        facts = await compare_topology(broker.urls, topology.name)
        assert facts.declared == 9
        assert set(facts.missing) == {name for name, _ in topology.queues()} - set(differing)
        assert len(facts.different) == 4
        for name in (topology.dead_exchange, *differing):
            assert any(f"'{name}'" in sentence for sentence in facts.different)


async def test_closed_connection_does_not_start_a_running_job_again(broker: Broker) -> None:
    """The broker closes every connection in mid-job: the task lives on and is started once."""
    starts = 0
    may_end, ended = asyncio.Event(), asyncio.Event()

    async def handle(_: Job) -> Verdict:
        nonlocal starts
        starts += 1
        await may_end.wait()
        ended.set()
        return Ack()

    async with broker.consuming(handle) as queue:
        for _ in range(3):
            await queue.publish(job())
        async with asyncio.timeout(30):
            while starts < 3:
                await asyncio.sleep(0.02)
        lost = set(queue._callbacks)
        await _close_our_connections(broker.parts)
        async with asyncio.timeout(30):
            while len(queue._callbacks - lost) < 3:  # until all are delivered again
                await asyncio.sleep(0.02)
        may_end.set()
        await asyncio.wait_for(ended.wait(), 30)
        async with asyncio.timeout(30):
            while queue._running:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.5)
    assert starts == 3


async def _close_our_connections(parts: dict[str, str]) -> None:
    """Force-close growbin's connections of this process, through the broker's management."""
    base = URL(parts["RABBITMQ_MANAGEMENT_URL"])
    headers = {"Authorization": aiohttp.encode_basic_auth(base.user or "", base.password or "")}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with asyncio.timeout(30):
            closed = 0
            while closed < 2:
                ours = {item.laddr.port for item in psutil.Process().net_connections("tcp") if item.laddr}
                async with session.get(base.with_user(None) / "api/connections") as answer:
                    connections = await answer.json()
                for connection in connections:
                    name = (connection.get("client_properties") or {}).get("connection_name", "")
                    if str(name).startswith("growbin-") and connection.get("peer_port") in ours:
                        path = f"/api/connections/{quote(connection['name'])}"
                        url = URL(f"{base.with_user(None)}{path}", encoded=True)
                        async with session.delete(url) as answer:
                            closed += answer.status == 204
                await asyncio.sleep(0.3)


async def test_backlog_of_a_vhost_with_a_slash_is_known(parts: dict[str, str]) -> None:
    """`amqp://…/%2Fprod` is the vhost `/prod`, for the broker and for its management."""
    base = URL(parts["RABBITMQ_MANAGEMENT_URL"])
    vhost = f"/test-{uuid4().hex[:12]}"
    headers = {"Authorization": aiohttp.encode_basic_auth(base.user or "", base.password or "")}
    address = URL(f"{str(base.with_user(None)).rstrip('/')}/api/vhosts/{quote(vhost, safe='')}", encoded=True)
    url = str(URL(parts["RABBITMQ_URL"]).with_path(f"/{quote(vhost, safe='')}", encoded=True))
    async with aiohttp.ClientSession(headers=headers, raise_for_status=True) as session:
        await session.put(address, json={})
        try:
            async with RabbitJobQueue.open(
                urls=[url],
                queue_name="slashed",
                publish_timeout_seconds=PUBLISH_SECONDS,
                management_url=parts["RABBITMQ_MANAGEMENT_URL"],
            ) as queue:
                await queue.publish(job())
                async with asyncio.timeout(30):
                    while not (backlog := await queue.backlog()) or backlog.waiting == 0:
                        await asyncio.sleep(0.3)
                assert backlog.waiting == 1
            assert REGISTRY.get_sample_value("growbin_backlog_unknown") == 0
        finally:
            await session.delete(address)


async def test_broker_counts_each_job_once_that_it_hands_out(broker: Broker) -> None:
    """Also one that is handed back and given to another: places in line are told by this count."""
    held = asyncio.Event()

    async def hold(_job: Job) -> Verdict:
        held.set()
        await asyncio.Event().wait()
        return Ack()

    async def acknowledge(_job: Job) -> Verdict:
        return Ack()

    async with broker.consuming(hold, lambda: 1, grace_seconds=0.1) as queue:
        for _ in range(3):
            await queue.publish(job())
        async with asyncio.timeout(30):
            await held.wait()
            while (backlog := await queue.backlog()) is None or backlog.handed_out != 1:
                await asyncio.sleep(0.2)
    async with broker.consuming(acknowledge, lambda: 1) as queue, asyncio.timeout(30):
        while (backlog := await queue.backlog()) is None or (backlog.waiting, backlog.handed_out) != (0, 3):
            await asyncio.sleep(0.2)
        await asyncio.sleep(2)  # the broker's own count lags
        backlog = await queue.backlog()
    assert backlog
    assert (backlog.waiting, backlog.handed_out, backlog.turn) == (0, 3, 4)


async def test_crowd_that_comes_at_once_is_told_its_places(broker: Broker) -> None:
    """Though the broker has not counted them yet; once it has, nobody is counted twice."""
    async with broker.queue() as queue, asyncio.timeout(30):
        while await queue.backlog() is None:  # the broker does not know so new a queue at once
            await asyncio.sleep(0.2)
        positions = []
        for _ in range(20):
            backlog = await queue.backlog()
            assert backlog
            positions.append(backlog.position)
            await queue.publish(job())
        assert positions == sorted(positions)
        assert 18 <= positions[-1] <= 20  # some were counted meanwhile
        while (backlog := await queue.backlog()) is None or backlog.waiting < 20:
            await asyncio.sleep(0.2)
        assert 21 <= backlog.position <= 23
        assert backlog.turn == backlog.position  # none was handed out


async def test_unknown_backlog_is_measured_and_told_once(parts: dict[str, str]) -> None:
    """Nothing limits what waits while the management does not tell: that is for the operator."""
    async with RabbitJobQueue.open(
        urls=[parts["RABBITMQ_URL"]],
        queue_name=f"test-{uuid4().hex[:12]}",
        management_url="http://127.0.0.1:1",
    ) as queue:
        with capture_logs() as lines:
            for _ in range(3):
                assert await queue.backlog() is None
                queue._backlog._read_at -= 2  # as if it were older
    assert [line["event"] for line in lines].count("backlog_unknown") == 1
    assert REGISTRY.get_sample_value("growbin_backlog_unknown") == 1


async def test_publish_without_a_broker_is_unavailable_within_two_seconds() -> None:
    """No confirm, no promise: without a broker publishing fails soon and says which part is away."""
    async with RabbitJobQueue.open(urls=["amqp://guest:guest@127.0.0.1:1/"], queue_name="nowhere") as queue:
        begin = time.monotonic()
        with pytest.raises(Unavailable, match="rabbitmq"):
            await queue.publish(job())
        assert time.monotonic() - begin < 2 + 3  # what is promised, and what a busy machine may add
