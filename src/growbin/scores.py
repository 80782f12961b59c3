"""How good answers are, in numbers: shares with their intervals, calibration, a matrix of confusion, and
the comparison of two. All pure; nothing here knows what was asked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

CONFIDENCE_BINS = 10
_Z_95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Share:
    """`hits` of `total`."""

    hits: int
    total: int

    @property
    def value(self) -> float | None:
        """None when there is nothing to have a share of."""
        return self.hits / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % score interval (1927): honest for few photos and for shares near 0 and 1."""
        if not self.total:
            return None
        share, square = self.hits / self.total, _Z_95**2 / self.total
        middle = (share + square / 2) / (1 + square)
        half = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
        # Rounding must not keep the interval from the share itself.
        return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def share_of(hits: Iterable[bool]) -> Share:
    counted = list(hits)
    return Share(sum(counted), len(counted))


@dataclass(frozen=True, slots=True)
class ConfidenceBin:
    """The answers whose confidence is from `low` to below `high` (the last bin has 1 itself)."""

    low: float
    high: float
    right: Share
    mean_confidence: float

    @property
    def gap(self) -> float:
        """How far the confidence is from the share that is right."""
        return abs((self.right.value or 0.0) - self.mean_confidence)


def confidence_bins(answers: Sequence[tuple[float, bool]]) -> list[ConfidenceBin]:
    """(confidence, is right) of each answer in ten bins of one width; empty bins are left out."""
    found: dict[int, list[tuple[float, bool]]] = {}
    for confidence, is_right in answers:
        number = min(int(confidence * CONFIDENCE_BINS), CONFIDENCE_BINS - 1)
        found.setdefault(number, []).append((confidence, is_right))
    return [
        ConfidenceBin(
            low=number / CONFIDENCE_BINS,
            high=(number + 1) / CONFIDENCE_BINS,
            right=share_of(is_right for _, is_right in held),
            mean_confidence=math.fsum(confidence for confidence, _ in held) / len(held),
        )
        for number, held in sorted(found.items())
    ]


def calibration_error(bins: Sequence[ConfidenceBin]) -> float | None:
    """The expected calibration error: the bins' gaps, each as heavy as its answers."""
    total = sum(one.right.total for one in bins)
    return math.fsum(one.gap * one.right.total for one in bins) / total if total else None


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often each label (a row) got each answer (a column)."""

    labels: list[str]
    answers: list[str]
    counts: list[list[int]]


def confusion(pairs: Iterable[tuple[str, str]]) -> Confusion:
    """Of (label, answer)."""
    counted = Counter(pairs)
    labels = sorted({label for label, _ in counted})
    answers = sorted({answer for _, answer in counted})
    return Confusion(labels, answers, [[counted[label, answer] for answer in answers] for label in labels])


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two analysts on the same photos; only those on which one of them is right can tell them apart."""

    both_right: int
    only_first_right: int
    only_second_right: int
    neither_right: int

    @property
    def total(self) -> int:
        return self.both_right + self.only_first_right + self.only_second_right + self.neither_right

    @property
    def p_value(self) -> float:
        """McNemar's test, exact and two-sided: a fair coin on the discordant photos."""
        discordant = self.only_first_right + self.only_second_right
        fewer = min(self.only_first_right, self.only_second_right)
        as_far = 2 * sum(math.comb(discordant, hits) for hits in range(fewer + 1))
        return min(1.0, as_far / (1 << discordant))


def compare(pairs: Iterable[tuple[bool, bool]]) -> Comparison:
    """Of (the first is right, the second is right), photo by photo."""
    counted = Counter(pairs)
    return Comparison(
        both_right=counted[True, True],
        only_first_right=counted[True, False],
        only_second_right=counted[False, True],
        neither_right=counted[False, False],
    )
