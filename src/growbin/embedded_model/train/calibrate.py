"""What the two witnesses say together, and how sure that is: fitted to, and measured on, photos of
collections that the network had not been trained on. What is measured on a collection never saw it, in any
part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy
from sklearn.linear_model import LogisticRegression

from growbin.embedded_model.witnesses import (
    CLEAR_PET,
    PACKAGING,
    PLASTICS,
    SURE_FROM,
    Evidence,
    Weights,
    answers,
    candidates,
    judged,
)
from growbin.photo_labels import right_answers
from growbin.scores import Share, calibration_error, confidence_bins

if TYPE_CHECKING:
    Array = Any

HOME = "home"
# Each left-out collection counts the same. Home counts more: most of what people send is packaging, and an
# ordinary photo of it is nearer to some known collection than those that were left out are to the others.
# This holds most for the kind: what is wrong there is wrong whatever the material.
HOME_KIND, HOME_RIGHT = 8, 3


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Photos that the network had not been trained on. `right` [n, answers] is what the label allows;
    `is_taught` [n] whether a photo that was trained on had such a material, or the names know it by
    themselves."""

    seen: Evidence
    right: Array
    is_taught: Array

    def part(self, chosen: Array) -> LeftOut:
        return LeftOut(self.seen.part(chosen), self.right[chosen], self.is_taught[chosen])


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one left-out collection. The witnesses alone: the head's best class, the names' best place."""

    photos: int
    names: Share
    head: Share
    joint: Share
    taught: Share
    sure: Share
    sure_of_taught: Share
    sure_share: Share
    calibration_error: float
    answers: list[tuple[float, bool]]  # certainty, is right; of each photo
    best: list[int]  # the answer's number


def left_out(seen: Evidence, labels: Sequence[str], is_taught: Array) -> LeftOut:
    """Of the photos with these labels."""
    return LeftOut(seen, numpy.stack([_allowed(label) for label in labels]), is_taught)


def fitted(sets: Mapping[str, LeftOut]) -> Weights:
    """Of photos whose material nothing had taught, nothing is learned. A label that allows packaging and
    something else says nothing about the kind."""
    kind, packaging, other = [], [], []
    for name, one in sets.items():
        known = one.part(one.is_taught)
        if not len(known.right):
            continue
        found, rows = candidates(known.seen), numpy.arange(len(known.right))
        is_packaging, is_other = known.right[:, :PACKAGING].any(1), known.right[:, PACKAGING:].any(1)
        hits = known.right[rows, found.packaging], known.right[rows, found.other]
        of_kind, of_right = (HOME_KIND, HOME_RIGHT) if name == HOME else (1, 1)
        one_kind = is_packaging != is_other
        kind.append((found.kind_features[one_kind], is_other[one_kind], of_kind))
        packaging.append((found.packaging_features[is_packaging], hits[0][is_packaging], of_right))
        other.append((found.other_features[is_other], hits[1][is_other], of_right))
    return Weights(_logistic(kind), _logistic(packaging), _logistic(other))


def measured(sets: Mapping[str, LeftOut]) -> dict[str, Figures]:
    """Each set by what the others fit; home by the others and its own other half."""
    found = {}
    for name, one in sets.items():
        others = {other: photos for other, photos in sets.items() if other != name}
        number = numpy.arange(len(one.right))
        best, certainty = numpy.zeros(len(number), int), numpy.zeros(len(number))
        for asked in [number % 2 == 0, number % 2 == 1] if name == HOME else [number >= 0]:
            rest = {HOME: one.part(~asked)} if name == HOME else {}
            said = judged(candidates(one.seen.part(asked)), fitted(others | rest))
            best[asked], certainty[asked] = said.best, said.certainty
        found[name] = _figures(one, best, certainty)
    return found


def _figures(one: LeftOut, best: Array, certainty: Array) -> Figures:
    number = numpy.arange(len(one.right))
    right = one.right[number, best]
    is_sure = certainty >= SURE_FROM
    answers = [(float(level), bool(hit)) for level, hit in zip(certainty, right, strict=True)]
    return Figures(
        photos=len(right),
        names=_share(one.right[number, one.seen.names.argmax(1)]),
        head=_share(one.right[number, one.seen.head.argmax(1)]),
        joint=_share(right),
        taught=_share(right[one.is_taught]),
        sure=_share(right[is_sure]),
        sure_of_taught=_share(right[is_sure & one.is_taught]),
        sure_share=_share(is_sure),
        calibration_error=calibration_error(confidence_bins(answers)) or 0.0,
        answers=answers,
        best=best.tolist(),
    )


def _share(hits: Array) -> Share:
    return Share(int(hits.sum()), len(hits))


def _logistic(sets: Sequence[tuple[Array, Array, int]]) -> tuple[float, ...]:
    """The weights; the features' last column is the constant."""
    features = numpy.concatenate([one for one, _, _ in sets])
    hits = numpy.concatenate([hit for _, hit, _ in sets])
    weight = numpy.concatenate(
        [numpy.full(len(hit), 1000 * times / max(1, len(hit))) for _, hit, times in sets]
    )
    if len(set(hits)) == 1:  # nothing to tell apart: always so, or never
        return (*[0.0] * (features.shape[1] - 1), 3.0 if hits[0] else -3.0)
    model = LogisticRegression(C=1.0, fit_intercept=False, max_iter=5000)
    model.fit(features, hits, sample_weight=weight)
    return tuple(round(float(value), 5) for value in model.coef_[0])


def _allowed(label: str) -> Array:
    allowed = right_answers(label)
    return numpy.array(
        [
            any(right.fits(place.category, place.material) for right in allowed)
            or (
                place == PLASTICS
                and any(right.fits(CLEAR_PET.category, CLEAR_PET.material) for right in allowed)
            )
            for place in answers()
        ]
    )
