"""The paid call: wait for a turn, count it, make it, keep its answer."""

from __future__ import annotations

import secrets

from growbin.consumer.attempt import Attempt
from growbin.errors import JobFailed, Throttled
from growbin.job import CleanPhoto, ModelAnswer
from growbin.telemetry import metrics


async def ask_model(attempt: Attempt, photo: CleanPhoto) -> ModelAnswer:
    """One paid call, its answer stored before anything else is done with it."""
    answer: ModelAnswer | None = None
    while answer is None:
        async with attempt.consumer.throttle.turn():
            answer = await _call_model(attempt, photo)
    kept = answer
    await attempt.patiently(lambda: attempt.consumer.progress.keep_answer(attempt.job, kept))
    return kept


async def _call_model(attempt: Attempt, photo: CleanPhoto) -> ModelAnswer | None:
    """The call, recorded before it is made; None when the model asked for patience."""
    consumer, job, number, call_id = attempt.consumer, attempt.job, attempt.number, secrets.token_hex(8)
    if not await attempt.patiently(lambda: consumer.progress.count_paid_call(job, number, call_id)):
        raise JobFailed("temporarily_unavailable", "paid calls used up")
    try:
        with metrics.model_call_seconds.time():
            answer = await consumer.analyst.ask(photo, job.question, job.locale)
    except Throttled as refusal:
        # Nothing was paid and no attempt is burned: everybody slows down, and we ask again.
        if not refusal.doubtful:
            consumer.throttle.slow_down(refusal)
        await attempt.patiently(lambda: consumer.progress.count_paid_call(job, number, call_id, change=-1))
        if refusal.doubtful:  # taken to be about this photo: one that is refused must not stop the others
            raise JobFailed("model_refused", refusal.reason) from None
        return None
    consumer.throttle.speed_up()
    return answer
