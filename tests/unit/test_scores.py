"""The figures of an evaluation, against published values and by what must hold for all."""

from __future__ import annotations

from math import comb, isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from growbin.scores import (
    Comparison,
    Share,
    calibration_error,
    compare,
    confidence_bins,
    confusion,
)

ANSWERS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1)
COUNTS = st.integers(0, 400)


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_interval_of_a_share_is_the_published_one(hits: int, total: int, low: float, high: float) -> None:
    """Newcombe's four examples, to the four digits that he gives."""
    found = Share(hits, total).interval
    assert found is not None
    assert [round(end, 4) for end in found] == [low, high]


@given(COUNTS, COUNTS)
def test_any_share_lies_in_its_interval_and_mirrors_its_opposite(hits: int, misses: int) -> None:
    """Within 0 and 1, around the share, and that of the misses seen from the other end."""
    share, opposite = Share(hits, hits + misses), Share(misses, hits + misses)
    if share.value is None or share.interval is None or opposite.interval is None:
        assert hits == misses == 0
        return
    low, high = share.interval
    assert 0 <= low <= share.value <= high <= 1
    assert isclose(low, 1 - opposite.interval[1], abs_tol=1e-9)


def test_calibration_error_weighs_each_bin_by_its_answers() -> None:
    """Three answers at 0.9 of which two are right, one at 0.1 that is wrong."""
    bins = confidence_bins([(0.9, True), (0.9, True), (0.9, False), (0.1, False)])
    assert calibration_error(bins) == pytest.approx(0.75 * (0.9 - 2 / 3) + 0.25 * 0.1)


def test_no_answers_have_no_calibration_error() -> None:
    """Without an answer there is nothing to be wrong about."""
    assert calibration_error(confidence_bins([])) is None


@given(ANSWERS)
def test_any_answers_fall_into_one_bin_each(answers: list[tuple[float, bool]]) -> None:
    """None is lost, not even at the confidence 1, and the error is a share."""
    bins = confidence_bins(answers)
    assert sum(one.right.total for one in bins) == len(answers)
    assert sum(one.right.hits for one in bins) == sum(is_right for _, is_right in answers)
    assert all(one.low - 1e-9 <= one.mean_confidence <= one.high + 1e-9 for one in bins)
    error = calibration_error(bins)
    assert error is not None
    assert 0 <= error <= 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"))))
def test_any_confusion_counts_each_pair_where_it_belongs(pairs: list[tuple[str, str]]) -> None:
    """Each cell holds how often its label got its answer."""
    matrix = confusion(pairs)
    for label, counts in zip(matrix.labels, matrix.counts, strict=True):
        for answer, count in zip(matrix.answers, counts, strict=True):
            assert count == pairs.count((label, answer))
    assert sum(map(sum, matrix.counts)) == len(pairs)


@pytest.mark.parametrize(
    ("first", "second", "p_value"),
    [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 2 / 2**5), (1, 9, 2 * 11 / 2**10), (6, 16, 0.052479)],
)
def test_comparison_has_the_exact_p_value(first: int, second: int, p_value: float) -> None:
    """By hand for few discordant photos; 6 against 16 is the binomial test's 0.05248."""
    assert Comparison(10, first, second, 3).p_value == pytest.approx(p_value, abs=1e-6)


@given(COUNTS, COUNTS)
def test_any_comparison_is_the_same_from_both_sides(first: int, second: int) -> None:
    """p is a probability, takes no side, and is at least that of the very outcome."""
    p_value = Comparison(0, first, second, 0).p_value
    assert p_value == Comparison(0, second, first, 0).p_value
    assert comb(first + second, first) / 2 ** (first + second) <= p_value * (1 + 1e-9) <= 1 + 1e-9


def test_pairs_are_compared_photo_by_photo() -> None:
    """Only those on which the two differ are discordant."""
    pairs = [(True, True), (True, False), (True, False), (False, True), (False, False)]
    assert compare(pairs) == Comparison(1, 2, 1, 1)
