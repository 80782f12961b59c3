"""The one file that ties it together: opens the adapters, builds the gateway, runs the consumer."""

from __future__ import annotations

import asyncio
import getpass
import logging
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import fields
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import structlog
from aiohttp import web

from growbin import dead_letters, doctor, telemetry
from growbin.adapters import checkup
from growbin.adapters.analyst import OpenAIAnalyst
from growbin.adapters.dead_letters import RabbitDeadLetters
from growbin.adapters.job_queue import RabbitJobQueue
from growbin.adapters.job_records import RedisJobRecords
from growbin.adapters.photo_cache import CdnPhotoCache
from growbin.adapters.photo_cleaner import ChildPhotoCleaner
from growbin.adapters.photo_source import CdnPhotoSource
from growbin.adapters.progress_feed import RedisProgressFeed
from growbin.adapters.progress_log import RedisProgressLog
from growbin.adapters.sessions import RedisSessions
from growbin.adapters.upload_store import S3UploadStore
from growbin.capabilities import EffortRefused, capabilities_of
from growbin.config import Settings
from growbin.consumer import Tools, bury, handle_job
from growbin.errors import Unavailable
from growbin.gateway.app import build_app
from growbin.gateway.gateway import GatewayLimits
from growbin.gateway.hub import Hub
from growbin.pacing import Throttle
from growbin.probes import build_probes

log = structlog.get_logger()

GATEWAY_SHUTDOWN_SECONDS = 1.0  # the server waits that long twice: for the handler, then for its task
DOCTOR_MODEL_SECONDS = 20.0
ROLES = ("jobs", "progress", "sessions")
GATEWAY_S3_TIMEOUT_SECONDS = 1.8  # a frozen part becomes a 503 within two seconds

Serve = Callable[[Settings, asyncio.Event], Coroutine[Any, Any, None]]


class CannotStart(Exception):
    """The process cannot start; the text says what to do."""


