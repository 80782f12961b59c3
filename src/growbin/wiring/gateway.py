"""The gateway: its ports opened, its application served until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from ipaddress import ip_network

import structlog
from aiohttp import web

from growbin.adapters.photos.photo_cache import CdnPhotoCache
from growbin.adapters.rabbitmq.job_queue import RabbitJobQueue
from growbin.adapters.redis.agenda import RedisAgenda
from growbin.adapters.redis.gauges import RedisGauges
from growbin.adapters.redis.job_records import RedisJobRecords
from growbin.adapters.redis.outages import RedisOutages
from growbin.adapters.redis.progress_feed import RedisProgressFeed
from growbin.adapters.redis.progress_log import RedisProgressLog
from growbin.adapters.redis.session_jobs import RedisSessionJobs
from growbin.adapters.redis.sessions import RedisSessions
from growbin.capabilities import capabilities_of
from growbin.config import Settings
from growbin.gateway.app import build_app
from growbin.gateway.connections import ConnectionLimits, Connections
from growbin.gateway.context import Gateway, GatewayLimits
from growbin.gateway.erasure import Eraser
from growbin.gateway.headers import guard_headers
from growbin.gateway.hub import Hub
from growbin.gateway.notices import Notices
from growbin.ports import GatewayProgress, JobRecords, UploadStore
from growbin.probes import build_probes, seldom
from growbin.rules.things import ThingFinder
from growbin.wiring.parts import (
    PROBE_KEY,
    open_bucket,
    open_progress,
    open_queue,
    rulebook,
    serving,
    settle_down,
)

log = structlog.get_logger()

S3_PAUSE_SECONDS = 10.0  # between two looks for the probe's sake: S3 is paid by the request
# What an open stream is made of stays. By the interpreter's own measure all of it would be looked at again
# and again while thousands open, each time for longer.
GARBAGE_THRESHOLDS = (10_000, 10, 10)
GATEWAY_S3_TIMEOUT_SECONDS = 1.8  # a frozen part becomes a 503 within two seconds


async def run_gateway(settings: Settings, stop: asyncio.Event) -> None:
    """The HTTP API until `stop` is set; then every stream ends, and posts in flight are answered."""
    rules = rulebook(settings)  # a mistake in them is told before anything is tried
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        progress = await enter(open_progress(settings))
        queue = await enter(open_queue(settings))
        hub, feed = await enter(live_progress(settings, progress))
        records = await enter(open_records(settings))
        uploads = await enter(open_bucket(settings, GATEWAY_S3_TIMEOUT_SECONDS))
        eraser = await enter(working_eraser(settings, progress, records, uploads))
        gateway = Gateway(
            limits=limits_of(settings),
            cdn_base_url=settings.cdn_base_url,
            upload_origin=uploads.origin,
            allowed_origins=settings.origins,
            trusted_proxies=tuple(map(ip_network, settings.proxies)),
            secure_cookies=settings.secure_cookies,
            takes_questions=capabilities_of(settings.openai_model).answers_questions,
            rules=rules,
            things=ThingFinder(rules),
            records=records,
            sessions=await enter(
                RedisSessions.open(
                    url=settings.redis_sessions_url, new_session_seconds=settings.new_session_seconds
                )
            ),
            progress=progress,
            session_jobs=RedisSessionJobs(progress),
            uploads=uploads,
            queue=queue,
            eraser=eraser,
            hub=hub,
            notices=Notices(await enter(RedisOutages.open(url=settings.redis_progress_url)), queue),
        )

        gauges = await enter(open_gauges(settings))
        probes = _probes_of(progress, queue, uploads, feed, gauges, stop)
        await enter(serving(probes, settings.probe_host, settings.probe_port, "PROBE_PORT"))
        connections = Connections(
            connection_limits_of(settings),
            gateway.trusted_proxies,
            guard_headers(secure=settings.secure_cookies),
        )
        await enter(serving(build_app(gateway), settings.host, settings.port, "PORT", connections.bound))
        settle_down()
        gc.set_threshold(*GARBAGE_THRESHOLDS)
        log.info("gateway_started", address=f"http://{settings.host}:{settings.port}")
        await stop.wait()
        log.info("gateway_stopping", watched_jobs=hub.watched_jobs)
        await hub.drain()


def _probes_of(
    progress: RedisProgressLog,
    queue: RabbitJobQueue,
    uploads: UploadStore,
    feed: RedisProgressFeed,
    gauges: RedisGauges,
    stop: asyncio.Event,
) -> web.Application:
    async def serves() -> bool:
        return not stop.is_set()

    async def finds_s3() -> bool:
        await uploads.look(PROBE_KEY)
        return True

    return build_probes(
        alive=feed.is_kept,
        required={
            "serving": serves,
            "redis": progress.is_writable,
            "live_progress_lately": feed.has_heard_lately,
        },
        shown={
            "rabbitmq": queue.is_connected,
            "live_progress": feed.is_hearing,
            "s3": seldom(finds_s3, S3_PAUSE_SECONDS),
        },
        measure=gauges.read,
    )


@asynccontextmanager
async def live_progress(
    settings: Settings, progress: GatewayProgress
) -> AsyncIterator[tuple[Hub, RedisProgressFeed]]:
    hub = Hub(progress, settings.stream_buffer_events)
    try:
        async with RedisProgressFeed.open(
            url=settings.redis_progress_url,
            on_entry=hub.on_entry,
            on_gap=hub.on_gap,
            on_loss=hub.on_loss,
            on_session_job=hub.on_session_job,
        ) as feed:
            hub.attach(feed)
            yield hub, feed
    finally:
        await hub.close()


@asynccontextmanager
async def working_eraser(
    settings: Settings, progress: GatewayProgress, records: JobRecords, uploads: UploadStore
) -> AsyncIterator[Eraser]:
    async with (
        RedisAgenda.open(url=settings.redis_progress_url) as agenda,
        open_photo_cache(settings) as photo_cache,
    ):
        eraser = Eraser(
            agenda=agenda, progress=progress, records=records, uploads=uploads, photo_cache=photo_cache
        )
        async with eraser.working():
            yield eraser


def open_records(settings: Settings) -> AbstractAsyncContextManager[RedisJobRecords]:
    return RedisJobRecords.open(
        jobs_url=settings.redis_jobs_url,
        sessions_url=settings.redis_sessions_url,
        ticket_seconds=settings.ticket_seconds,
        unused_ticket_seconds=settings.unused_ticket_seconds,
    )


def open_gauges(settings: Settings) -> AbstractAsyncContextManager[RedisGauges]:
    return RedisGauges.open(
        urls={
            "jobs": settings.redis_jobs_url,
            "progress": settings.redis_progress_url,
            "sessions": settings.redis_sessions_url,
        },
        deadline_seconds=settings.job_deadline_seconds,
    )


def open_photo_cache(settings: Settings) -> AbstractAsyncContextManager[CdnPhotoCache]:
    return CdnPhotoCache.open(
        base_url=settings.cdn_base_url,
        reader_secret=settings.cdn_reader_secret.get_secret_value(),
        distribution_id=settings.cloudfront_distribution_id,
        region=settings.aws_region,
    )


def limits_of(settings: Settings) -> GatewayLimits:
    return GatewayLimits(
        photo_max_bytes=settings.photo_max_bytes,
        ticket_seconds=settings.ticket_seconds,
        require_declared_length=settings.require_declared_length,
        upload_wait_seconds=settings.upload_wait_seconds,
        backlog_limit=settings.backlog_limit,
        job_deadline_seconds=settings.job_deadline_seconds,
        session_tickets_per_minute=settings.session_tickets_per_minute,
        address_tickets_per_minute=settings.address_tickets_per_minute,
        all_tickets_per_minute=settings.all_tickets_per_minute,
        reads_per_second=settings.reads_per_second,
        changes_per_minute=settings.changes_per_minute,
        max_unfinished_per_session=settings.max_unfinished_per_session,
        max_unfinished_per_address=settings.max_unfinished_per_address,
        max_streams_per_session=settings.max_streams_per_session,
        max_streams_per_address=settings.max_streams_per_address,
        max_streams=settings.max_streams,
        stream_heartbeat_seconds=settings.stream_heartbeat_seconds,
        stream_write_timeout_seconds=settings.stream_write_timeout_seconds,
    )


def connection_limits_of(settings: Settings) -> ConnectionLimits:
    return ConnectionLimits(
        head_max_bytes=settings.head_max_bytes,
        head_timeout_seconds=settings.head_timeout_seconds,
        keepalive_seconds=settings.keepalive_seconds,
        max_connections_per_address=settings.max_connections_per_address,
        max_connections=settings.max_connections,
        stream_write_timeout_seconds=settings.stream_write_timeout_seconds,
    )
