"""How sure an answer is, in three words, and why it is not sure. Pure."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from growbin.job import Analysis, Certainty, DoubtReason, Finding, Noun
from growbin.taxonomy import Category, Condition


class Thresholds(Noun, extra="forbid"):
    """The confidence from which an answer is `sure`, and from which it is `probable`: each model means
    something else by its numbers."""

    sure: float = Field(ge=0, le=1)
    probable: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.probable > self.sure:
            raise ValueError("`probable` is above `sure`")
        return self


def certainty_of(analysis: Analysis, thresholds: Thresholds) -> Certainty:
    """By the most confident item; unsure whatever its confidence when the model doubts or something in the
    photo is not identified."""
    confidence = max((item.confidence for item in analysis.items), default=0)
    is_open = not analysis.items or analysis.doubt is not None or any(map(_is_unidentified, analysis.items))
    if is_open or confidence < thresholds.probable:
        return "unsure"
    return "sure" if confidence >= thresholds.sure else "probable"


def doubt_of(analysis: Analysis) -> DoubtReason:
    """Why an answer is not sure: what the model says, else what its findings show."""
    if analysis.doubt is not None:
        return analysis.doubt
    is_heap = any(Condition.SEVERAL_ITEMS in item.condition for item in analysis.items)
    return "several" if is_heap or len(analysis.items) > 1 else "unknown"


def _is_unidentified(finding: Finding) -> bool:
    return finding.category is Category.UNCLASSIFIED or Condition.NOT_IDENTIFIABLE in finding.condition
