"""What several programs need: adapters opened from the settings, an application served, a start refused."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import structlog
from aiohttp import web

from growbin.adapters.photos.upload_store import S3UploadStore
from growbin.adapters.rabbitmq.job_queue import RabbitJobQueue
from growbin.adapters.rabbitmq.letters import RabbitDeadLetters
from growbin.adapters.redis.progress_log import RedisProgressLog
from growbin.config import Settings
from growbin.errors import Unavailable
from growbin.rules.overlay import BadRules, load_rulebook
from growbin.rules.rulebook import Rulebook
from growbin.telemetry import logs

log = structlog.get_logger()

PROBE_KEY = "incoming/probe"  # nothing lies there; that S3 says so shows that it is well
BUCKET_LOOK_SECONDS = 2.0
GATEWAY_SHUTDOWN_SECONDS = 1.0  # the server waits that long twice: for the handler, then for its task

Serve = Callable[[Settings, asyncio.Event], Coroutine[Any, Any, None]]


class CannotStart(Exception):
    """The process cannot start; the text says what to do."""


def run_until_stopped(serve: Serve, settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status."""
    logs.configure_logs(settings.log_level, settings.log_format)

    async def run() -> None:
        stop = asyncio.Event()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
        await serve(settings, stop)

    asyncio.run(run())
    return 0


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


def rulebook(settings: Settings) -> Rulebook:
    """The rules, with the municipality's overlay where there is one. Raises CannotStart."""
    try:
        return load_rulebook(settings.rules_dir)
    except BadRules as error:
        raise CannotStart(f"the rules cannot be used:\n{error}") from None


def open_progress(settings: Settings) -> AbstractAsyncContextManager[RedisProgressLog]:
    return RedisProgressLog.open(
        url=settings.redis_progress_url,
        image_base_url=settings.cdn_base_url,
        lease_seconds=settings.lease_seconds,
        max_starts=settings.max_starts,
        max_paid_calls=settings.max_paid_calls,
        erased_after_seconds=(0, settings.erase_again_seconds, settings.ticket_seconds),
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


async def check_bucket(settings: Settings, uploads: S3UploadStore) -> None:
    """Raises CannotStart when S3 says that there is no such bucket: no job could ever succeed. An S3 that
    does not answer now may do so later."""
    try:
        await asyncio.wait_for(uploads.look(PROBE_KEY), BUCKET_LOOK_SECONDS)
    except TimeoutError:
        return
    except Unavailable as error:
        if error.reason != "NoSuchBucket":
            return
        where = settings.s3_endpoint_url or f"AWS in {settings.aws_region}"
        raise CannotStart(
            f"there is no bucket {settings.s3_bucket_name} at {where}: create it, or correct S3_BUCKET_NAME."
        ) from None


def open_queue(settings: Settings) -> AbstractAsyncContextManager[RabbitJobQueue]:
    return RabbitJobQueue.open(
        urls=settings.rabbitmq_urls,
        queue_name=settings.queue_name,
        publish_timeout_seconds=settings.publish_timeout_seconds,
        management_url=settings.rabbitmq_management_url,
    )


def open_letters(settings: Settings) -> AbstractAsyncContextManager[RabbitDeadLetters]:
    return RabbitDeadLetters.open(urls=settings.rabbitmq_urls, queue_name=settings.queue_name)
