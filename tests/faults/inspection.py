"""A look at the system itself, from behind: queues, leases, logs, descriptors (I5 to I7)."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aio_pika
import aiohttp
import psutil
import redis.asyncio
from aio_pika.abc import HeadersType
from yarl import URL

from growbin.adapters.rabbitmq.job_event import encode_event
from growbin.job import Job, Upload
from growbin.local.parts.rabbitmq import RabbitMQ
from tests.faults.instruments.oracle import Ledger, TrackedJob, outcome
from tests.faults.instruments.promises import feedback_miscounted
from tests.faults.photos import CANARIES

if TYPE_CHECKING:
    from tests.faults.cluster import Process, Servers

# Pools that a load has filled stay filled: 32 connections to each of four Redis roles, 64 to S3.
POOLED_CONNECTIONS = 200
SETTLE_SECONDS = 20.0
PHOTOS_LOOKED_AT = 20
# A traceback beside our own lines, or an error.
BUG = re.compile(r'^Traceback \(most recent|"level": "(?:error|critical)"|never retrieved|never awaited')
# aiormq's word for a broker that is away.
NO_BUGS = ("error when creating transport", '"part_away"')  # outages are what the rows make
WORD = re.compile(r"[\w-]{8,}", re.ASCII)  # every secret is one such word
LONGEST_SECRET = 64
FEEDBACK = re.compile(r"^growbin_feedback_total\{.*\} (\S+)", re.MULTILINE)
OPEN_STREAMS = re.compile(r"^growbin_open_streams (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Snapshot:
    """What a process holds open: descriptors besides its clients' connections, and its children."""

    descriptors: int
    children: frozenset[int]

    @classmethod
    def of(cls, process: psutil.Process) -> Snapshot:
        connections = process.net_connections("inet")
        listening = {item.laddr.port for item in connections if item.status == psutil.CONN_LISTEN}
        clients = sum(
            item.laddr.port in listening and item.status != psutil.CONN_LISTEN for item in connections
        )
        children = frozenset(child.pid for child in process.children(recursive=True))
        return cls(process.num_fds() - clients, children)


@dataclass(frozen=True)
class Letter:
    """What is kept of a dead letter."""

    reason: str
    body: str
    job_id: str | None


class Broker:
    """One case's queues, asked of the broker's management, and a way to put messages into them."""

    def __init__(self, rabbitmq: RabbitMQ, queue_name: str) -> None:
        self._rabbitmq = rabbitmq
        self._vhost = quote(URL(rabbitmq.url).path.lstrip("/") or "/", safe="")
        self.queue_name = queue_name

    async def queues(self) -> dict[str, dict[str, Any]]:
        """Our queues by name: messages, messages_unacknowledged, consumers, ..."""
        listed = await self._ask("GET", "/api/queues?disable_stats=false")
        return {queue["name"]: queue for queue in listed if queue["name"].startswith(self.queue_name)}

    async def overview(self) -> dict[str, Any]:
        """The broker about itself: rabbitmq_version, ..."""
        return dict(await self._ask("GET", "/api/overview"))

    async def publish(
        self,
        body: bytes,
        *,
        queue: str | None = None,
        headers: HeadersType | None = None,
        message_id: str | None = None,
    ) -> None:
        """Straight into a queue (the main one, if none is named), confirmed."""
        message = aio_pika.Message(
            body,
            headers=headers,
            message_id=message_id,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            content_type="application/cloudevents+json",
        )
        async with asyncio.timeout(10), await aio_pika.connect(self._rabbitmq.url) as connection:
            channel = await connection.channel(publisher_confirms=True)
            await channel.default_exchange.publish(message, queue or self.queue_name, mandatory=True)

    async def letters(self) -> list[Letter]:
        """What people would find; it stays there."""
        wish = {"count": 10_000, "ackmode": "ack_requeue_true", "encoding": "auto"}
        found = await self._ask(
            "POST", f"/api/queues/{self._vhost}/{quote(self.queue_name)}.letters/get", wish
        )
        return [_letter(item) for item in found]

    async def close_connections(self) -> int:
        """Close every client's connection as an operator would; returns how many."""
        connections = await self._ask("GET", "/api/connections")
        for connection in connections:
            with suppress(aiohttp.ClientResponseError):
                await self._ask("DELETE", f"/api/connections/{quote(connection['name'], safe='')}")
        return len(connections)

    async def delete_queues(self) -> None:
        for name in await self.queues():
            await self._ask("DELETE", f"/api/queues/{self._vhost}/{quote(name)}")
        with suppress(aiohttp.ClientResponseError):
            await self._ask("DELETE", f"/api/exchanges/{self._vhost}/{quote(self.queue_name)}.dead")

    async def _ask(self, method: str, path: str, body: object = None) -> Any:
        base = URL(self._rabbitmq.management_url)
        headers = {"Authorization": aiohttp.encode_basic_auth(base.user or "", base.password or "")}
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10), raise_for_status=True) as http,
            http.request(
                method, URL(f"{base.with_user(None)}{path}", encoded=True), json=body, headers=headers
            ) as answer,
        ):
            return await answer.json() if answer.content_length != 0 and answer.status != 204 else None


