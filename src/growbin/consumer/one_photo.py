"""One photo without a job: the steps of the story, with nobody to tell and nothing to keep."""

from __future__ import annotations

import time
from collections.abc import Callable

from growbin.analysis import parse_answer
from growbin.certainty import Thresholds
from growbin.errors import JobFailed, Throttled
from growbin.job import Locale, ModelAnswer
from growbin.measurements import PhotoAnswer, since_ms
from growbin.ports import Analyst, PhotoCleaner
from growbin.rules.advice import advise_all
from growbin.rules.rulebook import Rulebook


async def analyse_photo(
    data: bytes,
    *,
    cleaner: PhotoCleaner,
    analyst: Analyst,
    rules: Rulebook,
    locale: Locale,
    thresholds_of: Callable[[str], Thresholds],
) -> PhotoAnswer:
    """Clean, ask, parse, advise, as `handle_job` does; a photo that fails is an answer as well.

    Raises Unavailable and Throttled: then the photo has no answer yet.
    """
    began = time.perf_counter()
    answer: ModelAnswer | None = None
    try:
        clean = await cleaner.clean(data, "image/jpeg")
        answer = await analyst.ask(clean, None, locale)
        advised = advise_all(rules, parse_answer(answer), locale, thresholds_of(answer.model))
    except JobFailed as failed:
        return PhotoAnswer(round(since_ms(began)), answer=answer, failure=failed.code)
    except Throttled as refusal:
        if not refusal.doubtful:
            raise
        return PhotoAnswer(round(since_ms(began)), failure="model_refused")
    return PhotoAnswer(round(since_ms(began)), advised.items[0], advised.is_sure, answer)
