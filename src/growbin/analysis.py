"""From the model's raw answer to the analysis. The answer is a stranger's text: nothing of it is
believed beyond its shape, and what it says about bins is never read.

It was paid for, so what is harmless is forgiven (a fence around it, percent for a share, a word too many),
each time in the direction of less: dropped, cut, null, less sure. What is left is then held to the schema.
"""

import json
import math
import re
import unicodedata
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import to_json

from growbin.errors import JobFailed
from growbin.job import (
    LONGEST_NAME,
    LONGEST_REPLY,
    MOST_CHOICES,
    MOST_ITEMS,
    Analysis,
    DoubtReason,
    ModelAnswer,
    Sorting,
)
from growbin.taxonomy import Category, Condition, Material

LONGEST_TEXT = 20_000  # characters; an honest answer has a tenth of it
UNTOLD_CONFIDENCE = 0.3  # the prompt calls what lies below a guess: shown, and asked back about
_CATEGORIES, _MATERIALS, _CONDITIONS = frozenset(Category), frozenset(Material), frozenset(Condition)
MOST_BEGINNINGS = 100  # of objects in a text; each one that comes to nothing costs time

# The prompt asks for plain sentences; what a page could take for markup or a link is taken out.
_MARKUP = re.compile(r"<[^<>]*>|[<>]|\b(?:https?://|www\.)\S+", re.IGNORECASE)
_THOUGHT = re.compile(r"<(/?)(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_BEGINNING = re.compile(r'\{\s*"')


def parse_answer(answer: ModelAnswer) -> Analysis:
    """The findings, most confident first (there may be none), in plain one-line texts.

    Raises JobFailed(model_answer_invalid).
    """
    if len(answer.text) > LONGEST_TEXT:
        raise JobFailed("model_answer_invalid", f"{len(answer.text)} characters")
    # Of several the last that fits: a model drafts, quotes or corrects itself, and ends with its answer.
    found = list(_analyses(spoken(answer.text)))
    if not found:
        raise JobFailed("model_answer_invalid", "no analysis in it")
    items = [
        item.model_copy(update={"condition": list(dict.fromkeys(item.condition))}) for item in found[-1].items
    ]
    items.sort(key=lambda item: item.confidence, reverse=True)
    return found[-1].model_copy(update={"items": items})


def is_analysis(answer: ModelAnswer) -> bool:
    try:
        parse_answer(answer)
    except JobFailed:
        return False
    return True


def holds_answer(text: str) -> bool:
    return next(_analyses(text), None) is not None


def spoken(text: str) -> str:
    """The text without the thinking before it: `<think>...</think>`, of which some servers keep back the
    first half. A thought without an end has no answer behind it."""
    text = text.strip()
    if text.startswith("{"):  # an answer may hold any word
        return text
    marks = list(_THOUGHT.finditer(text))
    if not marks:
        return text
    return "" if not marks[-1][1] and text.startswith("<") else text[marks[-1].end() :].strip()


# --- the object in the text -------------------------------------------------------------------------


def _analyses(text: str) -> Iterator[Analysis]:
    for said in _objects(text):
        if isinstance(said.get("items"), list):
            try:
                plain = _forgiven(_plain(said))
                yield Analysis.model_validate_json(to_json(plain), strict=True)
            except (ValueError, RecursionError):  # pydantic's and json's errors are ValueErrors
                continue


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Each JSON object that stands in the text and in no other, whatever is around it."""
    # No number of an analysis is whole; as a float, one of 5,000 digits is only infinite.
    decoder = json.JSONDecoder(parse_int=float, parse_constant=lambda _: None, strict=False)
    at, tried = 0, 0
    while (begin := _BEGINNING.search(text, at)) and tried < MOST_BEGINNINGS:
        try:
            said, at = decoder.raw_decode(text, begin.start())
        except (ValueError, RecursionError):
            at, tried = begin.start() + 1, tried + 1
        else:
            yield said


# --- forgiving --------------------------------------------------------------------------------------


def _forgiven(said: dict[str, Any]) -> dict[str, Any]:
    """As the schema wants it. Items stay as far as one can tell from them where the thing goes; a list of
    items that none is left of does not fit, for it says more than that nothing was seen."""
    items = [item for item in map(_item, said["items"]) if item]
    if said["items"] and not items:
        raise ValueError("no item is one")
    reply, doubt, choices = (said.get(name) for name in ("answer", "doubt", "choices"))
    return {
        "items": items[:MOST_ITEMS],  # the most prominent stand first
        "answer": reply[:LONGEST_REPLY].strip() or None if isinstance(reply, str) else None,
        "doubt": doubt if doubt in get_args(DoubtReason) else None,
        "choices": list(filter(_is_sorting, choices))[:MOST_CHOICES] if isinstance(choices, list) else [],
    }


def _item(said: object) -> dict[str, Any] | None:
    if not isinstance(said, dict):
        return None
    name, category = said.get("name"), _word(said.get("category"))
    if not isinstance(name, str) or not name or category not in _CATEGORIES:
        return None
    material, conditions = _word(said.get("material")), said.get("condition")
    words = map(_word, conditions if isinstance(conditions, list) else [conditions])
    return {
        "name": name[:LONGEST_NAME].strip(),
        "category": category,
        "material": material if material in _MATERIALS else None,
        "confidence": _share(said.get("confidence")),
        "condition": [word for word in words if word in _CONDITIONS],
    }


def _word(said: object) -> str:
    """An id as we write it: `Non-combustible` is non_combustible."""
    return re.sub(r"[\s-]+", "_", said.strip().lower()) if isinstance(said, str) else ""


def _share(said: object) -> float:
    """From 0 to 1. What is above is percent, or just above; what is no number is untold."""
    if isinstance(said, str):
        try:
            said = float(said.removesuffix("%"))
        except ValueError:
            return UNTOLD_CONFIDENCE
    if isinstance(said, bool) or not isinstance(said, int | float) or not math.isfinite(said):
        return UNTOLD_CONFIDENCE
    return min(1.0, max(0.0, said / 100 if said >= 2 else said))


def _is_sorting(choice: object) -> bool:
    try:
        Sorting.model_validate(choice)
    except ValidationError:
        return False
    return True


# --- plain texts ------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """The same value, its texts without control characters, markup, links and line breaks."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return _plain_text(value) if isinstance(value, str) else value


def _plain_text(text: str) -> str:
    one_line = " ".join(text.split())
    if not one_line.isprintable():
        one_line = "".join(mark for mark in one_line if not unicodedata.category(mark).startswith("C"))
    return " ".join(_MARKUP.sub(" ", one_line).split())
