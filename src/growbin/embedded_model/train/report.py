"""The figures of a training as a table, as JSON and as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy

from growbin.embedded_model.train.calibrate import Figures
from growbin.scores import Confusion, Share, confidence_bins

matplotlib.use("Agg")
from matplotlib import pyplot

MARKS = "os^vDPX*"


def table(figures: Mapping[str, Figures]) -> str:
    """Markdown, a row for each left-out collection."""
    headings = (
        "names alone",
        "head alone",
        "both",
        "both, of taught kinds",
        "sure",
        "right when sure",
        "of taught kinds",
    )
    rows = [
        f"| left out | photos | {' | '.join(headings)} | calibration error |",
        "|---" * (len(headings) + 3) + "|",
    ]
    for name, one in figures.items():
        shares = (one.names, one.head, one.joint, one.taught, one.sure_share, one.sure, one.sure_of_taught)
        told = " | ".join(map(_percent, shares))
        rows.append(f"| {name} | {one.photos} | {told} | {one.calibration_error:.1%} |")
    return "\n".join(rows)


def as_json(figures: Mapping[str, Figures]) -> dict[str, Any]:
    def share(one: Share) -> dict[str, Any]:
        return {"hits": one.hits, "total": one.total, "share": one.value, "interval": one.interval}

    return {
        name: {
            "photos": one.photos,
            "names": share(one.names),
            "head": share(one.head),
            "both": share(one.joint),
            "both_against_the_better": {
                "only_both_right": one.against_better.only_first_right,
                "only_the_better_right": one.against_better.only_second_right,
                "p_value": one.against_better.p_value,
            },
            "both_of_taught_kinds": share(one.taught),
            "sure": share(one.sure_share),
            "right_when_sure": share(one.sure),
            "right_when_sure_of_taught_kinds": share(one.sure_of_taught),
            "calibration_error": one.calibration_error,
            "calibration_error_of_taught_kinds": one.calibration_error_of_taught,
        }
        for name, one in figures.items()
    }


def draw(figures: Mapping[str, Figures], confused: Confusion, folder: Path) -> None:
    """`embedded-model-calibration.png`, `-coverage.png` and `-confusion.png`."""
    _draw_calibration(figures, folder / "embedded-model-calibration.png")
    _draw_coverage(figures, folder / "embedded-model-coverage.png")
    _draw_confusion(confused, folder / "embedded-model-confusion.png")


def _draw_calibration(figures: Mapping[str, Figures], path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(6, 5.5))
    axes.plot([0, 1], [0, 1], color="0.7", label="as it should be")
    for mark, (name, one) in zip(MARKS, figures.items(), strict=False):
        bins = [one_bin for one_bin in confidence_bins(one.answers) if one_bin.right.total >= 10]
        axes.plot(
            [one_bin.mean_confidence for one_bin in bins],
            [one_bin.right.value for one_bin in bins],
            marker=mark,
            label=f"{name} (error {one.calibration_error:.0%})",
        )
    axes.set(xlabel="certainty", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    axes.set_title("How certain, and how often right, by what was left out")
    _save(figure, axes, path)


def _draw_coverage(figures: Mapping[str, Figures], path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(6, 5.5))
    for name, one in figures.items():
        hits = numpy.array([hit for _, hit in sorted(one.answers, key=lambda answer: -answer[0])])
        answered = numpy.arange(1, len(hits) + 1)
        axes.plot(answered / len(hits), 1 - hits.cumsum() / answered, label=name)
    axes.set(xlabel="share of photos that are answered, the most certain first", ylabel="share that is wrong")
    axes.set(xlim=(0, 1), ylim=(0, 0.8))
    axes.set_title("Risk and coverage, by what was left out")
    _save(figure, axes, path)


def _draw_confusion(confused: Confusion, path: Path) -> None:
    counts = numpy.array(confused.counts)
    shares = counts / numpy.maximum(counts.sum(1, keepdims=True), 1)
    figure, axes = pyplot.subplots(figsize=(9, 6))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(confused.answers)), confused.answers, rotation=45, ha="right")
    axes.set_yticks(range(len(confused.labels)), confused.labels)
    for row, column in numpy.ndindex(counts.shape):
        if counts[row, column]:
            colour = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)
    axes.set(xlabel="answer", ylabel="label")
    axes.set_title("Packaging of every collection, each photo seen by a network trained without it")
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _save(figure: Any, axes: Any, path: Path) -> None:
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _percent(share: Share) -> str:
    if share.value is None or share.interval is None:
        return "–"
    low, high = share.interval
    return f"{share.value:.1%} [{low:.0%}, {high:.0%}]"
