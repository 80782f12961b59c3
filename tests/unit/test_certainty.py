"""How sure an answer is, and why it is not sure."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from growbin.certainty import Thresholds, certainty_of, doubt_of
from growbin.job import Analysis, Certainty, DoubtReason, Finding
from growbin.taxonomy import Category, Condition

THRESHOLDS = Thresholds(sure=0.8, probable=0.5)
DOUBTS: tuple[DoubtReason, ...] = get_args(DoubtReason)
WORDS: tuple[Certainty, ...] = ("unsure", "probable", "sure")


def found(
    confidence: float = 0.9, category: Category = Category.FOOD, condition: Condition | None = None
) -> Finding:
    return Finding(
        name="물건",
        category=category,
        material=None,
        confidence=confidence,
        condition=[condition] if condition else [],
    )


UNKNOWN = [found(1, Category.UNCLASSIFIED), found(1, condition=Condition.NOT_IDENTIFIABLE)]


@pytest.mark.parametrize(
    ("confidence", "certainty"),
    [
        (0, "unsure"),
        (0.4999, "unsure"),
        (0.5, "probable"),
        (0.7999, "probable"),
        (0.8, "sure"),
        (1, "sure"),
    ],
)
def test_confidence_at_a_threshold_has_reached_it(confidence: float, certainty: Certainty) -> None:
    """Sure from `sure` on, probable from `probable` on, below it unsure."""
    assert certainty_of(Analysis(items=[found(confidence)]), THRESHOLDS) == certainty


def test_best_item_decides_in_whatever_order_they_come() -> None:
    """A faint neighbour does not make a plain thing doubtful."""
    assert certainty_of(Analysis(items=[found(0.1), found(0.9)]), THRESHOLDS) == "sure"


@pytest.mark.parametrize("doubt", DOUBTS)
def test_doubt_of_any_kind_is_unsure_however_confident(doubt: DoubtReason) -> None:
    """The model itself says so."""
    assert certainty_of(Analysis(items=[found(1)], doubt=doubt), THRESHOLDS) == "unsure"


@pytest.mark.parametrize("unknown", UNKNOWN)
def test_something_unidentified_is_unsure_however_confident(unknown: Finding) -> None:
    """Alone or beside something plain: the answer leaves something open."""
    for items in ([unknown], [found(1), unknown]):
        assert certainty_of(Analysis(items=items), THRESHOLDS) == "unsure"


def test_nothing_seen_is_unsure_whatever_the_thresholds() -> None:
    """There is nothing to be sure of."""
    assert certainty_of(Analysis(items=[]), Thresholds(sure=0, probable=0)) == "unsure"


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_more_confidence_is_never_less_sure(one: float, other: float, low: float, high: float) -> None:
    """The words follow the confidence, for any thresholds."""
    thresholds = Thresholds(sure=max(low, high), probable=min(low, high))
    faint, clear = (
        WORDS.index(certainty_of(Analysis(items=[found(confidence)]), thresholds))
        for confidence in sorted((one, other))
    )
    assert faint <= clear


@pytest.mark.parametrize(
    "thresholds", [{"sure": 0.5, "probable": 0.6}, {"sure": 1.1, "probable": 0.5}, {"sure": 0.5}]
)
def test_thresholds_that_make_no_sense_are_refused(thresholds: dict[str, float]) -> None:
    """Probable comes before sure, and both are confidences."""
    with pytest.raises(ValidationError):
        Thresholds.model_validate(thresholds)


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([found(0.3)], "unknown"),
        ([], "unknown"),
        ([UNKNOWN[0]], "unknown"),
        ([UNKNOWN[1]], "unknown"),
        ([found(0.3), found(0.2)], "several"),
        ([found(0.9), UNKNOWN[0]], "several"),
        ([found(0.3, condition=Condition.SEVERAL_ITEMS)], "several"),
    ],
)
def test_reason_is_found_in_what_was_seen(items: list[Finding], reason: DoubtReason) -> None:
    """Several things, else something that cannot be told."""
    assert doubt_of(Analysis(items=items)) == reason


@pytest.mark.parametrize("doubt", DOUBTS)
def test_reason_that_the_model_gives_comes_first(doubt: DoubtReason) -> None:
    """It has seen the photo."""
    assert doubt_of(Analysis(items=[found(), found()], doubt=doubt)) == doubt
