"""The paid call: wait for a turn, count it, make it, keep its answer."""

from __future__ import annotations

import secrets

import structlog

from growbin.consumer.attempt import Attempt
from growbin.errors import JobFailed, Throttled, Unavailable
from growbin.job import CleanPhoto, ModelAnswer
from growbin.ports import BudgetSpent
from growbin.telemetry import metrics
from growbin.usage import Usage

log = structlog.get_logger()


async def ask_model(attempt: Attempt, photo: CleanPhoto) -> ModelAnswer:
    """One paid call, its answer stored before anything else is done with it."""
    called: tuple[ModelAnswer, str] | None = None
    while called is None:
        called = await attempt.outlasting(lambda: _call_model(attempt, photo))
    answer, call_id = called
    _write_down(answer.usage, answer.model)
    await attempt.patiently(lambda: attempt.consumer.calls.keep_answer(attempt.job, answer, call_id))
    return answer


async def _call_model(attempt: Attempt, photo: CleanPhoto) -> tuple[ModelAnswer, str] | None:
    """The call, recorded before it is made, and its id; None when the model asked for patience."""
    consumer, job, number, call_id = attempt.consumer, attempt.job, attempt.number, secrets.token_hex(8)
    calls = consumer.calls
    async with consumer.throttle.turn() as turn:
        found = await attempt.patiently(lambda: calls.count_paid_call(job, number, call_id))
        if isinstance(found, BudgetSpent):
            metrics.budget_refusals.labels(scope=found.scope).inc()
            raise JobFailed("budget_exhausted", f"the budget of {found.scope}", opens_at_ms=found.opens_at_ms)
        if found == "refused":
            raise JobFailed("temporarily_unavailable", "paid calls used up")
        try:
            with metrics.model_call_seconds.time():
                return await consumer.analyst.ask(photo, job.question, job.locale), call_id
        except Throttled as error:  # nothing was paid
            refusal = error
            await attempt.patiently(lambda: calls.uncount_paid_call(job, number, call_id))
            if refusal.is_congestion:
                consumer.throttle.slow_down(refusal, turn)
                return None
        except JobFailed as failed:
            if not failed.was_paid:
                await attempt.patiently(lambda: calls.uncount_paid_call(job, number, call_id))
            else:
                await _settle(attempt, call_id, failed.usage)
            raise
        except Unavailable:  # perhaps paid
            await _settle(attempt, call_id, None)
            raise
    if not refusal.doubtful:
        raise Unavailable("model", refusal.reason)
    if not await consumer.breakers.wait_if_away("model"):
        raise JobFailed("model_refused", refusal.reason)  # the probe was not refused: it is this photo
    return None


async def _settle(attempt: Attempt, call_id: str, usage: Usage | None) -> None:
    if usage:
        _write_down(usage)
    cost_usd = usage.cost_usd if usage else None
    await attempt.patiently(lambda: attempt.consumer.calls.settle_paid_call(attempt.job, call_id, cost_usd))


def _write_down(usage: Usage, model: str | None = None) -> None:
    """The books: one line for each answer that was paid for, so that their sum is the provider's bill."""
    log.info("model_call_paid", model=model, **usage.model_dump())
