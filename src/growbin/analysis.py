"""From the model's raw answer to the analysis. The answer is a stranger's text: nothing of it is
believed beyond its shape, and what it says about bins is never read."""

import json
import math
import re
import unicodedata
from typing import Any, get_args

from pydantic import ValidationError

from growbin.errors import JobFailed
from growbin.job import MOST_CHOICES, Analysis, DoubtReason, ModelAnswer, Sorting

LONGEST_TEXT = 20_000  # characters; an honest answer has a tenth of it
LONGEST_REPLY = 600  # characters of `answer`, as the noun allows

# The prompt asks for plain sentences; what a page could take for markup or a link is taken out.
_MARKUP = re.compile(r"<[^<>]*>|[<>]|\b(?:https?://|www\.)\S+", re.IGNORECASE)


def parse_answer(answer: ModelAnswer) -> Analysis:
    """The findings, most confident first (there may be none), in plain one-line texts.

    Raises JobFailed(model_answer_invalid).
    """
    if len(answer.text) > LONGEST_TEXT:
        raise JobFailed("model_answer_invalid", f"{len(answer.text)} characters")
    try:
        said = _plain(json.loads(answer.text, parse_constant=_refuse_constant))
        if isinstance(said, dict):
            said |= _beside_the_findings(said)
        analysis = Analysis.model_validate_json(json.dumps(said), strict=True)
    except (ValueError, RecursionError) as error:  # pydantic's and json's errors are ValueErrors
        raise JobFailed("model_answer_invalid", type(error).__name__) from error
    items = [
        item.model_copy(update={"condition": list(dict.fromkeys(item.condition))}) for item in analysis.items
    ]
    items.sort(key=lambda item: item.confidence, reverse=True)
    return analysis.model_copy(update={"items": items})


def is_analysis(answer: ModelAnswer) -> bool:
    try:
        parse_answer(answer)
    except JobFailed:
        return False
    return True


def _beside_the_findings(said: dict[str, Any]) -> dict[str, Any]:
    """What does not fit there is left out: it costs no paid answer."""
    reply, doubt, choices = (said.get(name) for name in ("answer", "doubt", "choices"))
    return {
        "answer": reply[:LONGEST_REPLY] or None if isinstance(reply, str) else reply,
        "doubt": doubt if doubt in get_args(DoubtReason) else None,
        "choices": list(filter(_is_sorting, choices))[:MOST_CHOICES] if isinstance(choices, list) else [],
    }


def _is_sorting(choice: object) -> bool:
    try:
        Sorting.model_validate(choice)
    except ValidationError:
        return False
    return True


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _plain(value: Any) -> Any:
    """The same value, its texts without control characters, markup, links and line breaks."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return _plain_text(value)
    if isinstance(value, float) and not math.isfinite(value):  # 1e999 is read as infinity
        raise ValueError("not a finite number")
    return value


def _plain_text(text: str) -> str:
    one_line = " ".join(text.split())
    visible = "".join(mark for mark in one_line if not unicodedata.category(mark).startswith("C"))
    return " ".join(_MARKUP.sub(" ", visible).split())
