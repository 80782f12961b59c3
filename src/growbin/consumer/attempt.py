"""One attempt: its time, its steps, and how it may end.

run        a job from acceptance to its end; a redrive begins the next, with its starts and paid calls anew.
start      a consumer takes the lease. One that a stopping consumer hands back is not counted.
attempt    the number of a start, shown to clients, and the lease's fencing token: only the latest may write.
           It counts on where starts do not: after a start that was handed back, and in the next run.
paid call  one question to the model, counted before it is asked: at most one in an attempt, none when an
           earlier attempt kept its answer. One that the model refused for its rate is not counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from growbin.consumer.context import Consumer
from growbin.consumer.lease import HELD_DELAY_SECONDS, REDIS_PAUSE_SECONDS, Settled
from growbin.errors import Unavailable
from growbin.job import (
    Analysis,
    CleanPhoto,
    ContentType,
    Failure,
    FetchedPhoto,
    Job,
    ModelAnswer,
    PhotoReport,
    Result,
    Stage,
    Timings,
    rfc3339,
)
from growbin.messages import failure
from growbin.ports import RETRY_DELAYS_SECONDS, Ack, Held, Retry, Started, Verdict
from growbin.rules.advice import Advised
from growbin.telemetry import metrics, traces

log = structlog.get_logger()

LEAST_PATIENCE_SECONDS = 2.0  # with the model, also for a job that was long in the queue

Answer = TypeVar("Answer")


class Attempt:
    """A started job: our lease on it, its time left, and how far it came."""

    def __init__(self, job: Job, consumer: Consumer, start: Started) -> None:
        self.job = job
        self.consumer = consumer
        self._start = start
        self._loop_start = self._loop_lap = asyncio.get_running_loop().time()
        self._laps_ms: dict[str, int] = {}
        self.has_shown = self.is_done = False

    @property
    def number(self) -> int:
        return self._start.attempt

    @property
    def kept_answer(self) -> ModelAnswer | None:
        return self._start.answer

    # Time is Redis' clock at the start plus our own monotonic one, never this machine's wall clock.

    def now_ms(self) -> int:
        return self._start.now_ms + int((asyncio.get_running_loop().time() - self._loop_start) * 1000)

    def left_seconds(self) -> float:
        return (self.job.deadline_ms - self.now_ms()) / 1000

    def lap(self, name: str) -> None:
        now = asyncio.get_running_loop().time()
        self._laps_ms[name] = int((now - self._loop_lap) * 1000)
        metrics.stage_seconds.labels(stage=name).observe(now - self._loop_lap)
        self._loop_lap = now

    def result(
        self, photo: FetchedPhoto, answer: ModelAnswer, analysis: Analysis, advised: Advised
    ) -> Result:
        """What the client gets."""
        now_ms = self.now_ms()
        queue_ms = max(0, self._start.now_ms - self.job.accepted_at_ms)
        total_ms = max(0, now_ms - self.job.accepted_at_ms)
        return Result(
            job_id=self.job.job_id,
            image_url=f"{self.consumer.image_base_url}/{self.job.public_key}",
            locale=self.job.locale,
            waste_type=advised.waste_type,
            items=advised.items,
            answer=analysis.answer,
            sure=advised.is_sure,
            certainty=advised.certainty,
            ask_back=advised.ask_back,
            model=answer.model,
            answered_by=answer.answered_by,
            usage=answer.usage,
            photo=PhotoReport(source=photo.source, cache=photo.cache, bytes=len(photo.data)),
            timings_ms=Timings(queue=queue_ms, total=total_ms, **self._laps_ms),
            analysed_at=rfc3339(now_ms),
        )

    def gives_up_waiting_at(self) -> float | None:
        """When the fallback answers in the place of a model that is away, on the loop's clock; None: never.
        It is the person's waiting that counts, most of which may have been in the queue."""
        if self.consumer.fallback is None:
            return None
        waited_seconds = max(0, self._start.now_ms - self.job.accepted_at_ms) / 1000
        left_seconds = self.consumer.fallback_after_seconds - waited_seconds
        return self._loop_start + max(LEAST_PATIENCE_SECONDS, left_seconds)

    # --- steps

    async def announce(self, stage: Stage) -> None:
        """Append a stage; waits for a Redis that is away rather than burn the attempt."""
        self._go_on(
            await self.patiently(lambda: self.consumer.progress.announce(self.job, self.number, stage))
        )

    async def finish(self, end: Result | Failure) -> None:
        """The terminal event. It is written before the delivery is acknowledged, however long Redis
        takes: what was paid for is kept in memory until then."""
        self._go_on(await self.patiently(lambda: self.consumer.progress.finish(self.job, self.number, end)))
        self.is_done = isinstance(end, Result)
        if isinstance(end, Result):
            metrics.answers.labels(by=end.answered_by).inc()
            metrics.job_seconds.observe(end.timings_ms.total / 1000)

    async def fail(self, code: str, opens_at_ms: int | None = None) -> None:
        end = failure(code, self.job.locale)
        if opens_at_ms is not None:
            end = end.model_copy(update={"opens_at": rfc3339(opens_at_ms)})
        await self.finish(end)

    async def fetch(self) -> FetchedPhoto:
        """The photo as it was uploaded."""
        job = self.job
        return await self.outlasting(lambda: self.consumer.photos.fetch(job.key, job.etag, job.length))

    async def clean(self, data: bytes, target: ContentType) -> CleanPhoto:
        """In its owner's turn."""
        job = self.job
        with traces.span("clean photo"):
            return await self.consumer.cleaner.clean(data, target, owner=job.owner, address=job.address_hash)

    async def show(self, photo: CleanPhoto) -> None:
        """Put the clean copy in its public place."""
        self.has_shown = True  # before it is: a put that is cancelled may have arrived
        key, cache_seconds = self.job.public_key, self.consumer.cache_seconds
        with traces.span("show photo", "client"):
            await self.outlasting(lambda: self.consumer.uploads.publish_photo(key, photo, cache_seconds))

    async def outlasting(self, step: Callable[[], Awaitable[Answer]]) -> Answer:
        """A step, done again when the part that it failed at was away for everybody and is back: an outage
        burns no start. Raises Unavailable when the part is well, so that the trouble is this job's own."""
        while True:
            try:
                return await step()
            except Unavailable as error:
                if not await self.consumer.breakers.wait_if_away(error.part):
                    raise

    async def patiently(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """A call to Redis, repeated while it is away and there is time. Raises Unavailable."""
        while True:
            try:
                return await call()
            except Unavailable as error:
                if self.left_seconds() < 0:
                    raise
                log.warning("redis_awaited", reason=error.reason)
                await asyncio.sleep(REDIS_PAUSE_SECONDS)

    def _go_on(self, held: Held) -> None:
        if held == "ended":
            raise Settled(Ack())
        if held == "lost":
            raise Settled(Retry(HELD_DELAY_SECONDS))

    # --- ends that are not done

    async def postpone(self, error: Unavailable) -> Verdict:
        """Again after the next delay, unless the starts or the time are used up."""
        delay_seconds = RETRY_DELAYS_SECONDS[min(self._start.starts, len(RETRY_DELAYS_SECONDS)) - 1]
        is_last = self._start.starts >= self.consumer.max_starts
        if is_last or delay_seconds > self.left_seconds():
            log.warning("job_given_up", reason=str(error))
            await self.fail("temporarily_unavailable")
            return Ack()
        log.warning("job_postponed", reason=str(error), delay_seconds=delay_seconds)
        return Retry(delay_seconds)
