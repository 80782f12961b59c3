"""The consumer: one job from delivery to verdict. Read `handle_job` first; the rest serves it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from growbin.analysis import parse_answer
from growbin.consumer.pacing import Closing, SoloGate, Throttle
from growbin.errors import JobFailed, Throttled, Unavailable
from growbin.job import (
    EXPIRY_MARGIN_SECONDS,
    Ack,
    Analysis,
    CleanPhoto,
    DeadLetter,
    Failure,
    FetchedPhoto,
    HandBack,
    Job,
    ModelAnswer,
    PhotoReport,
    Result,
    Retry,
    Stage,
    Timings,
    Verdict,
    rfc3339,
)
from growbin.messages import failure_detail, is_retryable
from growbin.ports import (
    Analyst,
    Held,
    Obituary,
    PhotoCleaner,
    PhotoSource,
    ProgressLog,
    Started,
    UploadStore,
)
from growbin.rules import Advised, advise_all
from growbin.telemetry import metrics

log = structlog.get_logger()

DELAYS_SECONDS = (1, 5, 15, 60)
HELD_DELAY_SECONDS = 5
REDIS_PAUSE_SECONDS = 0.5
OBITUARY_PAUSE_SECONDS = 1.0

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Tools:
    """What a consumer works with, once per process."""

    progress: ProgressLog
    uploads: UploadStore
    photos: PhotoSource
    cleaner: PhotoCleaner
    analyst: Analyst
    image_base_url: str
    cache_seconds: int
    sure_threshold: float
    lease_renew_seconds: float
    throttle: Throttle = field(default_factory=Throttle)
    solo: SoloGate = field(default_factory=SoloGate)

    async def close(self) -> None:
        """Stopping: what has not begun its paid call is handed back, the rest finishes."""
        await self.solo.close()
        await self.throttle.close()


async def handle_job(job: Job, tools: Tools) -> Verdict:
    """One job, from delivery to verdict. Each step is announced before it begins."""
    try:
        async with started(job, tools) as attempt:
            await attempt.announce(Stage.FETCHING)
            photo = await tools.photos.fetch(job.key, job.etag, job.length)
            attempt.lap("fetch")
            clean = await tools.cleaner.clean(photo.data, job.public_type)
            await attempt.show(clean)
            attempt.lap("prepare")
            await attempt.announce(Stage.ANALYSING)
            answer = attempt.kept_answer or await attempt.ask_model(clean)
            analysis = parse_answer(answer)
            attempt.lap("analyse")
            await attempt.announce(Stage.ADVISING)
            advised = advise_all(analysis, job.locale, tools.sure_threshold)
            await attempt.finish(attempt.result(photo, answer, analysis, advised))
            return Ack()
    except Settled as settled:
        return settled.verdict
    except Closing:
        return HandBack()


class Settled(Exception):
    """The job leaves the story early, with this verdict."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(repr(verdict))
        self.verdict = verdict


# --- one attempt: the lease, the clock, and what may go wrong -----------------------------------


