"""One job from delivery to verdict: the story, and what becomes of it when something goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from growbin.analysis import parse_answer
from growbin.consumer.attempt import Attempt
from growbin.consumer.context import Consumer
from growbin.consumer.lease import HELD_DELAY_SECONDS, Settled, lease_of
from growbin.consumer.pacing import Closing
from growbin.consumer.paid_call import ask_model
from growbin.consumer.public_copy import withdraw_unless_done
from growbin.errors import JobFailed, Unavailable
from growbin.job import EXPIRY_MARGIN_SECONDS, CleanPhoto, FetchedPhoto, Job, PhotoReport, Stage
from growbin.ports import Ack, DeadLetter, HandBack, Retry, Verdict
from growbin.rules.advice import advise_all

log = structlog.get_logger()


async def handle_job(job: Job, consumer: Consumer) -> Verdict:
    """One job, from delivery to verdict. Each step is announced before it begins: fetching with the lease,
    analysing with the count of the paid call, advising with the answer that is kept."""
    try:
        async with started(job, consumer) as attempt:
            photo = await attempt.fetch()
            attempt.lap("fetch")
            clean = await attempt.clean(photo.data, "image/jpeg")
            attempt.lap("prepare")
            report = report_on(photo)
            del photo  # it may be ten times as large, and the model takes seconds
            answer = attempt.kept_answer or await ask_model(attempt, clean)
            await attempt.announce(Stage.ANALYSING)
            analysis = parse_answer(answer)
            attempt.lap("analyse")
            await attempt.announce(Stage.ADVISING)
            thresholds = consumer.thresholds_of(answer.model)
            advised = advise_all(consumer.rules, analysis, job.locale, thresholds)
            await attempt.show(await as_promised(clean, attempt))
            await attempt.finish(attempt.result(report, answer, analysis, advised))
            return Ack()
    except Settled as settled:
        return settled.verdict
    except Closing:
        return HandBack()


def report_on(photo: FetchedPhoto) -> PhotoReport:
    return PhotoReport(source=photo.source, cache=photo.cache, bytes=len(photo.data))


async def as_promised(clean: CleanPhoto, attempt: Attempt) -> CleanPhoto:
    """The public copy: a JPEG, unless an earlier version's address for it promises another type."""
    promised = attempt.job.public_type
    return clean if clean.content_type == promised else await attempt.clean(clean.data, promised)


@asynccontextmanager
async def started(job: Job, consumer: Consumer) -> AsyncIterator[Attempt]:
    """Take the lease, keep it while the block runs, give it back. Raises Settled when there is nothing to
    do or something went wrong."""
    attempt: Attempt | None = None
    with structlog.contextvars.bound_contextvars(job_id=str(job.job_id), run=job.run):
        try:
            async with lease_of(job, consumer) as lease:
                attempt = Attempt(job, consumer, lease)
                try:
                    # A job is due only once its deadline's millisecond has passed on Redis' clock.
                    async with asyncio.timeout(max(0, attempt.left_seconds()) + EXPIRY_MARGIN_SECONDS):
                        yield attempt
                except (Settled, Closing):
                    raise
                except Exception as error:
                    raise Settled(await verdict_on(error, attempt)) from error
        finally:
            # Without the lease, whose loss would cut it.
            if attempt is not None and attempt.has_shown and not attempt.is_done:
                await withdraw(job, consumer)


async def verdict_on(error: Exception, attempt: Attempt) -> Verdict:
    """What becomes of a job that met `error`. Raises Settled when it has ended elsewhere meanwhile."""
    try:
        match error:
            case TimeoutError() if attempt.left_seconds() > 0:
                return await attempt.postpone(Unavailable("consumer", "a step timed out"))
            case TimeoutError():
                # Should a repeated upload-complete have given the job a later deadline, it goes on.
                has_ended = await attempt.consumer.progress.expire_if_due(attempt.job)
                return Ack() if has_ended else Retry(HELD_DELAY_SECONDS)
            case JobFailed():
                log.info("job_failed", code=error.code, reason=str(error))
                await attempt.fail(error.code, error.opens_at_ms)
                return Ack()
            case Unavailable():
                return await attempt.postpone(error)
            case _:
                log.error("job_hit_a_bug", exc_info=error)
                await attempt.fail("internal")
                return DeadLetter("internal")
    except Unavailable as away:  # Redis is still away, past the deadline
        log.warning("job_handed_on", reason=str(away))
        return Retry(HELD_DELAY_SECONDS)


async def withdraw(job: Job, consumer: Consumer) -> None:
    """Raises Settled when it cannot be told whether the public copy has gone: the delivery comes again."""
    try:
        await withdraw_unless_done(job, consumer.progress, consumer.uploads)
    except Unavailable as error:
        log.warning("public_copy_left", reason=str(error))
        raise Settled(Retry(HELD_DELAY_SECONDS)) from error
