"""The whole system as real processes, with a proxy on every link, to be killed, frozen and cut.

    async with Cluster.running(servers, gateways=2, consumers=1, LEASE_SECONDS="3") as cluster:
        hold = cluster.model.hold("one")
        job = await cluster.client.submit("one")
        cluster.client.watch(job)
        await hold.reached()
        await cluster.consumers[0].kill()
        await cluster.consumers[0].start()
        hold.release()
        await cluster.prove()              # everything ends, and I1 to I7 hold

What can be hurt: `cluster.gateways[i]`, `cluster.consumers[i]`, `cluster.broker`, `.redis`, `.s3`, `.cdn`
(kill, freeze, thaw, stop, start), and every link: `process.links["amqp"|"redis"|"s3"|"model"|"http"]`,
`cluster.cdn_link` (see proxy.py). All of it is written into `cluster.journal`, by the names
"gateway-1", "consumer-2", "rabbitmq", "valkey", "redis of consumer-2", ...
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Self

import aiohttp
import psutil
from yarl import URL

from growbin.local.child import PartFailed, draw_port
from growbin.local.parts.nginx import Nginx
from growbin.local.parts.part import Part
from growbin.local.parts.programs import ConsumerProgram, GatewayProgram, Program
from growbin.local.parts.rabbitmq import RabbitMQ
from growbin.local.parts.seaweedfs import SeaweedFS
from growbin.local.parts.valkey import Valkey
from tests.faults.client import Client
from tests.faults.inspection import Broker, Inspection, Overheard, Snapshot
from tests.faults.instruments.journal import Journal
from tests.faults.instruments.oracle import Ledger, TrackedJob
from tests.faults.instruments.proxy import Proxy
from tests.faults.measured_rabbitmq import MeasuredRabbitMQ
from tests.faults.model import MODEL_NAME, Model
from tests.faults.photos import CANARIES, photo_for
from tests.load_profile import LOAD_PROFILE
from tests.processes import environment

# RabbitMQ killed within about a second of a quorum queue's declaration forgets the queue.
DECLARED_FOR_GOOD_SECONDS = 12.0
# A queue that is deleted just as RabbitMQ 3.10 begins to read its dead letters (after its declaration, or a
# start of the broker) ends that reader; restarted at once it fails again, and RabbitMQ gives up all of them
# for good: then no queue with such letters works any more.
SETTLED_SECONDS = 10.0
STREAM_HEARTBEAT_SECONDS = 2.0
BROKER_PASSWORD, MODEL_KEY = "the broker's password", "a model key"
READERS = 20
MEMORY, MEMORY_BYTES = Path("/dev/shm"), 2 * 2**30
START_SECONDS = 120.0
START_PAUSE_SECONDS = 2.0
SHORTENED = {
    "STREAM_HEARTBEAT_SECONDS": str(STREAM_HEARTBEAT_SECONDS),
    "JOB_DEADLINE_SECONDS": "120",
    "LOG_LEVEL": "info",
}


class Target:
    """Something that runs and may be hurt. Each harm is written into the journal under `name`, and is
    over when the target is useful again."""

    def __init__(self, name: str, part: Part, journal: Journal) -> None:
        self.name = name
        self.part = part
        self._journal = journal

    @property
    def is_running(self) -> bool:
        return self.part.pid is not None

    async def kill(self) -> None:
        """SIGKILL; nothing is told to anybody."""
        self._journal.begin(self.name, "kill")
        await self.part.kill()

    def freeze(self) -> None:
        """SIGSTOP: it keeps its connections and says nothing."""
        self._journal.begin(self.name, "freeze")
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)
        self._journal.end(self.name)

    async def stop(self) -> int:
        """SIGTERM, and the exit code (negative: it had to be killed)."""
        self._journal.begin(self.name, "stop")
        ended = asyncio.create_task(self.part.ended())
        await self.part.stop()
        return await ended

    async def start(self) -> float:
        """Start it again on the same ports and data; returns the seconds until it was useful."""
        began = time.monotonic()
        gives_up_at = began + START_SECONDS
        while True:
            try:
                if not self.is_running:
                    await self.part.start()
                await self.part.ready()
                break
            except PartFailed:  # what it needs is away itself, or someone was lent its port meanwhile
                if time.monotonic() > gives_up_at:
                    raise
                await asyncio.sleep(START_PAUSE_SECONDS)
        self._journal.end(self.name)
        return time.monotonic() - began

    def _signal(self, number: signal.Signals) -> None:
        if self.part.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.part.pid, number)


class BrokerTarget(Target):
    """RabbitMQ, which must not be killed too soon after a declaration."""

    declared_at = started_at = 0.0

    @property
    def is_settled(self) -> bool:
        """Whether a queue may be deleted."""
        return (
            self.declared_at > 0
            and time.monotonic() > max(self.declared_at, self.started_at) + SETTLED_SECONDS
        )

    async def start(self) -> float:
        seconds = await super().start()
        self.started_at = time.monotonic()
        return seconds

    async def kill(self) -> None:
        await asyncio.sleep(self.declared_at + DECLARED_FOR_GOOD_SECONDS - time.monotonic())
        await super().kill()


class ForeignBrokerTarget(BrokerTarget):
    """A broker that is not ours to kill: what its users would notice is done to their links."""

    def __init__(self, name: str, part: Part, journal: Journal, links: Callable[[], list[Proxy]]) -> None:
        super().__init__(name, part, journal)
        self._links = links

    @property
    def is_running(self) -> bool:
        return True

    async def kill(self) -> None:
        self._journal.begin(self.name, "kill")
        for link in self._links():
            await link.down()

    def freeze(self) -> None:
        self._journal.begin(self.name, "freeze")
        for link in self._links():
            link.change("half open")

    def thaw(self) -> None:
        for link in self._links():
            link.recover()
        self._journal.end(self.name)

    async def stop(self) -> int:
        await self.kill()
        return 0

    async def start(self) -> float:
        for link in self._links():
            await link.passing()
        self._journal.end(self.name)
        return 0.0


class ForeignRabbitMQ(RabbitMQ):
    """The broker of RABBITMQ_URL and RABBITMQ_MANAGEMENT_URL, in the place of ours."""

    @property
    def url(self) -> str:
        return os.environ["RABBITMQ_URL"].partition(",")[0]

    @property
    def management_url(self) -> str:
        return os.environ["RABBITMQ_MANAGEMENT_URL"].rstrip("/")

    @property
    def port(self) -> int:
        return URL(self.url).port or 5672

    async def start(self) -> None:
        pass

    async def ready(self) -> None:
        await self.check()

    async def stop(self) -> None:
        pass


class Process(Target):
    """A gateway or a consumer, with links of its own."""

    def __init__(self, name: str, part: Part, journal: Journal, links: dict[str, Proxy]) -> None:
        super().__init__(name, part, journal)
        self.links = links
        self.baseline: Snapshot | None = None  # what it held open when it was ready
        self.starts = 0

    @property
    def url(self) -> str:
        """A gateway's address, through its proxy."""
        return f"http://127.0.0.1:{self.links['http'].port}"

    @property
    def probe_url(self) -> str:
        return f"http://127.0.0.1:{self.part.ports['probe']}"

    @property
    def log(self) -> str:
        """All it has written, over its restarts."""
        return self.part.log.read_text(errors="replace") if self.part.log.exists() else ""

    def run_from(self, sources: Path | None) -> None:
        """From its next start on it is the version in `sources`; None: this one."""
        assert isinstance(self.part, Program)
        if sources is None:
            self.part._environment.pop("PYTHONPATH", None)
        else:
            self.part._environment["PYTHONPATH"] = str(sources)

    async def kill(self) -> None:
        """SIGKILL to the process alone, as the kernel would: its children have to notice."""
        self._journal.begin(self.name, "kill")
        self._signal(signal.SIGKILL)
        await self.part.ended()
        self.part.kill_group()

    async def start(self) -> float:
        seconds = await super().start()
        self.starts += 1
        assert self.part.pid is not None
        self.baseline = Snapshot.of(psutil.Process(self.part.pid))
        return seconds