class Attempt:
    """A started job: our lease on it, its time left, and how far it came."""

    def __init__(self, job: Job, tools: Tools, start: Started) -> None:
        self._job = job
        self._tools = tools
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
        return (self._job.deadline_ms - self.now_ms()) / 1000

    def lap(self, name: str) -> None:
        now = asyncio.get_running_loop().time()
        self._laps_ms[name] = int((now - self._loop_lap) * 1000)
        self._loop_lap = now

    def result(
        self, photo: FetchedPhoto, answer: ModelAnswer, analysis: Analysis, advised: Advised
    ) -> Result:
        """What the client gets."""
        now_ms = self.now_ms()
        queue_ms = max(0, self._start.now_ms - self._job.accepted_at_ms)
        total_ms = max(0, now_ms - self._job.accepted_at_ms)
        return Result(
            job_id=self._job.job_id,
            image_url=f"{self._tools.image_base_url}/{self._job.public_key}",
            locale=self._job.locale,
            waste_type=advised.waste_type,
            items=advised.items,
            answer=analysis.answer,
            sure=advised.sure,
            ask_back=advised.ask_back,
            model=answer.model,
            usage=answer.usage,
            photo=PhotoReport(source=photo.source, cache=photo.cache, bytes=len(photo.data)),
            timings_ms=Timings(queue=queue_ms, total=total_ms, **self._laps_ms),
            analysed_at=rfc3339(now_ms),
        )

    # --- steps

    async def announce(self, stage: Stage) -> None:
        """Append a stage; waits for a Redis that is away rather than burn the attempt."""
        self._go_on(
            await self._patiently(lambda: self._tools.progress.announce(self._job, self.number, stage))
        )

    async def finish(self, end: Result | Failure) -> None:
        """The terminal event. It is written before the delivery is acknowledged, however long Redis
        takes: what was paid for is kept in memory until then."""
        self._go_on(await self._patiently(lambda: self._tools.progress.finish(self._job, self.number, end)))
        self.is_done = isinstance(end, Result)
        outcome = "done" if isinstance(end, Result) else end.code
        metrics.jobs_ended.labels(outcome=outcome).inc()
        if isinstance(end, Result):
            metrics.queue_wait_seconds.observe(end.timings_ms.queue / 1000)
            metrics.photos_fetched.labels(source=end.photo.source, cache=end.photo.cache or "none").inc()
            metrics.photo_fetch_seconds.labels(source=end.photo.source).observe(end.timings_ms.fetch / 1000)
        log.info("job_ended", outcome=outcome, attempt=self.number)

    async def fail(self, code: str) -> None:
        await self.finish(failure(code, self._job))

    async def show(self, photo: CleanPhoto) -> None:
        """Put the clean copy in its public place."""
        self.has_shown = True  # before it is: a put that is cancelled may have arrived
        await self._tools.uploads.publish_photo(self._job.public_key, photo, self._tools.cache_seconds)

    async def ask_model(self, photo: CleanPhoto) -> ModelAnswer:
        """One paid call, its answer stored before anything else is done with it."""
        answer: ModelAnswer | None = None
        while answer is None:
            async with self._tools.throttle.turn():
                answer = await self._call_model(photo)
        kept = answer
        await self._patiently(lambda: self._tools.progress.keep_answer(self._job, kept))
        return kept

    async def _call_model(self, photo: CleanPhoto) -> ModelAnswer | None:
        """The call, recorded before it is made; None when the model asked for patience."""
        progress, job, throttle = self._tools.progress, self._job, self._tools.throttle
        call_id = secrets.token_hex(8)
        if not await self._patiently(lambda: progress.count_paid_call(job, self.number, call_id)):
            raise JobFailed("temporarily_unavailable", "paid calls used up")
        try:
            with metrics.model_call_seconds.time():
                answer = await self._tools.analyst.ask(photo, job.question, job.locale)
        except Throttled as refusal:
            # Nothing was paid and no attempt is burned: everybody slows down, and we ask again.
            throttle.slow_down(refusal)
            await self._patiently(lambda: progress.count_paid_call(job, self.number, call_id, change=-1))
            return None
        throttle.speed_up()
        return answer

    def _go_on(self, held: Held) -> None:
        if held == "ended":
            raise Settled(Ack())
        if held == "lost":
            raise Settled(Retry(HELD_DELAY_SECONDS))

    async def _patiently(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        while True:
            try:
                return await call()
            except Unavailable as error:
                if self.left_seconds() < 0:
                    raise
                log.warning("redis_awaited", reason=error.reason)
                await asyncio.sleep(REDIS_PAUSE_SECONDS)

    # --- ends that are not done

    async def postpone(self, error: Unavailable) -> Verdict:
        """Again after the next delay, unless the starts or the time are used up."""
        delay_seconds = DELAYS_SECONDS[min(self._start.starts, len(DELAYS_SECONDS)) - 1]
        is_last = self._start.starts >= len(DELAYS_SECONDS)
        if is_last or delay_seconds > self.left_seconds():
            log.warning("job_given_up", reason=str(error))
            await self.fail("temporarily_unavailable")
            return Ack()
        log.warning("job_postponed", reason=str(error), delay_seconds=delay_seconds)
        return Retry(delay_seconds)


@asynccontextmanager
async def started(job: Job, tools: Tools) -> AsyncIterator[Attempt]:
    """Take the lease, keep it while the block runs, give it back; turn errors into verdicts.
    Raises Settled when there is nothing to do, or something went wrong that has a verdict."""
    with structlog.contextvars.bound_contextvars(job_id=str(job.job_id), run=job.run):
        async with lease_of(job, tools) as start:
            attempt = Attempt(job, tools, start)
            try:
                try:
                    # A job is due only once its deadline's millisecond has passed on Redis' clock.
                    async with asyncio.timeout(max(0, attempt.left_seconds()) + EXPIRY_MARGIN_SECONDS):
                        yield attempt
                except TimeoutError as error:
                    if attempt.left_seconds() > 0:
                        stuck = Unavailable("consumer", "a step timed out")
                        raise Settled(await attempt.postpone(stuck)) from error
                    # Should a repeated upload-complete have given the job a later deadline, it goes on.
                    has_ended = await tools.progress.expire_if_due(job)
                    raise Settled(Ack() if has_ended else Retry(HELD_DELAY_SECONDS)) from None
                except JobFailed as error:
                    log.info("job_failed", code=error.code, reason=str(error))
                    await attempt.fail(error.code)
                    raise Settled(Ack()) from None
                except Unavailable as error:
                    raise Settled(await attempt.postpone(error)) from None
                except (Settled, Closing, asyncio.CancelledError):
                    raise
                except Exception:
                    log.exception("job_hit_a_bug")
                    await attempt.fail("internal")
                    raise Settled(DeadLetter("internal")) from None
            except Unavailable as error:  # Redis is still away, past the deadline
                log.warning("job_handed_on", reason=str(error))
                raise Settled(Retry(HELD_DELAY_SECONDS)) from None
            finally:
                if attempt.has_shown and not attempt.is_done:
                    await withdraw_if_unwanted(job, tools)


async def withdraw_if_unwanted(job: Job, tools: Tools) -> None:
    """A job that was cancelled, deleted or ended otherwise under our hands shows no photo."""
    with suppress(Unavailable):
        state = await tools.progress.state(job.job_id)
        if state is None or state.entry.event in ("failed", "cancelled", "expired", "deleted"):
            await tools.uploads.delete(job.public_key)


@asynccontextmanager
async def lease_of(job: Job, tools: Tools) -> AsyncIterator[Started]:
    """Begin the job. A job whose last holder died runs alone: should it kill this process too, no
    neighbour is in hand that could be blamed for it."""
    alone = False
    while True:
        async with tools.solo.entered(alone=alone):
            try:
                start = await tools.progress.begin(job, alone=alone)
            except Unavailable as error:
                log.warning("job_not_begun", reason=error.reason)
                raise Settled(Retry(HELD_DELAY_SECONDS)) from None
            if start == "suspect":
                alone = True
                continue
            if not isinstance(start, Started):
                raise Settled(await not_begun(job, tools, start))
            log.info("job_begun", attempt=start.attempt, starts=start.starts)
            async with renewed(job, tools, start):
                yield start
            return


async def not_begun(job: Job, tools: Tools, why: str) -> Verdict:
    """The verdict on a job that `begin` did not give us."""
    if why == "held":
        return Retry(HELD_DELAY_SECONDS)
    if why in ("exhausted", "crashed"):
        code = "crashed" if why == "crashed" else "temporarily_unavailable"
        try:
            await tools.progress.finish(job, None, failure(code, job))
        except Unavailable:
            return Retry(HELD_DELAY_SECONDS)
    return Ack()


@asynccontextmanager
async def renewed(job: Job, tools: Tools, start: Started) -> AsyncIterator[None]:
    """Renew the lease while the block runs. When the job ends elsewhere (a cancel) or another
    consumer has begun it, the block is cancelled and Settled raised."""
    block = asyncio.current_task()
    assert block is not None
    found: list[Held] = []

    async def renew() -> None:
        while True:
            await asyncio.sleep(tools.lease_renew_seconds)
            with suppress(Unavailable):  # the lease may lapse; while nobody else begins, it is still ours
                held = await tools.progress.renew(job, start.attempt)
                if held != "ours":
                    found.append(held)
                    block.cancel()
                    return

    renewer = asyncio.create_task(renew(), name=f"lease-{job.job_id}")
    refund = False
    try:
        yield
    except Closing:
        refund = True
        raise
    except asyncio.CancelledError:
        if not found or block.uncancel() > 0:
            refund = True  # stopped by us, not by the job: this start does not count against it
            raise
        log.info("job_left", held=found[0])
        raise Settled(Ack() if found[0] == "ended" else Retry(HELD_DELAY_SECONDS)) from None
    finally:
        renewer.cancel()
        with suppress(Unavailable):
            await asyncio.shield(tools.progress.release(job, start.attempt, refund=refund))


# --- obituaries ---------------------------------------------------------------------------------


def failure(code: str, job: Job) -> Failure:
    return Failure(code=code, detail=failure_detail(code, job.locale), retryable=is_retryable(code))


async def bury(obituary: Obituary, tools: Tools) -> None:
    """Turn a dead letter into a terminal event, unless the job has one. Waits while a consumer
    still holds the job and its deadline is ahead. Raises Unavailable."""
    job = obituary.job
    log.warning("obituary_read", job_id=str(obituary.job_id), reason=obituary.reason)
    if job is None:
        if obituary.job_id is not None:
            await tools.progress.fail_unreadable(obituary.job_id, "bad_event")
        return
    while not await tools.progress.expire_if_due(job):
        if not await tools.progress.lease_lives(job.job_id):
            await tools.progress.finish(job, None, failure("dead_lettered", job))
            return
        await asyncio.sleep(OBITUARY_PAUSE_SECONDS)
