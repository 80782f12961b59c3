"""The consumer: its ports opened, jobs handled until it is told to stop."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import structlog

from growbin.adapters.model.analyst import OpenAIAnalyst
from growbin.adapters.model.request import CallShape
from growbin.adapters.photo_cleaner import ChildPhotoCleaner
from growbin.adapters.photos.photo_source import CdnPhotoSource
from growbin.adapters.photos.upload_store import S3UploadStore
from growbin.adapters.redis.outages import RedisOutages
from growbin.adapters.redis.progress_log import RedisProgressLog
from growbin.budgets import Budget, has_dollars, micros
from growbin.capabilities import EffortRefused, ImageDetail, capabilities_of, thresholds_of
from growbin.certainty import Thresholds
from growbin.config import Settings
from growbin.consumer.breakers import Breakers
from growbin.consumer.context import Consumer
from growbin.consumer.handle_job import handle_job
from growbin.consumer.obituaries import end_dead_job
from growbin.consumer.pacing import Throttle
from growbin.errors import JobFailed, Unavailable
from growbin.probes import build_probes
from growbin.rules.rulebook import Rulebook
from growbin.usage import BadPrices, PriceList, Usage, load_prices
from growbin.wiring.fallback import open_fallback
from growbin.wiring.parts import (
    PROBE_KEY,
    CannotStart,
    open_bucket,
    open_progress,
    open_queue,
    rulebook,
    serving,
    settle_down,
)

log = structlog.get_logger()

# More than prompt, question and picture come to with any model whose way of counting is published.
MOST_INPUT_TOKENS: dict[ImageDetail, int] = {"low": 8_000, "high": 40_000, "auto": 40_000, "none": 40_000}
RESERVED_LONGER_SECONDS = 10.0  # than a call may take; then its process was dead
M_MMAP_THRESHOLD = -3  # as malloc.h numbers it
MAPPED_FROM_BYTES = 288 * 1024  # more than the event loop makes room for each time it reads


async def run_consumer(settings: Settings, stop: asyncio.Event) -> None:
    """Jobs until `stop` is set; then running ones finish within their grace. Raises CannotStart."""
    rules = rulebook(settings)  # a mistake in them is told before anything is tried
    map_photos()
    async with AsyncExitStack() as stack:
        progress = await stack.enter_async_context(open_progress(settings, budget_of(settings)))
        uploads = await stack.enter_async_context(open_bucket(settings))
        consumer = await opened_consumer(settings, stack, progress, uploads, rules)
        queue = await stack.enter_async_context(open_queue(settings))
        consuming = queue.consuming(
            partial(handle_job, consumer=consumer),
            partial(end_dead_job, progress=progress, uploads=uploads),
            concurrency=consumer.concurrency,
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
                },
                shown={part: partial(consumer.breakers.is_well, part) for part in consumer.breakers.parts},
            )
            await stack.enter_async_context(
                serving(probes, settings.probe_host, settings.probe_port, "PROBE_PORT")
            )
            settle_down()
            log.info("consumer_started", concurrency=settings.consumer_concurrency)
            await stop.wait()
            log.info("consumer_stopping")
            await consumer.close()


def map_photos() -> None:
    """Have large blocks of memory mapped one by one, so that a raw photo's goes back to the system when it is
    let go. By itself the C library stops doing so with the first that is freed, and the next ones leave
    holes between what jobs hold on to."""
    with suppress(AttributeError):  # glibc's alone
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MAPPED_FROM_BYTES)


async def opened_consumer(
    settings: Settings,
    stack: AsyncExitStack,
    progress: RedisProgressLog,
    uploads: S3UploadStore,
    rules: Rulebook,
) -> Consumer:
    """With what it asks photos and models through; `stack` closes it."""
    photos = await stack.enter_async_context(open_photos(settings, uploads))
    cleaner = await stack.enter_async_context(open_cleaner(settings))
    analyst = await stack.enter_async_context(open_analyst(settings))
    fallback = await stack.enter_async_context(open_fallback(settings))
    outages = await stack.enter_async_context(RedisOutages.open(url=settings.redis_progress_url))
    return Consumer(
        leases=progress,
        progress=progress,
        calls=progress,
        uploads=uploads,
        photos=photos,
        cleaner=cleaner,
        analyst=analyst,
        image_base_url=settings.cdn_base_url,
        cache_seconds=settings.cdn_cache_ttl,
        rules=rules,
        thresholds_of=thresholds_by_model(settings),
        lease_renew_seconds=settings.lease_renew_seconds,
        max_starts=settings.max_starts,
        breakers=Breakers(
            {"model": partial(probe_model, analyst, progress), "s3": lambda: uploads.look(PROBE_KEY)},
            outages,
            covered=frozenset({"model"} if fallback else ()),
        ),
        answers_depend_on=(
            f"{settings.openai_model} {settings.call_wishes} {rules.version}"
            if settings.share_answers
            else None
        ),
        fallback=fallback,
        fallback_after_seconds=settings.fallback_after_seconds,
        throttle=Throttle(settings.consumer_concurrency),
    )


async def probe_model(analyst: OpenAIAnalyst, progress: RedisProgressLog) -> None:
    """Raises Unavailable while the model does not answer. A Redis that is away says nothing of the model."""
    with suppress(Unavailable):
        await progress.count_probe()
    await analyst.probe()


def open_photos(settings: Settings, uploads: S3UploadStore) -> AbstractAsyncContextManager[CdnPhotoSource]:
    return CdnPhotoSource.open(
        base_url=settings.cdn_base_url,
        reader_secret=settings.cdn_reader_secret.get_secret_value(),
        enabled=settings.cdn_enabled,
        read_from_store=uploads.read,
        max_bytes=settings.photo_max_bytes,
    )


@asynccontextmanager
async def open_cleaner(settings: Settings) -> AsyncIterator[ChildPhotoCleaner]:
    """Raises CannotStart when its children cannot work: every photo would fail."""
    async with ChildPhotoCleaner.open(
        max_pixels=settings.photo_max_pixels,
        max_side=settings.photo_model_side,
        children=settings.photo_children,
    ) as cleaner:
        try:
            await cleaner.look()
        except (JobFailed, Unavailable) as error:
            raise CannotStart(f"no photo can be cleaned here: {error}.") from None
        yield cleaner


def thresholds_by_model(settings: Settings) -> Callable[[str], Thresholds]:
    """The thresholds for an answer, by the name of the model that gave it."""
    return partial(thresholds_of, configured=settings.openai_model, sure_threshold=settings.sure_threshold)


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
        wishes=settings.call_wishes,
        prices=prices_of(settings),
        timeout_seconds=settings.model_timeout_seconds,
    )


def prices_of(settings: Settings) -> PriceList:
    """Raises CannotStart."""
    try:
        return load_prices(settings.prices_file)
    except BadPrices as error:
        raise CannotStart(f"PRICES_FILE cannot be used: {error}") from None


def budget_of(settings: Settings) -> Budget | None:
    """What may be spent; None where nothing is set. Raises CannotStart."""
    limits = settings.budget_limits
    if not limits:
        return None
    budget = Budget(
        limits,
        first_share=settings.budget_first_share,
        call_seconds=settings.model_timeout_seconds + RESERVED_LONGER_SECONDS,
    )
    price = prices_of(settings).of(settings.openai_model)
    if price is None:
        if all(limit.unit == "micros" for limit in limits):
            raise CannotStart(
                f"the budget is in dollars, and {settings.openai_model} has no price: "
                "set PRICES_FILE, or give BUDGET calls as well."
            )
        if has_dollars(limits):
            log.warning("price_missing", model=settings.openai_model, budget="counts calls alone")
        return budget.in_calls_alone()
    shape = CallShape.of(settings.openai_model, settings.call_wishes)
    dearest = Usage(input_tokens=MOST_INPUT_TOKENS[shape.detail], output_tokens=shape.most_tokens)
    return replace(budget, call_micros=micros(price.cost_usd(dearest)))
