"""The paid call: wait for a turn, count it, make it, keep its answer."""

from __future__ import annotations

import secrets

import structlog

from growbin.consumer.attempt import Attempt
from growbin.errors import JobFailed, Throttled, Unavailable
from growbin.job import CleanPhoto, ModelAnswer
from growbin.telemetry import metrics
from growbin.usage import Usage

log = structlog.get_logger()


async def ask_model(attempt: Attempt, photo: CleanPhoto) -> ModelAnswer:
    """One paid call, its answer stored before anything else is done with it."""
    answer: ModelAnswer | None = None
    while answer is None:
        answer = await attempt.outlasting(lambda: _call_model(attempt, photo))
    kept = answer
    await attempt.patiently(lambda: attempt.consumer.progress.keep_answer(attempt.job, kept))
    return kept


async def _call_model(attempt: Attempt, photo: CleanPhoto) -> ModelAnswer | None:
    """The call, recorded before it is made; None when the model asked for patience."""
    consumer, job, number, call_id = attempt.consumer, attempt.job, attempt.number, secrets.token_hex(8)
    async with consumer.throttle.turn() as turn:
        if not await attempt.patiently(lambda: consumer.progress.count_paid_call(job, number, call_id)):
            raise JobFailed("temporarily_unavailable", "paid calls used up")
        try:
            with metrics.model_call_seconds.time():
                answer = await consumer.analyst.ask(photo, job.question, job.locale)
            _write_down(answer.usage, answer.model)
            return answer
        except JobFailed as failed:
            if failed.usage:
                _write_down(failed.usage)
            raise
        except Throttled as error:  # nothing was paid
            refusal = error
            await attempt.patiently(
                lambda: consumer.progress.count_paid_call(job, number, call_id, change=-1)
            )
            if refusal.is_congestion:
                consumer.throttle.slow_down(refusal, turn)
                return None
    if not refusal.doubtful:
        raise Unavailable("model", refusal.reason)
    if not await consumer.breakers.wait_if_away("model"):
        raise JobFailed("model_refused", refusal.reason)  # the probe was not refused: it is this photo
    return None


def _write_down(usage: Usage, model: str | None = None) -> None:
    """The books: one line for each answer that was paid for, so that their sum is the provider's bill."""
    log.info("model_call_paid", model=model, **usage.model_dump())
