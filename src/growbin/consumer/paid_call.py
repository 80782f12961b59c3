"""The paid call: wait for a turn, count it, make it, keep its answer."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from functools import partial
from typing import Literal

import structlog

from growbin.analysis import is_analysis
from growbin.consumer.attempt import Attempt
from growbin.errors import GrowbinError, JobFailed, Throttled, Unavailable
from growbin.job import CleanPhoto, ModelAnswer, Stage
from growbin.ports import BudgetSpent, Counting
from growbin.telemetry import metrics
from growbin.usage import Usage

log = structlog.get_logger()

AWAITED_PAUSE_SECONDS = 0.3

Called = tuple[ModelAnswer, str | None]  # with the id of the paid call; None: its owner was given it before


async def ask_model(attempt: Attempt, photo: CleanPhoto) -> ModelAnswer:
    """One paid call, its answer stored before anything else is done with it. Where no call may be made, or
    the model is away for longer than a person should wait, the fallback's answer if there is one."""
    gives_up_at = attempt.gives_up_waiting_at()
    patience = asyncio.timeout_at(gives_up_at)
    try:
        async with patience:
            return await _ask_model(attempt, photo, patience)
    except TimeoutError:
        if not patience.expired():
            raise
        return await _fall_back(attempt, photo, Unavailable("model", "away for too long"))
    except JobFailed as failed:
        if failed.code not in ("budget_exhausted", "temporarily_unavailable"):
            raise
        return await _fall_back(attempt, photo, failed)
    except Unavailable as error:
        if error.part != "model" or gives_up_at is None or asyncio.get_running_loop().time() < gives_up_at:
            raise
        return await _fall_back(attempt, photo, error)


async def _ask_model(attempt: Attempt, photo: CleanPhoto, patience: asyncio.Timeout) -> ModelAnswer:
    """`patience` is for waiting: a call that was begun is waited for."""
    gives_up_at, breakers = patience.when(), attempt.consumer.breakers
    if "model" in breakers.open_parts or not attempt.consumer.throttle.is_free:
        await attempt.announce(Stage.ANALYSING)  # else with the count of the call, which comes at once

    async def call() -> Called | None:
        patience.reschedule(gives_up_at)
        if gives_up_at is not None:  # else jobs are not begun while the model is away
            await breakers.back("model")
        try:
            called = await _call_model(attempt, photo, patience)
        except Unavailable:
            patience.reschedule(gives_up_at)
            raise
        if called == "awaited":
            patience.reschedule(gives_up_at)
            await breakers.pause(AWAITED_PAUSE_SECONDS)
            return None
        return called

    called = None
    while called is None:
        called = await attempt.outlasting(call)
    answer, call_id = called
    if call_id is None:
        return answer.model_copy(update={"answered_by": "kept"})
    _write_down(answer.usage, answer.model)
    keeping = partial(attempt.consumer.calls.keep_answer, attempt.job, attempt.number, answer, call_id)
    attempt.has_told(Stage.ADVISING, await attempt.patiently(keeping))
    return answer


async def _fall_back(attempt: Attempt, photo: CleanPhoto, why: JobFailed | Unavailable) -> ModelAnswer:
    """Its answer is not kept: it cost nothing, and should the job be driven again the model may answer.
    Raises `why` where there is no fallback, or it fails as well."""
    fallback, job = attempt.consumer.fallback, attempt.job
    if fallback is None:
        raise why
    try:
        answer = await fallback.ask(photo, job.question, job.locale)
    except GrowbinError as error:
        log.error("fallback_failed", reason=str(error))
        raise why from error
    log.info("fallback_answered", reason=str(why))
    return answer.model_copy(update={"answered_by": "fallback"})


async def _call_model(
    attempt: Attempt, photo: CleanPhoto, patience: asyncio.Timeout
) -> Called | Literal["awaited"] | None:
    """The call, recorded before it is made; None when the model asked for patience."""
    consumer, job, number, call_id = attempt.consumer, attempt.job, attempt.number, secrets.token_hex(8)
    calls, same = consumer.calls, _same(attempt, photo)
    async with consumer.throttle.turn() as turn:
        patience.reschedule(None)
        found = await attempt.patiently(lambda: calls.count_paid_call(job, number, call_id, same))
        if found != "refused":
            attempt.has_told(Stage.ANALYSING, "ours")
        if isinstance(found, ModelAnswer):
            if is_analysis(found):
                return found, None
            found = await attempt.patiently(
                lambda: calls.count_paid_call(job, number, call_id, same, is_fresh=True)
            )
        if found == "awaited":
            return "awaited"
        _go_on_if_counted(found)
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


def _same(attempt: Attempt, photo: CleanPhoto) -> str | None:
    """The digest of all that an answer depends on; None where none is shared."""
    job, depends_on = attempt.job, attempt.consumer.answers_depend_on
    if depends_on is None:
        return None
    picture = hashlib.sha256(photo.data).hexdigest()
    told = json.dumps([picture, job.question, job.locale, depends_on])
    return hashlib.sha256(told.encode()).hexdigest()


def _go_on_if_counted(found: Counting) -> None:
    if isinstance(found, BudgetSpent):
        metrics.budget_refusals.labels(scope=found.scope).inc()
        raise JobFailed("budget_exhausted", f"the budget of {found.scope}", opens_at_ms=found.opens_at_ms)
    if found != "counted":
        raise JobFailed("temporarily_unavailable", "paid calls used up")


async def _settle(attempt: Attempt, call_id: str, usage: Usage | None) -> None:
    if usage:
        _write_down(usage)
    cost_usd = usage.cost_usd if usage else None
    await attempt.patiently(lambda: attempt.consumer.calls.settle_paid_call(attempt.job, call_id, cost_usd))


def _write_down(usage: Usage, model: str | None = None) -> None:
    """The books: one line for each answer that was paid for, so that their sum is the provider's bill."""
    log.info("model_call_paid", model=model, **usage.model_dump())