class Servers:
    """RabbitMQ, Valkey, SeaweedFS and nginx, started once for many clusters."""

    def __init__(self, folder: Path, valkey_folder: Path) -> None:
        self.folder = folder
        self.rabbitmq: RabbitMQ = (
            ForeignRabbitMQ(folder) if "RABBITMQ_URL" in os.environ else MeasuredRabbitMQ(folder)
        )
        self.valkey = Valkey(valkey_folder)
        self.seaweedfs = SeaweedFS(folder)
        self.nginx = Nginx(folder, self.seaweedfs)
        self.with_queues: list[Broker] = []  # of the clusters that have ended

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path) -> AsyncIterator[Self]:
        with tempfile.TemporaryDirectory(prefix="growbin-valkey-", dir=_in_memory()) as valkey_folder:
            servers = cls(folder, Path(valkey_folder))
            parts: list[Part] = [servers.rabbitmq, servers.valkey, servers.seaweedfs, servers.nginx]
            try:
                async with asyncio.TaskGroup() as starting:
                    for part in parts:
                        starting.create_task(_start(part))
                yield servers
            finally:
                await asyncio.gather(*(part.kill() for part in parts))  # their data is thrown away


def _in_memory() -> Path | None:
    """Where Valkey keeps its data, if there is room. While a disk is busy with a sync Valkey holds back what
    it has to write, for up to two seconds, and a kill would take that along."""
    has_room = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > MEMORY_BYTES
    return MEMORY if has_room else None


