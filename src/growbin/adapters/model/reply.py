"""What came back with a 2xx: it was paid for, so whatever can be read of it is used, in whatever shape a
compatible server sends it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from growbin.adapters.model.bounded_client import MOST_BODY_BYTES
from growbin.analysis import LONGEST_TEXT, holds_answer, spoken
from growbin.errors import JobFailed
from growbin.job import ModelAnswer
from growbin.telemetry import metrics
from growbin.usage import Price, PriceList, Usage

LONGEST_MODEL_NAME = 100
MOST_TOKENS = 10_000_000  # of one call; a bill beyond is a mistake


def read_reply(
    body: bytes, *, configured: str, prices: PriceList, most_tokens: int, analyse_ms: int
) -> ModelAnswer:
    """The answer, its text unparsed. Its tokens are counted whatever becomes of it.

    Raises JobFailed(model_refused | model_answer_invalid), with what was used all the same.
    """
    if len(body) > MOST_BODY_BYTES:
        raise JobFailed("model_answer_invalid", "more than 1 MB")
    completion = _object(_json(body))
    answered = _model_name(completion.get("model"))
    usage = _priced(_usage(_object(completion.get("usage"))), prices.of(answered, configured))
    try:
        text = _text_of(completion, most_tokens)
    except JobFailed as failed:
        failed.usage = usage
        raise
    return ModelAnswer(
        text=text,
        model=answered or _model_name(configured) or "unknown",
        usage=usage,
        analyse_ms=analyse_ms,
    )


def _text_of(completion: Mapping[str, Any], most_tokens: int) -> str:
    choice = _object(_first(completion.get("choices")))
    message = _object(choice.get("message"))
    finish = choice.get("finish_reason")
    # Of what a server says, nothing stands in a reason: it may quote the key.
    if finish == "content_filter":
        raise JobFailed("model_refused", "content_filter")
    if _text(message.get("refusal")):
        raise JobFailed("model_refused", "the model says no")
    if not choice:
        raise JobFailed("model_answer_invalid", "no completion")
    text = spoken(_text(message.get("content")))
    if finish == "length" and not holds_answer(text):
        raise JobFailed(
            "model_answer_invalid",
            f"cut at {most_tokens} tokens: raise OPENAI_MAX_TOKENS, or lower OPENAI_REASONING_EFFORT",
        )
    if not text:
        raise JobFailed("model_answer_invalid", "empty answer")
    if len(text) > LONGEST_TEXT:  # not worth keeping
        raise JobFailed("model_answer_invalid", "longer than believable")
    return text


def _json(body: bytes) -> object:
    try:
        # A number of 5,000 digits, a line break in a text or one bad byte are no reason to lose an answer.
        return json.loads(body.decode("utf-8-sig", errors="replace"), parse_int=float, strict=False)
    except (ValueError, RecursionError):
        return None


def _object(told: object) -> Mapping[str, Any]:
    return told if isinstance(told, dict) else {}


def _first(told: object) -> object:
    return told[0] if isinstance(told, list) and told else None


def _text(told: object) -> str:
    """A text, also one in parts, or the answer itself where its server has parsed it already."""
    if isinstance(told, list):
        return "".join(_text(_object(part).get("text")) for part in told)
    if isinstance(told, dict):
        return json.dumps(told)
    # JSON can smuggle half characters into a string that no encoder takes back.
    return told.encode(errors="replace").decode().strip() if isinstance(told, str) else ""


def _model_name(told: object) -> str:
    plain = re.sub(r"[^\w.:/@+ -]", "", told, flags=re.ASCII) if isinstance(told, str) else ""
    return plain.strip()[:LONGEST_MODEL_NAME]


def _usage(told: Mapping[str, Any]) -> Usage:
    """What could be read of the bill."""
    given = _tokens(told.get("prompt_tokens"), told.get("input_tokens"))
    written = _tokens(told.get("completion_tokens"), told.get("output_tokens"))
    if not written and given:  # Gemini leaves out what a short answer had, and tells the sum
        written = max(0, _tokens(told.get("total_tokens")) - given)
    of_input = _object(told.get("prompt_tokens_details") or told.get("input_tokens_details"))
    of_output = _object(told.get("completion_tokens_details") or told.get("output_tokens_details"))
    picture = of_input.get("image_tokens")
    return Usage(
        input_tokens=given,
        output_tokens=written,
        cached_tokens=min(given, _tokens(of_input.get("cached_tokens"))),
        reasoning_tokens=_tokens(of_output.get("reasoning_tokens")),
        picture_tokens=None if picture is None else _tokens(picture),
    )


def _priced(usage: Usage, price: Price | None) -> Usage:
    """With its dollars, where the model has a price; counted."""
    for kind, number in (
        ("input", usage.input_tokens),
        ("output", usage.output_tokens),
        ("cached", usage.cached_tokens),
        ("reasoning", usage.reasoning_tokens),
        ("picture", usage.picture_tokens or 0),
    ):
        metrics.model_tokens.labels(kind=kind).inc(number)
    if price is None or not usage.input_tokens + usage.output_tokens:  # it is not known, not free
        metrics.model_answers_unpriced.inc()
        return usage
    cost_usd = float(price.cost_usd(usage))
    metrics.model_cost_dollars.inc(cost_usd)
    return usage.model_copy(update={"cost_usd": cost_usd})


def _tokens(*told: object) -> int:
    """The first of these that is a number of tokens, in whatever type; 0 where none is."""
    for one in told:
        try:
            if one is not None and not isinstance(one, bool):
                return min(MOST_TOKENS, max(0, int(float(one))))  # type: ignore[arg-type]  # that is what is tried
        except (TypeError, ValueError, OverflowError):
            continue
    return 0
