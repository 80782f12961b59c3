"""What several programs need: adapters opened from the settings, an application served, a start refused."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

import structlog
from aiohttp import web

from growbin.adapters.photos.upload_store import S3UploadStore
from growbin.adapters.rabbitmq.job_queue import RabbitJobQueue
from growbin.adapters.rabbitmq.letters import RabbitDeadLetters
from growbin.adapters.redis.progress_log import RedisProgressLog
from growbin.budgets import Budget
from growbin.config import Settings
from growbin.errors import Unavailable
from growbin.rules.overlay import BadRules, load_rulebook
from growbin.rules.rulebook import Rulebook
from growbin.telemetry import logs, traces
from growbin.telemetry.event_loop import measured_lag

log = structlog.get_logger()

PROBE_KEY = "incoming/probe"  # nothing lies there; that S3 says so shows that it is well
BUCKET_LOOK_SECONDS = 2.0
GATEWAY_SHUTDOWN_SECONDS = 1.0  # the server waits that long twice: for the handler, then for its task

Accept = Callable[[web.Server], Callable[[], asyncio.Protocol]]
Serve = Callable[[Settings, asyncio.Event], Coroutine[Any, Any, None]]


class CannotStart(Exception):
    """The process cannot start; the text says what to do."""


def run_until_stopped(serve: Serve, settings: Settings, name: str) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status. `name` is the process' in traces."""
    gc.freeze()  # the imports' part of settling down
    logs.configure_logs(settings.log_level, settings.log_format)

    async def run() -> None:
        stop = asyncio.Event()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
        async with measured_lag():
            await serve(settings, stop)

    with recorded_traces(settings, name):
        asyncio.run(run())
    return 0


@contextmanager
def recorded_traces(settings: Settings, name: str) -> Iterator[None]:
    """Send spans to a collector while the block runs, where one is set. Raises CannotStart."""
    if settings.otel_exporter_otlp_endpoint is None:
        yield
        return
    try:
        from growbin.telemetry.span_recorder import SpanRecorder
    except ImportError:
        raise CannotStart(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, and what it needs is not installed: "
            "run `pip install 'growbin[tracing]'`, or unset it."
        ) from None
    recorder = SpanRecorder.to_collector(settings.otel_exporter_otlp_endpoint, f"growbin-{name}")
    traces.record_with(recorder)
    try:
        yield
    finally:
        traces.record_with(None)
        recorder.close()


@asynccontextmanager
async def serving(
    app: web.Application, host: str, port: int, variable: str, accept: Accept = lambda server: server
) -> AsyncIterator[tuple[str, int]]:
    """Serve `app`, and yield where; `variable` is named when the port is taken, `accept` says what each
    connection becomes. Raises CannotStart."""
    runner = web.AppRunner(
        app,
        access_log=None,
        # A vanished client must end its handler, or streams leak.
        handler_cancellation=True,
        shutdown_timeout=GATEWAY_SHUTDOWN_SECONDS,
    )
    await runner.setup()
    assert runner.server is not None
    listener: asyncio.Server | None = None
    try:
        try:
            listener = await asyncio.get_running_loop().create_server(accept(runner.server), host, port)
        except OSError as error:
            raise CannotStart(
                f"cannot listen on {host}:{port} ({error.strerror}). Stop what uses it, or set {variable}."
            ) from error
        yield listener.sockets[0].getsockname()[:2]
    finally:
        if listener is not None:
            listener.close()
        await runner.cleanup()


def settle_down() -> None:
    """What imports and the start have made stays, and need not be looked at by each full collection, which
    holds up everything for so long."""
    gc.collect()
    gc.freeze()


def rulebook(settings: Settings) -> Rulebook:
    """The rules, with the municipality's overlay where there is one. Raises CannotStart."""
    try:
        return load_rulebook(settings.rules_dir)
    except BadRules as error:
        raise CannotStart(f"the rules cannot be used:\n{error}") from None


def open_progress(
    settings: Settings, budget: Budget | None = None
) -> AbstractAsyncContextManager[RedisProgressLog]:
    return RedisProgressLog.open(
        url=settings.redis_progress_url,
        image_base_url=settings.cdn_base_url,
        lease_seconds=settings.lease_seconds,
        max_starts=settings.max_starts,
        max_paid_calls=settings.max_paid_calls,
        unused_ticket_seconds=settings.unused_ticket_seconds,
        erased_after_seconds=(0, settings.erase_again_seconds, settings.ticket_seconds),
        budget=budget,
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


@asynccontextmanager
async def open_bucket(settings: Settings, total_timeout_seconds: float = 10) -> AsyncIterator[S3UploadStore]:
    """The uploads, after a look at their bucket. Raises CannotStart when S3 says that there is none: no job
    could ever succeed. An S3 that does not answer now may do so later."""
    async with open_uploads(settings, total_timeout_seconds) as uploads:
        try:
            await asyncio.wait_for(uploads.look(PROBE_KEY), BUCKET_LOOK_SECONDS)
        except TimeoutError:
            pass
        except Unavailable as error:
            if error.reason == "NoSuchBucket":
                raise CannotStart(_no_bucket(settings)) from None
        yield uploads


def _no_bucket(settings: Settings) -> str:
    where = settings.s3_endpoint_url or f"AWS in {settings.aws_region}"
    return f"there is no bucket {settings.s3_bucket_name} at {where}: create it, or correct S3_BUCKET_NAME."


def open_queue(settings: Settings) -> AbstractAsyncContextManager[RabbitJobQueue]:
    return RabbitJobQueue.open(
        urls=settings.rabbitmq_urls,
        queue_name=settings.queue_name,
        publish_timeout_seconds=settings.publish_timeout_seconds,
        management_url=settings.rabbitmq_management_url,
    )


def open_letters(settings: Settings) -> AbstractAsyncContextManager[RabbitDeadLetters]:
    return RabbitDeadLetters.open(urls=settings.rabbitmq_urls, queue_name=settings.queue_name)