def run_until_stopped(serve: Serve, settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status."""
    telemetry.configure_logs(settings.log_level, settings.log_format)

    async def run() -> None:
        stop = asyncio.Event()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
        await serve(settings, stop)

    asyncio.run(run())
    return 0


# --- gateway ------------------------------------------------------------------------------------


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
            letters=open_letters(settings),
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


# --- consumer -----------------------------------------------------------------------------------


async def run_consumer(settings: Settings, stop: asyncio.Event) -> None:
    """Jobs until `stop` is set; then running ones finish within their grace. Raises CannotStart."""
    async with AsyncExitStack() as stack:
        progress = await stack.enter_async_context(open_progress(settings))
        uploads = await stack.enter_async_context(open_uploads(settings))
        photos = await stack.enter_async_context(
            CdnPhotoSource.open(
                base_url=settings.cdn_base_url,
                reader_secret=settings.cdn_reader_secret.get_secret_value(),
                enabled=settings.cdn_enabled,
                read_from_store=uploads.read,
                max_bytes=settings.photo_max_bytes,
            )
        )
        cleaner = await stack.enter_async_context(
            ChildPhotoCleaner.open(max_pixels=settings.photo_max_pixels, max_side=settings.photo_model_side)
        )
        analyst = await stack.enter_async_context(open_analyst(settings))
        queue = await stack.enter_async_context(open_queue(settings))
        tools = Tools(
            progress=progress,
            uploads=uploads,
            photos=photos,
            cleaner=cleaner,
            analyst=analyst,
            image_base_url=settings.cdn_base_url,
            cache_seconds=settings.cdn_cache_ttl,
            sure_threshold=settings.sure_threshold,
            lease_renew_seconds=settings.lease_renew_seconds,
            throttle=Throttle(settings.consumer_concurrency),
        )
        consuming = queue.consuming(
            partial(handle_job, tools=tools),
            partial(bury, tools=tools),
            concurrency=tools.throttle.concurrency,
            grace_seconds=settings.consumer_grace_seconds,
        )
        async with consuming as is_subscribed:

            async def subscribed() -> bool:
                return is_subscribed() and not stop.is_set()

            probes = build_probes(
                required={
                    "rabbitmq": queue.is_connected,
                    "subscribed": subscribed,
                    "redis": progress.is_writable,
                }
            )
            await stack.enter_async_context(
                serving(probes, settings.probe_host, settings.probe_port, "PROBE_PORT")
            )
            log.info("consumer_started", concurrency=settings.consumer_concurrency)
            await stop.wait()
            log.info("consumer_stopping")
            await tools.close()


def open_analyst(settings: Settings) -> AbstractAsyncContextManager[OpenAIAnalyst]:
    """Raises CannotStart when there is no model to ask, or it does not accept the effort."""
    key = settings.openai_api_key.get_secret_value()
    if not key and settings.openai_base_url is None:
        raise CannotStart(
            "there is no model: set OPENAI_API_KEY, or OPENAI_BASE_URL to a server of your own."
        )
    try:
        capabilities_of(settings.openai_model).effort(settings.openai_model, settings.openai_reasoning_effort)
    except EffortRefused as error:
        raise CannotStart(f"{error}.") from None
    return OpenAIAnalyst.open(
        api_key=key,
        base_url=settings.openai_base_url,
        model=settings.openai_model,
        effort=settings.openai_reasoning_effort,
        timeout_seconds=settings.model_timeout_seconds,
    )


# --- dead letters ------------------------------------------------------------------------------


def run_dead_letters(
    settings: Settings, action: str, job_id: UUID | None, reason: str | None, say: Callable[[str], None]
) -> int:
    """`growbin dead-letters`; returns the exit status."""
    telemetry.configure_logs(settings.log_level, settings.log_format)
    choice = dead_letters.Choice(job_id, reason)

    async def run() -> int:
        async with AsyncExitStack() as stack:
            office = dead_letters.Office(
                letters=open_letters(settings),
                progress=await stack.enter_async_context(open_progress(settings)),
                uploads=await stack.enter_async_context(open_uploads(settings)),
                queue=await stack.enter_async_context(open_queue(settings)),
                deadline_seconds=settings.job_deadline_seconds,
                asked_by=getpass.getuser(),
            )
            match action:
                case "list":
                    return await dead_letters.list_letters(office, choice, say)
                case "show":
                    return await dead_letters.show_letters(office, choice, say)
                case "redrive" | "drop":
                    return await dead_letters.change_letters(office, choice, action, say)
        raise ValueError(action)

    try:
        return asyncio.run(run())
    except Unavailable as error:
        say(f"growbin dead-letters: {error.part} is away ({error.reason}). Only what is listed was done.")
        return 1


# --- doctor ------------------------------------------------------------------------------------


def run_doctor(settings: Settings, say: Callable[[str], None], *, as_json: bool) -> int:
    """`growbin doctor`; returns the exit status."""
    logging.disable()  # what fails is said as a finding
    return asyncio.run(doctor.examine(_checks(settings), say, as_json=as_json))


def _checks(settings: Settings) -> list[doctor.Check]:
    async def broker(name: str, url: str) -> list[doctor.Finding]:
        return doctor.judge_broker(name, await checkup.use_broker(url))

    async def topology() -> list[doctor.Finding]:
        return doctor.judge_topology(
            await checkup.compare_topology(settings.rabbitmq_urls, settings.queue_name)
        )

    async def alarms() -> list[doctor.Finding]:
        return doctor.judge_alarms(await checkup.read_alarms(settings.rabbitmq_management_url or ""))

    async def redis(name: str, url: str) -> list[doctor.Finding]:
        return doctor.judge_redis(name, await checkup.use_redis(url))

    async def photos() -> list[doctor.Finding]:
        async with open_uploads(settings) as uploads:
            cdn = settings.cdn_base_url if settings.cdn_enabled else None
            secret = settings.cdn_reader_secret.get_secret_value()
            return doctor.judge_photos(
                await checkup.use_photos(uploads, cdn_base_url=cdn, reader_secret=secret)
            )

    async def model() -> list[doctor.Finding]:
        name, base_url = settings.openai_model, settings.openai_base_url
        key = settings.openai_api_key.get_secret_value()
        try:
            facts = await checkup.use_model(
                api_key=key,
                base_url=base_url,
                model=name,
                effort=settings.openai_reasoning_effort,
                timeout_seconds=min(settings.model_timeout_seconds, DOCTOR_MODEL_SECONDS),
            )
            answers = doctor.judge_model(facts)
        except EffortRefused as error:
            answers = doctor.judge_effort(str(error))
        lives_until = await checkup.read_shutdown_date(api_key=key, base_url=base_url, model=name)
        return answers + doctor.judge_shutdown(name, lives_until, datetime.now(UTC).date())

    checks = []
    for url in settings.rabbitmq_urls:
        name = f"rabbitmq {_server(url)}"
        checks.append(doctor.Check(name, partial(broker, name, url), doctor.BROKER_AWAY))
    checks.append(doctor.Check("rabbitmq topology", topology, doctor.BROKER_AWAY))
    if settings.rabbitmq_management_url:
        checks.append(doctor.Check("rabbitmq alarms", alarms, doctor.MANAGEMENT_AWAY))
    for url, roles in _redis_servers(settings).items():
        name = "redis" if len(roles) == len(ROLES) else f"redis {'+'.join(roles)}"
        checks.append(doctor.Check(name, partial(redis, name, url), doctor.REDIS_AWAY))
    checks.append(doctor.Check("photos", photos, doctor.STORE_AWAY))
    checks.append(doctor.Check("model", model, doctor.MODEL_AWAY))
    return checks


def _server(url: str) -> str:
    """Host and port, without user and password."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _redis_servers(settings: Settings) -> dict[str, list[str]]:
    """One URL for each server, with the roles that it has."""
    servers: dict[str, tuple[str, list[str]]] = {}
    for role in ROLES:
        url: str = getattr(settings, f"redis_{role}_url")
        servers.setdefault(_server(url), (url, []))[1].append(role)
    return dict(servers.values())


# --- what both open -----------------------------------------------------------------------------


def open_progress(settings: Settings) -> AbstractAsyncContextManager[RedisProgressLog]:
    return RedisProgressLog.open(
        url=settings.redis_progress_url,
        image_base_url=settings.cdn_base_url,
        lease_seconds=settings.lease_seconds,
        max_starts=settings.max_starts,
        max_paid_calls=settings.max_paid_calls,
    )


def open_uploads(
    settings: Settings, total_timeout_seconds: float = 10
) -> AbstractAsyncContextManager[S3UploadStore]:
    return S3UploadStore.open(
        bucket=settings.s3_bucket_name,
        region=settings.aws_region,
        endpoint_url=settings.s3_endpoint_url,
        total_timeout_seconds=total_timeout_seconds,
    )


def open_queue(settings: Settings) -> AbstractAsyncContextManager[RabbitJobQueue]:
    return RabbitJobQueue.open(
        urls=settings.rabbitmq_urls,
        queue_name=settings.queue_name,
        publish_timeout_seconds=settings.publish_timeout_seconds,
        management_url=settings.rabbitmq_management_url,
    )


def open_letters(settings: Settings) -> RabbitDeadLetters:
    return RabbitDeadLetters(urls=settings.rabbitmq_urls, queue_name=settings.queue_name)


@asynccontextmanager
async def serving(app: web.Application, host: str, port: int, variable: str) -> AsyncIterator[None]:
    """Serve `app`; `variable` is named when the port is taken. Raises CannotStart."""
    runner = web.AppRunner(
        app,
        access_log=None,
        # A vanished client must end its handler, or streams leak.
        handler_cancellation=True,
        shutdown_timeout=GATEWAY_SHUTDOWN_SECONDS,
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise CannotStart(
                f"cannot listen on {host}:{port} ({error.strerror}). Stop what uses it, or set {variable}."
            ) from error
        yield
    finally:
        await runner.cleanup()
