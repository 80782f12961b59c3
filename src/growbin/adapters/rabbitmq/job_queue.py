"""The job queue on RabbitMQ: confirmed publishing, and verdicts turned into what the broker understands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import Any, Self
from urllib.parse import quote
from uuid import UUID

import structlog
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractIncomingMessage
from aio_pika.exceptions import PublishError

from growbin.adapters.rabbitmq.broker_link import BrokerLink
from growbin.adapters.rabbitmq.connection import losses_told
from growbin.adapters.rabbitmq.job_event import (
    EVENT_MEDIA_TYPE,
    BadEvent,
    decode_event,
    encode_event,
    encode_letter,
    read_obituary,
)
from growbin.adapters.rabbitmq.management import ask_management, vhost_of
from growbin.adapters.rabbitmq.topology import Topology
from growbin.errors import Unavailable
from growbin.job import Job
from growbin.ports import (
    Ack,
    Backlog,
    DeadLetter,
    HandBack,
    Handler,
    Obituary,
    ObituaryHandler,
    Retry,
    Verdict,
)
from growbin.telemetry import metrics, traces

log = structlog.get_logger()

OBITUARIES_AT_ONCE = 16
# After two or three of them without a sign the broker gives a frozen consumer's jobs to others: 12 s at most.
CONSUMER_HEARTBEAT_SECONDS = 4
BACKLOG_AGE_SECONDS = 1.0
RETRY_PAUSE_SECONDS = 1.0
HAND_BACK_SECONDS = 5.0
MANAGEMENT_TIMEOUT_SECONDS = 0.5
CHANGE_TIMEOUT_SECONDS = 2.0
CONCURRENCY_PAUSE_SECONDS = 0.5


class Subscription:
    """A consumer of one queue on the channel of the present connection."""

    channel: AbstractChannel

    def __init__(
        self, queue_name: str, callback: Callable[[AbstractIncomingMessage], Awaitable[Any]]
    ) -> None:
        self._queue_name = queue_name
        self._callback = callback
        self._cancel: Callable[[], Awaitable[object]] | None = None
        self.prefetch = 0

    def forget(self) -> None:
        """The consumer went with its connection."""
        self._cancel, self.prefetch = None, 0

    async def take(self, prefetch: int) -> None:
        """At most `prefetch` deliveries at once; a new prefetch means cancel and consume again. What
        was delivered before stays ours to acknowledge."""
        if self._cancel is not None:
            await self._cancel()
            self.forget()
        if prefetch > 0:
            # Prefetch equals real concurrency: what waits here waits for nobody else.
            await self.channel.set_qos(prefetch_count=prefetch)
            queue = await self.channel.get_queue(self._queue_name, ensure=False)
            self._cancel = partial(queue.cancel, await queue.consume(self._callback))
        self.prefetch = prefetch


class RabbitJobQueue:
    """Implements ports.JobQueue."""

    def __init__(
        self, urls: list[str], topology: Topology, publish_timeout_seconds: float, management_url: str | None
    ) -> None:
        self._urls = urls
        self._topology = topology
        self._publish_timeout_seconds = publish_timeout_seconds
        self._management_url = management_url
        self._publisher: BrokerLink
        self._exchange: AbstractExchange
        self._backlog: Backlog | None = None
        self._backlog_read_at = float("-inf")
        self._backlog_lock = asyncio.Lock()
        # Strong references: a job goes on when the delivery that started it is lost with its channel.
        self._running: dict[tuple[UUID, int], asyncio.Task[Verdict]] = {}
        self._callbacks: set[asyncio.Task[Any]] = set()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        *,
        urls: list[str],
        queue_name: str,
        publish_timeout_seconds: float = 1.3,
        management_url: str | None = None,
    ) -> AsyncIterator[Self]:
        queue = cls(urls, Topology(queue_name), publish_timeout_seconds, management_url)
        # Publishing has a connection of its own: an alarm blocks publishers, never consumers.
        async with BrokerLink.open(urls, "publisher", queue._set_up_publisher) as queue._publisher:
            yield queue

    async def is_connected(self) -> bool:
        """For readiness: a confirmed publish could be made now."""
        return self._publisher.ready.is_set()

    # --- publishing

    async def _set_up_publisher(self, connection: AbstractConnection) -> None:
        await self._topology.declare(connection)
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        await self._publisher.watch(channel)
        self._exchange = channel.default_exchange

    async def publish(self, job: Job) -> None:
        await self._publish(self._topology.name, job.job_id, encode_event(job))

    async def _publish(self, routing_key: str, job_id: UUID | None, body: bytes) -> None:
        with traces.span("send", "producer") as span:
            span.set("messaging.system", "rabbitmq")
            span.set("messaging.destination.name", routing_key)
            await self._send(routing_key, job_id, body)

    async def _send(self, routing_key: str, job_id: UUID | None, body: bytes) -> None:
        # Properties are always fresh: a copied x-death makes a message vanish on its next trip.
        message = Message(
            body,
            content_type=EVENT_MEDIA_TYPE,
            message_id=str(job_id) if job_id else None,
            delivery_mode=DeliveryMode.PERSISTENT,
            headers={"traceparent": traces.traceparent()},
        )
        try:
            with losses_told():
                async with asyncio.timeout(self._publish_timeout_seconds):
                    await self._publisher.ready.wait()
                    await self._exchange.publish(message, routing_key, mandatory=True)
        except Unavailable as error:
            if not isinstance(error.__cause__, PublishError):
                raise
            self._publisher.replace()  # the queue is gone; setting up declares it again
            raise Unavailable("rabbitmq", f"{routing_key} is gone") from error

    # --- the backlog

    async def backlog(self) -> Backlog | None:
        if self._management_url is None:
            return None
        async with self._backlog_lock:
            now = asyncio.get_running_loop().time()
            if now - self._backlog_read_at > BACKLOG_AGE_SECONDS:
                self._backlog = await self._read_backlog(self._management_url)
                self._backlog_read_at = now
        return self._backlog

    async def _read_backlog(self, management_url: str) -> Backlog | None:
        # Asked of the broker's management: a passive declare has been seen to report 0 for a full queue.
        path = f"queues/{quote(vhost_of(self._urls[0]), safe='')}/{self._topology.name}"
        try:
            queue = await ask_management(management_url, path, MANAGEMENT_TIMEOUT_SECONDS)
            stats = queue.get("message_stats", {})
            rate = stats.get("ack_details", {}).get("rate")
            handed_out = stats.get("deliver_get")
            metrics.backlog_unknown.set(0)
            return Backlog(
                int(queue.get("messages_ready", 0)),
                float(rate) if rate else None,
                None if handed_out is None else int(handed_out) - int(stats.get("redeliver", 0)),
            )
        except (Unavailable, ValueError) as error:
            if self._backlog is not None or self._backlog_read_at < 0:  # once, not with every upload
                log.warning("backlog_unknown", reason=str(error))
            metrics.backlog_unknown.set(1)
            return None

    # --- consuming

    @asynccontextmanager
    async def consuming(
        self,
        handle: Handler,
        handle_obituary: ObituaryHandler,
        *,
        concurrency: Callable[[], int],
        grace_seconds: float,
    ) -> AsyncIterator[Callable[[], bool]]:
        """Consume until the block is left, then cancel, let running jobs finish for at most
        `grace_seconds`, and hand the rest back. Yields a function that tells whether we are subscribed."""
        jobs = Subscription(self._topology.name, partial(self._on_job, handle))
        obituaries = Subscription(self._topology.obituaries, partial(self._on_obituary, handle_obituary))
        is_stopping = False
        metrics.jobs_in_hand.set_function(lambda: len(self._running))

        async def set_up(connection: AbstractConnection) -> None:
            for subscription in (jobs, obituaries):
                subscription.channel = await connection.channel()
                subscription.forget()
                await link.watch(subscription.channel)
            await self._topology.declare(connection)
            if not is_stopping:
                await jobs.take(concurrency())
                await obituaries.take(OBITUARIES_AT_ONCE)
            if is_stopping:  # only since then: all that we were given would be handed back, again and again
                await jobs.take(0)
                await obituaries.take(0)

        async with BrokerLink.open(self._urls, "consumer", set_up, CONSUMER_HEARTBEAT_SECONDS) as link:
            follower = asyncio.create_task(self._follow(link, jobs, concurrency), name="concurrency")
            try:
                yield link.ready.is_set
            finally:
                follower.cancel()
                await asyncio.wait([follower])
            is_stopping = True
            for subscription in (jobs, obituaries):
                await self._change(link, subscription, 0)
            await self._drain(grace_seconds)

    async def _follow(self, link: BrokerLink, jobs: Subscription, concurrency: Callable[[], int]) -> None:
        """Keep the prefetch at what the model allows."""
        while True:
            await asyncio.sleep(CONCURRENCY_PAUSE_SECONDS)
            if jobs.prefetch != concurrency():
                log.warning("concurrency_changed", before=jobs.prefetch, now=concurrency())
                await self._change(link, jobs, concurrency())

    async def _change(self, link: BrokerLink, subscription: Subscription, prefetch: int) -> None:
        if not link.ready.is_set():
            return
        try:
            with losses_told():
                async with asyncio.timeout(CHANGE_TIMEOUT_SECONDS):
                    await subscription.take(prefetch)
        except Unavailable as error:
            log.warning("concurrency_unchanged", reason=error.reason)
            link.replace()

    async def _drain(self, grace_seconds: float) -> None:
        """Wait for the jobs in hand and for their acknowledgements; what is late is handed back."""
        if not self._running and not self._callbacks:
            return
        log.info("consumer_draining", jobs=len(self._running), grace_seconds=grace_seconds)
        await asyncio.wait({*self._running.values(), *self._callbacks}, timeout=grace_seconds)
        for task in self._running.values():
            task.cancel()
        if left := {*self._running.values(), *self._callbacks}:
            await asyncio.wait(left, timeout=HAND_BACK_SECONDS)

    async def _on_job(self, handle: Handler, message: AbstractIncomingMessage) -> None:
        try:
            job = decode_event(message.body)
        except BadEvent as error:
            log.error("job_event_rejected", reason=str(error), job_id=str(error.job_id))
            _count(DeadLetter("bad_event"), await self._settle(message, None, DeadLetter("bad_event")))
            return
        with traces.about(
            job.job_id, "work on a job", "consumer", message.headers.get("traceparent")
        ) as span:
            span.set("messaging.system", "rabbitmq")
            span.set("messaging.destination.name", self._topology.name)
            span.set("growbin.run", job.run)
            await self._work_on(handle, message, job)

    async def _work_on(self, handle: Handler, message: AbstractIncomingMessage, job: Job) -> None:
        callback = asyncio.current_task()
        assert callback is not None
        self._callbacks.add(callback)
        callback.add_done_callback(self._callbacks.discard)
        key = (job.job_id, job.run)
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(handle(job), name=f"job-{job.job_id}")
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key, None))
        try:
            # The library cancels this callback when the channel is lost. The shield keeps the (paid)
            # work alive; the redelivered message finds the task above and waits for the same verdict.
            verdict = await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            verdict = HandBack()
        except Exception:
            log.exception("handler_hit_a_bug")
            verdict = DeadLetter("internal")
        _count(verdict, await self._settle(message, job, verdict))

    async def _settle(self, message: AbstractIncomingMessage, job: Job | None, verdict: Verdict) -> bool:
        """Turns a verdict into ack, delay or dead letter. A lost channel (False) means: redelivered later."""
        try:
            with losses_told():
                match verdict:
                    case Ack():
                        await message.ack()
                    case Retry(delay_seconds) if job is not None:
                        await self._postpone(job.job_id, message.body, delay_seconds)
                        await message.ack()
                    case DeadLetter(reason):
                        log.warning("job_dead_lettered", reason=reason)
                        await message.reject(requeue=False)
                    case _:
                        await message.nack(requeue=True)
        except Unavailable as error:
            log.info("delivery_lost", reason=error.reason)
            return False
        return True

    async def _postpone(self, job_id: UUID, body: bytes, delay_seconds: float) -> None:
        """Publish to the delay queue, confirmed, however long the broker takes; then we may ack. The body
        goes on as it came: it may hold more than this version knows."""
        while True:
            try:
                return await self._publish(self._topology.delay(delay_seconds), job_id, body)
            except Unavailable as error:
                log.warning("retry_publish_failed", reason=error.reason)
                await asyncio.sleep(RETRY_PAUSE_SECONDS)

    async def _on_obituary(self, handle_obituary: ObituaryHandler, message: AbstractIncomingMessage) -> None:
        obituary = read_obituary(message)
        with (
            traces.about(obituary.job_id, "read an obituary", "consumer", message.headers.get("traceparent"))
            if obituary.job_id
            else nullcontext()
        ):
            await self._end(handle_obituary, message, obituary)

    async def _end(
        self, handle_obituary: ObituaryHandler, message: AbstractIncomingMessage, obituary: Obituary
    ) -> None:
        verdict: Verdict = HandBack()
        try:
            code = await handle_obituary(obituary)
            metrics.obituaries_read.inc()
            if code is not None:
                letter = encode_letter(obituary, code, message.body)
                await self._publish(self._topology.letters, obituary.job_id, letter)
            verdict = Ack()
        except Unavailable as error:
            log.warning("obituary_postponed", reason=str(error))
            await asyncio.sleep(RETRY_PAUSE_SECONDS)
        except Exception:
            # Without an answer its client would wait for ever; so it comes again until the bug is mended.
            log.exception("obituary_hit_a_bug", job_id=str(obituary.job_id))
            await asyncio.sleep(RETRY_PAUSE_SECONDS)
        await self._settle(message, None, verdict)


_BECAME = {Ack: "acknowledged", Retry: "retried", DeadLetter: "dead_lettered", HandBack: "handed_back"}


def _count(verdict: Verdict, is_settled: bool) -> None:
    metrics.deliveries.labels(verdict=_BECAME[type(verdict)] if is_settled else "lost").inc()
