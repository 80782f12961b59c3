"""One job from delivery to verdict: the story, and what becomes of it when something goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from growbin.analysis import parse_answer
from growbin.consumer.attempt import Attempt
from growbin.consumer.context import Consumer
from growbin.consumer.lease import HELD_DELAY_SECONDS, Settled, lease_of
from growbin.consumer.pacing import Closing
from growbin.consumer.paid_call import ask_model
from growbin.errors import JobFailed, Unavailable
from growbin.job import Ack, DeadLetter, HandBack, Job, Retry, Stage, Verdict
from growbin.rules import advise_all

log = structlog.get_logger()

EXPIRY_MARGIN_SECONDS = 0.05


async def handle_job(job: Job, consumer: Consumer) -> Verdict:
    """One job, from delivery to verdict. Each step is announced before it begins."""
    try:
        async with started(job, consumer) as attempt:
            await attempt.announce(Stage.FETCHING)
            photo = await consumer.photos.fetch(job.key, job.etag, job.length)
            attempt.lap("fetch")
            clean = await consumer.cleaner.clean(photo.data, job.public_type)
            await attempt.show(clean)
            attempt.lap("prepare")
            await attempt.announce(Stage.ANALYSING)
            answer = attempt.kept_answer or await ask_model(attempt, clean)
            analysis = parse_answer(answer)
            attempt.lap("analyse")
            await attempt.announce(Stage.ADVISING)
            advised = advise_all(analysis, job.locale, consumer.sure_threshold)
            await attempt.finish(attempt.result(photo, answer, analysis, advised))
            return Ack()
    except Settled as settled:
        return settled.verdict
    except Closing:
        return HandBack()


@asynccontextmanager
async def started(job: Job, consumer: Consumer) -> AsyncIterator[Attempt]:
    """Take the lease, keep it while the block runs, give it back; turn errors into verdicts.
    Raises Settled when there is nothing to do, or something went wrong that has a verdict."""
    with structlog.contextvars.bound_contextvars(job_id=str(job.job_id), run=job.run):
        async with lease_of(job, consumer) as start:
            attempt = Attempt(job, consumer, start)
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
                    has_ended = await consumer.progress.expire_if_due(job)
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
                    await withdraw_if_unwanted(job, consumer)


async def withdraw_if_unwanted(job: Job, consumer: Consumer) -> None:
    """A job that was cancelled, deleted or ended otherwise under our hands shows no photo."""
    with suppress(Unavailable):
        state = await consumer.progress.state(job.job_id)
        if state is None or state.entry.event in ("failed", "cancelled", "expired", "deleted"):
            await consumer.uploads.delete(job.public_key)
