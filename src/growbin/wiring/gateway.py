"""The gateway: its ports opened, its application served until it is told to stop."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from ipaddress import ip_network

import structlog

from growbin.adapters.photos.photo_cache import CdnPhotoCache
from growbin.adapters.redis.job_records import RedisJobRecords
from growbin.adapters.redis.progress_feed import RedisProgressFeed
from growbin.adapters.redis.session_jobs import RedisSessionJobs
from growbin.adapters.redis.sessions import RedisSessions
from growbin.capabilities import capabilities_of
from growbin.config import Settings
from growbin.gateway.app import build_app
from growbin.gateway.context import Gateway, GatewayLimits
from growbin.gateway.hub import Hub
from growbin.probes import build_probes
from growbin.rules.things import ThingFinder
from growbin.wiring.parts import open_letters, open_progress, open_queue, open_uploads, rulebook, serving

log = structlog.get_logger()

GATEWAY_S3_TIMEOUT_SECONDS = 1.8  # a frozen part becomes a 503 within two seconds


async def run_gateway(settings: Settings, stop: asyncio.Event) -> None:
    """The HTTP API until `stop` is set; then every stream ends, and posts in flight are answered."""
    rules = rulebook(settings)  # a mistake in them is told before anything is tried
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        progress = await enter(open_progress(settings))
        queue = await enter(open_queue(settings))
        hub = Hub(progress, settings.stream_buffer_events)
        stack.push_async_callback(hub.close)
        feed = await enter(
            RedisProgressFeed.open(
                url=settings.redis_progress_url,
                on_entry=hub.on_entry,
                on_gap=hub.on_gap,
                on_loss=hub.on_loss,
            )
        )
        hub.attach(feed)
        gateway = Gateway(
            limits=limits_of(settings),
            cdn_base_url=settings.cdn_base_url,
            upload_origin=settings.upload_origin,
            allowed_origins=settings.origins,
            trusted_proxies=tuple(map(ip_network, settings.proxies)),
            secure_cookies=settings.secure_cookies,
            takes_questions=capabilities_of(settings.openai_model).answers_questions,
            rules=rules,
            things=ThingFinder(rules),
            records=await enter(open_records(settings)),
            sessions=await enter(
                RedisSessions.open(
                    url=settings.redis_sessions_url, new_session_seconds=settings.new_session_seconds
                )
            ),
            progress=progress,
            session_jobs=RedisSessionJobs(progress),
            uploads=await enter(open_uploads(settings, GATEWAY_S3_TIMEOUT_SECONDS)),
            queue=queue,
            letters=await enter(open_letters(settings)),
            photo_cache=await enter(open_photo_cache(settings)),
            hub=hub,
        )

        async def serves() -> bool:
            return not stop.is_set()

        probes = build_probes(
            required={"serving": serves, "redis": progress.is_writable},
            shown={"rabbitmq": queue.is_connected, "live_progress": feed.is_hearing},
        )
        await enter(serving(probes, settings.probe_host, settings.probe_port, "PROBE_PORT"))
        await enter(serving(build_app(gateway), settings.host, settings.port, "PORT"))
        log.info("gateway_started", address=f"http://{settings.host}:{settings.port}")
        await stop.wait()
        log.info("gateway_stopping", watched_jobs=hub.watched_jobs)
        await hub.drain()


def open_records(settings: Settings) -> AbstractAsyncContextManager[RedisJobRecords]:
    return RedisJobRecords.open(
        jobs_url=settings.redis_jobs_url,
        sessions_url=settings.redis_sessions_url,
        ticket_seconds=settings.ticket_seconds,
        deadline_seconds=settings.job_deadline_seconds,
        unused_ticket_seconds=settings.unused_ticket_seconds,
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
