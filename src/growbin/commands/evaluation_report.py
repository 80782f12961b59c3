"""How an analyst did, for people and for machines."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from growbin.commands.evaluation_results import PhotoResult
from growbin.commands.terminal_text import clean, cut, padded, width
from growbin.scores import (
    Comparison,
    ConfidenceBin,
    Confusion,
    Share,
    calibration_error,
    confidence_bins,
    confusion,
    share_of,
)

LABEL_COLUMNS = 24
ANSWER_COLUMNS = 12


@dataclass(frozen=True)
class Group:
    """Some of the results, in numbers. A failure counts as wrong, and as not sure."""

    results: Sequence[PhotoResult]

    @property
    def accuracy(self) -> Share:
        return share_of(result.is_right for result in self.results)

    @property
    def sure(self) -> Share:
        return share_of(result.sure for result in self.results)

    @property
    def right_when_sure(self) -> Share:
        return share_of(result.is_right for result in self.results if result.sure)

    def as_json(self) -> dict[str, Any]:
        shares = {
            "accuracy": self.accuracy,
            "share_sure": self.sure,
            "right_when_sure": self.right_when_sure,
        }
        return {
            "photos": len(self.results),
            "right": self.accuracy.hits,
            "sure": self.sure.hits,
            "failed": sum(result.error is not None for result in self.results),
            **{name: share.value for name, share in shares.items()},
            **{f"{name}_interval": share.interval for name, share in shares.items()},
        }


@dataclass(frozen=True)
class Report(Group):
    """All of the results, by one model; `comparison` is with those of `other_model`."""

    model: str
    other_model: str = ""
    comparison: Comparison | None = None

    @property
    def classes(self) -> dict[str, Group]:
        """By label."""
        return _grouped((result.label, result) for result in self.results)

    @property
    def collections(self) -> dict[str, Group]:
        return _grouped((result.collection, result) for result in self.results if result.collection)

    @property
    def bins(self) -> list[ConfidenceBin]:
        told = [(r.confidence, r.is_right) for r in self.results if r.confidence is not None]
        return confidence_bins(told)

    @property
    def matrix(self) -> Confusion:
        return confusion((result.label, result.said) for result in self.results)

    @property
    def failures(self) -> dict[str, int]:
        return dict(sorted(Counter(result.error for result in self.results if result.error).items()))

    @property
    def cost_usd(self) -> float | None:
        """None unless every answer tells."""
        costs = [result.cost_usd for result in self.results]
        return math.fsum(cost for cost in costs if cost is not None) if None not in costs else None

    @property
    def times_ms(self) -> dict[str, float]:
        """Of the photos that have an answer."""
        spent = sorted(result.ms for result in self.results if result.error is None)
        if not spent:
            return {}
        return {"mean": fmean(spent), "median": median(spent), "p95": spent[math.ceil(0.95 * len(spent)) - 1]}

    def as_json(self) -> dict[str, Any]:
        objects = {(result.collection, result.object) for result in self.results if result.object}
        return {
            "model": self.model,
            **super().as_json(),
            "calibration_error": calibration_error(self.bins),
            "calibration": [
                {
                    "from": one.low,
                    "to": one.high,
                    "photos": one.right.total,
                    "mean_confidence": one.mean_confidence,
                    "accuracy": one.right.value,
                }
                for one in self.bins
            ],
            "per_class": {label: group.as_json() for label, group in self.classes.items()},
            "per_collection": {name: group.as_json() for name, group in self.collections.items()},
            "objects": len(objects) or None,
            "confusion": asdict(self.matrix),
            "failures": self.failures,
            "tokens": {"input": self._tokens[0], "output": self._tokens[1]},
            "cost_usd": self.cost_usd,
            "ms": self.times_ms or None,
            "comparison": self._compared(),
        }

    @property
    def _tokens(self) -> tuple[int, int]:
        return (
            sum(result.input_tokens for result in self.results),
            sum(result.output_tokens for result in self.results),
        )

    def _compared(self) -> dict[str, Any] | None:
        if self.comparison is None:
            return None
        counts = {"photos": self.comparison.total, **asdict(self.comparison)}
        return {"other_model": self.other_model, **counts, "p_value": self.comparison.p_value}

    # --- for people

    def table(self) -> str:
        """The figures, then a row for each class, then what was taken for what."""
        parts = [_columns(self._figures()), _columns(self._class_rows()), _columns(self._matrix_rows())]
        return "\n\n".join([f"{clean(self.model)}, {len(self.results)} photos", *parts]) + "\n"

    def _figures(self) -> list[tuple[str, ...]]:
        error = calibration_error(self.bins)
        times = "  ".join(f"{name} {spent:.0f} ms" for name, spent in self.times_ms.items())
        cost = "unknown" if self.cost_usd is None else f"{self.cost_usd:.4f} USD"
        failures = ", ".join(f"{code} {count}" for code, count in self.failures.items())
        rows: list[tuple[str, ...]] = [
            ("right", *_shown(self.accuracy)),
            ("right when sure", *_shown(self.right_when_sure)),
            ("sure", *_shown(self.sure)),
            ("calibration error", "-" if error is None else f"{error:.1%}", "", "expected, in ten bins"),
            ("tokens", "", "", f"{self._tokens[0]} in, {self._tokens[1]} out; cost {cost}"),
            ("time a photo", "", "", times or "-"),
            ("failed", f"{sum(self.failures.values())}", "", failures),
        ]
        if self.comparison:
            both = self.comparison
            told = f"only this one right {both.only_first_right}, only the other {both.only_second_right}"
            told += f", of {both.total} photos (McNemar, exact)"
            rows.append((f"against {clean(self.other_model)}", f"p {both.p_value:.3g}", "", told))
        return [("", "", "95 %", ""), *rows]

    def _class_rows(self) -> list[tuple[str, ...]]:
        groups = self.classes | (self.collections if len(self.collections) > 1 else {})
        rows = [
            (cut(clean(name), LABEL_COLUMNS), *_shown(group.accuracy), *_shown(group.right_when_sure)[::2])
            for name, group in groups.items()
        ]
        return [("LABEL", "RIGHT", "95 %", "", "WHEN SURE", ""), *rows]

    def _matrix_rows(self) -> list[tuple[str, ...]]:
        matrix = self.matrix
        heads = ("SAID ▸", *(cut(answer, ANSWER_COLUMNS) for answer in matrix.answers))
        rows = [
            (cut(clean(label), LABEL_COLUMNS), *(str(count or "·") for count in counts))
            for label, counts in zip(matrix.labels, matrix.counts, strict=True)
        ]
        return [heads, *rows]


def _grouped(named: Iterable[tuple[str | None, PhotoResult]]) -> dict[str, Group]:
    found: dict[str, list[PhotoResult]] = {}
    for name, result in named:
        found.setdefault(str(name), []).append(result)
    return {name: Group(results) for name, results in sorted(found.items())}


def _shown(share: Share) -> tuple[str, str, str]:
    """The share, its interval, and what it is a share of."""
    if share.value is None or share.interval is None:
        return "-", "", "0 of 0"
    low, high = share.interval
    return f"{share.value:.1%}", f"{low:.1%} – {high:.1%}", f"{share.hits} of {share.total}"


def _columns(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(padded(cell, columns) for cell, columns in zip(row, widths, strict=True)) for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