def _letter(item: Mapping[str, Any]) -> Letter:
    try:
        said = json.loads(item["payload"])
        return Letter(str(said["reason"]), item["payload"], said["job_id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return Letter("unreadable", item["payload"], None)


class Inspection:
    def __init__(
        self, servers: Servers, broker: Broker, processes: Sequence[Process], ledger: Ledger
    ) -> None:
        self._servers = servers
        self._broker = broker
        self._processes = processes
        self._ledger = ledger

    # --- I5

    async def drained(self, timeout_seconds: float) -> list[str]:
        """Wait until nothing waits; what does nevertheless is wrong."""
        gives_up_at = time.monotonic() + timeout_seconds
        wrong = await self._left()
        while wrong and time.monotonic() < gives_up_at:
            await asyncio.sleep(0.5)
            wrong = await self._left()
        return wrong + await self._strange_letters()

    async def _left(self) -> list[str]:
        wrong = []
        for name, queue in (await self._broker.queues()).items():
            waiting = queue.get("messages"), queue.get("messages_unacknowledged")
            if waiting != (0, 0) and not name.endswith((".letters", ".parked")):
                wrong.append(f"I5 {name} holds {waiting[0]} messages, {waiting[1]} unacknowledged")
        job_ids = [job.job_id for job in self._ledger.jobs.values() if job.job_id]
        if job_ids:
            async with redis.asyncio.Redis.from_url(self._servers.valkey.url, db=2) as client:
                leases = await client.mget([f"job:{{{job_id}}}:lease" for job_id in job_ids])
            held = [job_id for job_id, lease in zip(job_ids, leases, strict=True) if lease]
            wrong += [f"I5 the lease of {job_id} is still held" for job_id in held]
        return wrong

    async def _strange_letters(self) -> list[str]:
        by_id = {job.job_id: job for job in self._ledger.jobs.values()}
        wrong = []
        unreadable = 0
        for letter in await self._broker.letters():
            job = by_id.get(letter.job_id or "")
            if job is None:
                unreadable += 1
            elif job.is_innocent:
                wrong.append(f"I5 {job.marker} {job.job_id} is a dead letter: {letter.reason}")
        if unreadable != self._ledger.unreadable_letters:
            wrong.append(f"I5 {unreadable} unreadable letters, not {self._ledger.unreadable_letters}")
        return wrong

    # --- I6 and I7

    async def leaks(self, secrets: Mapping[str, str]) -> list[str]:
        """Secrets where they do not belong, bugs in the logs, and what is still held open."""
        wrong = [*self._told(secrets), *await self._published(), *await self._feedback_miscounted()]
        for process in self._processes:
            wrong += await self._held_open(process)
        return wrong

    def _told(self, secrets: Mapping[str, str]) -> Iterable[str]:
        for process in self._processes:
            for line in process.log.splitlines():
                for word in secrets.keys() & set(WORD.findall(line)):
                    yield f"I6 {process.name} logged {secrets[word]}: {line[:300]}"
                if BUG.search(line) and not any(
                    word in line for word in (*NO_BUGS, *self._ledger.expected_errors)
                ):
                    yield f"I6 {process.name} logged a bug: {line[:1500]}"
        for job in self._ledger.jobs.values():
            for stream in job.streams:
                for event in stream.events:
                    for word in secrets.keys() & set(WORD.findall(json.dumps(event.data))):
                        yield f"I6 an event of {job.marker} tells {secrets[word]}"

    async def _published(self) -> list[str]:
        wrong = []
        ended = [job for job in self._ledger.jobs.values() if job.end and not job.was_destroyed]
        done = [job for job in ended if outcome(job) == "done"]
        others = [job for job in ended if outcome(job) not in ("done", "deleted") and job.ticket]
        async with aiohttp.ClientSession() as http:
            for job in others[:PHOTOS_LOOKED_AT]:
                async with http.get(job.ticket["image_url"]) as answer:
                    if answer.status == 200:
                        wrong.append(f"I1 {job.marker} is {outcome(job)}, and its photo answers 200")
            for job in done[:PHOTOS_LOOKED_AT]:
                async with http.get(job.ticket["image_url"]) as answer:
                    data = await answer.read()
                if answer.status != 200:
                    wrong.append(f"I1 the photo of {job.marker} answers {answer.status}")
                elif any(canary.encode() in data for canary in CANARIES):
                    wrong.append(f"I6 the public photo of {job.marker} has its metadata")
        return wrong

    async def _feedback_miscounted(self) -> Iterable[str]:
        """By what the gateways count; one that was started anew has forgotten what it had counted."""
        gateways = [process for process in self._processes if "http" in process.links]
        counted = 0.0
        async with aiohttp.ClientSession() as http:
            for gateway in gateways:
                if gateway.part.pid is not None:
                    async with http.get(f"{gateway.probe_url}/metrics") as answer:
                        counted += sum(map(float, FEEDBACK.findall(await answer.text())))
        is_whole = all(gateway.starts == 1 for gateway in gateways)
        return feedback_miscounted(self._ledger.jobs.values(), counted, is_whole=is_whole)

    async def _held_open(self, process: Process) -> list[str]:
        if process.part.pid is None or process.baseline is None:
            return [f"I7 {process.name} is not running"]
        gives_up_at = time.monotonic() + SETTLE_SECONDS
        while True:
            wrong = await self._held_open_now(process)
            if not wrong or time.monotonic() > gives_up_at:
                return wrong
            await asyncio.sleep(0.5)

    async def _held_open_now(self, process: Process) -> list[str]:
        assert process.baseline is not None
        wrong = []
        async with aiohttp.ClientSession() as http, http.get(f"{process.probe_url}/metrics") as answer:
            streams = OPEN_STREAMS.search(await answer.text())
        if streams is not None and float(streams[1]) != 0:
            wrong.append(f"I7 {process.name} counts {streams[1]} open streams")
        now = Snapshot.of(psutil.Process(process.part.pid))
        if now.descriptors > process.baseline.descriptors + POOLED_CONNECTIONS:
            wrong.append(
                f"I7 {process.name} holds {now.descriptors} descriptors, "
                f"{process.baseline.descriptors} at its start"
            )
        if len(now.children) > len(process.baseline.children):
            wrong.append(f"I7 {process.name} has {len(now.children)} children")
        return wrong


class Overheard:
    """The words that went over some links in plain text: message bodies, requests to the model."""

    def __init__(self) -> None:
        self._words: set[str] = set()

    def listen(self, data: bytes) -> None:
        found = WORD.findall(data.decode("latin-1"))
        self._words.update(word for word in found if len(word) <= LONGEST_SECRET)

    def told(self, secrets: Mapping[str, str], *, by_right: str) -> list[str]:
        """What was told besides the password that opens the link itself."""
        return [what for word, what in secrets.items() if word in self._words and what != by_right]


async def event_of(servers: Servers, job: TrackedJob) -> bytes:
    """The body that was published for an accepted job, to be delivered once more."""
    async with redis.asyncio.Redis.from_url(servers.valkey.url, db=0) as client:
        text = await client.get(f"job:{{{job.job_id}}}")
    assert text is not None, f"the record of {job.job_id} is gone"
    record = Upload.model_validate_json(text)
    return encode_event(Job.model_validate(record.model_dump(include=set(Job.model_fields))))
