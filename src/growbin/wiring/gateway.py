"""The gateway: its ports opened, its application served until it is told to stop."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import fields

import structlog

from growbin.adapters.photos.photo_cache import CdnPhotoCache
from growbin.adapters.redis.job_records import RedisJobRecords
from growbin.adapters.redis.progress_feed import RedisProgressFeed
from growbin.adapters.redis.sessions import RedisSessions
from growbin.config import Settings
from growbin.gateway.app import build_app
from growbin.gateway.context import GatewayLimits
from growbin.gateway.hub import Hub
from growbin.probes import build_probes
from growbin.wiring.parts import open_letters, open_progress, open_queue, open_uploads, serving

log = structlog.get_logger()

GATEWAY_S3_TIMEOUT_SECONDS = 1.8  # a frozen part becomes a 503 within two seconds


async def run_gateway(settings: Settings, stop: asyncio.Event) -> None:
    """The HTTP API until `stop` is set; then every stream ends, and posts in flight are answered."""
    async with AsyncExitStack() as stack:
        records = await stack.enter_async_context(
            RedisJobRecords.open(
                jobs_url=settings.redis_jobs_url,
                sessions_url=settings.redis_sessions_url,
                ticket_seconds=settings.ticket_seconds,
                deadline_seconds=settings.job_deadline_seconds,
            )
        )
        sessions = await stack.enter_async_context(RedisSessions.open(url=settings.redis_sessions_url))
        progress = await stack.enter_async_context(open_progress(settings))
        uploads = await stack.enter_async_context(open_uploads(settings, GATEWAY_S3_TIMEOUT_SECONDS))
        queue = await stack.enter_async_context(open_queue(settings))
        photo_cache = await stack.enter_async_context(open_photo_cache(settings))
        hub = Hub(progress, settings.stream_buffer_events)
        stack.push_async_callback(hub.close)
        feed = await stack.enter_async_context(
            RedisProgressFeed.open(
                url=settings.redis_progress_url,
                on_entry=hub.on_entry,
                on_gap=hub.on_gap,
                on_loss=hub.on_loss,
            )
        )
        hub.attach(feed)
        app = build_app(
            limits=limits_of(settings),
            cdn_base_url=settings.cdn_base_url,
            allowed_origins=settings.origins,
            trusted_proxies=settings.proxies,
            secure_cookies=settings.secure_cookies,
            records=records,
            sessions=sessions,
            progress=progress,
            uploads=uploads,
            queue=queue,
            letters=await stack.enter_async_context(open_letters(settings)),
            photo_cache=photo_cache,
            hub=hub,
            upload_origin=settings.upload_origin,
        )

        async def serves() -> bool:
            return not stop.is_set()

        probes = build_probes(
            required={"serving": serves, "redis": progress.is_writable},
            shown={"rabbitmq": queue.is_connected, "live_progress": feed.is_hearing},
        )
        await stack.enter_async_context(
            serving(probes, settings.probe_host, settings.probe_port, "PROBE_PORT")
        )
        await stack.enter_async_context(serving(app, settings.host, settings.port, "PORT"))
        log.info("gateway_started", address=f"http://{settings.host}:{settings.port}")
        await stop.wait()
        log.info("gateway_stopping", watched_jobs=hub.watched_jobs)
        await hub.drain()


def open_photo_cache(settings: Settings) -> AbstractAsyncContextManager[CdnPhotoCache]:
    return CdnPhotoCache.open(
        base_url=settings.cdn_base_url,
        reader_secret=settings.cdn_reader_secret.get_secret_value(),
        distribution_id=settings.cloudfront_distribution_id,
        region=settings.aws_region,
    )


def limits_of(settings: Settings) -> GatewayLimits:
    """The gateway's numbers: its fields have the names of the settings."""
    return GatewayLimits(**{field.name: getattr(settings, field.name) for field in fields(GatewayLimits)})