async def _start(part: Part) -> None:
    await part.start()
    await part.ready()


class Cluster:
    """Gateways and consumers on a queue of their own, a scripted model, a client, a ledger."""

    def __init__(
        self, servers: Servers, model: Model, gateways: int, consumers: int, settings: Mapping[str, str]
    ) -> None:
        self.journal = Journal()
        self.ledger = Ledger()
        self.servers = servers
        self.model = model
        self.model.canaries = {canary.encode() for canary in CANARIES}
        self.queue_name = f"faults.{uuid.uuid4().hex[:12]}"
        self.settings = {**LOAD_PROFILE, **SHORTENED, **settings}
        self.folder = servers.folder / self.queue_name
        self.broker = (
            ForeignBrokerTarget("rabbitmq", servers.rabbitmq, self.journal, lambda: self.links("amqp"))
            if isinstance(servers.rabbitmq, ForeignRabbitMQ)
            else BrokerTarget("rabbitmq", servers.rabbitmq, self.journal)
        )
        self.redis = Target("valkey", servers.valkey, self.journal)
        self.s3 = Target("seaweedfs", servers.seaweedfs, self.journal)
        self.cdn = Target("nginx", servers.nginx, self.journal)
        self.cdn_link = Proxy("cdn", servers.nginx.port, self.journal)
        self.gateways = [self._process(GatewayProgram, number + 1) for number in range(gateways)]
        self.consumers = [self._process(ConsumerProgram, number + 1) for number in range(consumers)]
        self.told_broker, self.told_model = Overheard(), Overheard()
        for link in self.links("amqp"):
            link.overhear = self.told_broker.listen
        for link in self.links("model"):
            link.overhear = self.told_model.listen
        self.messages = Broker(servers.rabbitmq, self.queue_name)
        self.client = self.new_client()

    @classmethod
    @asynccontextmanager
    async def running(
        cls, servers: Servers, *, gateways: int = 1, consumers: int = 1, **settings: str
    ) -> AsyncIterator[Self]:
        """`settings` are environment variables of every process, over LOAD_PROFILE and SHORTENED."""
        async with AsyncExitStack() as stack:
            model = await stack.enter_async_context(Model())
            cluster = cls(servers, model, gateways, consumers, settings)
            stack.push_async_callback(cluster._clean_up)
            for proxy in [cluster.cdn_link, *cluster.links()]:
                await stack.enter_async_context(proxy)
            stack.push_async_callback(cluster._end_processes)
            async with asyncio.TaskGroup() as starting:
                for process in cluster.processes:
                    starting.create_task(process.start())
            cluster.broker.declared_at = time.monotonic()
            yield cluster

    @property
    def processes(self) -> list[Process]:
        return [*self.gateways, *self.consumers]

    @property
    def targets(self) -> list[Target]:
        return [*self.processes, self.broker, self.redis, self.s3, self.cdn]

    def links(self, kind: str | None = None) -> list[Proxy]:
        """Every process' link of one kind, or of all kinds."""
        return [
            link for process in self.processes for name, link in process.links.items() if kind in (None, name)
        ]

    @property
    def photo_links(self) -> list[Proxy]:
        """All ways on which the consumers come to a photo: whichever answers first is taken."""
        return [self.cdn_link, *(consumer.links["s3"] for consumer in self.consumers)]

    def new_client(self) -> Client:
        """Another client with the same ledger; close it."""
        return Client(
            self.ledger,
            lambda: [gateway.url for gateway in self.gateways],
            photo_for,
            silence_seconds=3 * STREAM_HEARTBEAT_SECONDS,
        )

    async def prove(self, timeout_seconds: float = 90) -> None:
        """Wait until every accepted job has ended and the queues are empty; then I1 to I7 must hold."""
        wrong = await self.violations(timeout_seconds)
        assert not wrong, "\n".join(["the promises are broken:", *wrong[:40]])

    async def violations(self, timeout_seconds: float = 90) -> list[str]:
        """Everything must run (start what you killed). Empty when all promises hold."""
        inspection = Inspection(self.servers, self.messages, self.processes, self.ledger)
        await self._all_ended(timeout_seconds)
        left = await inspection.drained(timeout_seconds)
        await self._read_all()
        promised = self.ledger.violations(
            self.model.calls,
            self.journal,
            deadline_seconds=float(self.settings["JOB_DEADLINE_SECONDS"]),
            max_paid_calls=int(self.settings.get("MAX_PAID_CALLS", "3")),
        )
        leaks = [f"I6 {leak}" for leak in self.model.leaks]
        leaks += [
            f"I6 a message tells {secret}"
            for secret in self.told_broker.told(self.secrets, by_right=BROKER_PASSWORD)
        ]
        leaks += [
            f"I6 the model is told {secret}"
            for secret in self.told_model.told(self.secrets, by_right=MODEL_KEY)
        ]
        return [*promised, *left, *leaks, *await inspection.leaks(self.secrets)]

    async def _all_ended(self, timeout_seconds: float) -> None:
        for job in self.ledger.jobs.values():
            if job.accepted_at is not None and not job.streams:
                self.client.watch(job)
        gives_up_at = time.monotonic() + timeout_seconds
        while (self.ledger.in_flight or self.ledger.untold) and time.monotonic() < gives_up_at:
            await asyncio.sleep(0.1)
        await self.client.stop_listening()

    async def _read_all(self) -> None:
        turns = asyncio.Semaphore(READERS)

        async def read(job: TrackedJob) -> None:
            async with turns:
                await self.client.read(job)

        await asyncio.gather(*(read(job) for job in self.ledger.jobs.values() if job.job_id))

    @property
    def secrets(self) -> dict[str, str]:
        """What must not be found in a log or a queue, and what it is."""
        servers = self.servers
        known = {
            URL(servers.rabbitmq.url).password or "": BROKER_PASSWORD,
            servers.valkey.secrets["password"]: "Redis' password",
            servers.seaweedfs.secrets["secret_key"]: "the S3 secret",
            servers.seaweedfs.secrets["referer"]: "the CDN's way to the bucket",
            servers.nginx.secrets["reader"]: "the reader's secret",
            **{api_key(process.name): MODEL_KEY for process in self.processes},
            **dict.fromkeys(CANARIES, "metadata of a photo"),
        }
        return known | self.ledger.secrets

    # --- building

    def _process(self, kind: type[Program], number: int) -> Process:
        name = f"{kind.name}-{number}"
        servers = self.servers
        ports = {
            "amqp": servers.rabbitmq.port,
            "redis": servers.valkey.port,
            "s3": servers.seaweedfs.port,
            "model": self.model.port,
        }
        port = draw_port()
        if kind is GatewayProgram:
            ports["http"] = port
        links = {link: Proxy(f"{link} of {name}", upstream, self.journal) for link, upstream in ports.items()}
        settings = self._settings_of(name, links) | {"PORT": str(port)}
        part = kind(self.folder / name, environment(settings))
        return Process(name, part, self.journal, links)

    def _settings_of(self, name: str, links: Mapping[str, Proxy]) -> dict[str, str]:
        servers = self.servers
        return {
            **servers.seaweedfs.settings(),
            **servers.nginx.settings(),
            "RABBITMQ_URL": str(
                URL(servers.rabbitmq.url).with_host("127.0.0.1").with_port(links["amqp"].port)
            ),
            "RABBITMQ_MANAGEMENT_URL": servers.rabbitmq.management_url,
            "REDIS_URL": str(URL(servers.valkey.url).with_port(links["redis"].port)),
            "S3_ENDPOINT_URL": f"http://127.0.0.1:{links['s3'].port}",
            "CDN_BASE_URL": f"http://127.0.0.1:{self.cdn_link.port}",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{links['model'].port}/v1",
            "OPENAI_API_KEY": api_key(name),
            "OPENAI_MODEL": MODEL_NAME,
            "QUEUE_NAME": self.queue_name,
            **self.settings,
        }

    async def _end_processes(self) -> None:
        await self.client.close()
        for target in self.targets:
            target.thaw()
        await asyncio.gather(*(process.part.kill() for process in self.processes))

    async def _clean_up(self) -> None:
        """The servers stay for the next cluster: running, without our queues if they may go already."""
        for target in (self.broker, self.redis, self.s3, self.cdn):
            if not target.is_running:
                await target.start()
        left = self.servers.with_queues
        left.append(self.messages)
        with suppress(aiohttp.ClientError, TimeoutError):
            while left and self.broker.is_settled:
                await left[-1].delete_queues()
                left.pop()


def api_key(name: str) -> str:
    return f"sk-{name}-7f3a9c51"
