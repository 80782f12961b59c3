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
    Candidates,
    Evidence,
    Weights,
    answers,
    candidates,
    judged,
    kinds,
)
from growbin.photo_labels import right_answers
from growbin.scores import Comparison, Share, calibration_error, compare, confidence_bins

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
    themselves. `photo` [n] is its number among all, `fold` [n] which are measured together."""

    seen: Evidence
    right: Array
    is_taught: Array
    photo: Array
    fold: Array

    def part(self, chosen: Array) -> LeftOut:
        return LeftOut(
            self.seen.part(chosen),
            self.right[chosen],
            self.is_taught[chosen],
            self.photo[chosen],
            self.fold[chosen],
        )


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one left-out collection. The witnesses alone: the head's best class, the names' best place.
    `against_better` compares both together with the better of them, photo by photo."""

    photos: int
    names: Share
    head: Share
    joint: Share
    against_better: Comparison
    taught: Share
    sure: Share
    sure_of_taught: Share
    sure_share: Share
    calibration_error: float
    calibration_error_of_taught: float
    answers: list[tuple[float, bool]]  # certainty, is right; of each photo
    best: list[int]  # the answer's number


def left_out(seen: Evidence, labels: Sequence[str], is_taught: Array, photo: Array, fold: Array) -> LeftOut:
    """Of the photos with these labels."""
    right = numpy.stack([_allowed(label) for label in labels])
    return LeftOut(seen, right, is_taught, photo, fold)


def fitted(sets: Mapping[str, LeftOut]) -> Weights:
    """Of photos whose material nothing had taught, nothing is learned. The kind is learned where it decides,
    from photos of which one candidate is right; the certainty of anything else from photos that are answered
    so."""
    kind, packaging, other = [], [], []
    known = {name: one.part(one.is_taught) for name, one in sets.items() if one.is_taught.any()}
    found = {name: candidates(one.seen) for name, one in known.items()}
    for name, one in known.items():
        packs, others = _hits(one, found[name])
        decides, is_packaging = packs != others, one.right[:, :PACKAGING].any(1)
        of_kind, of_right = (HOME_KIND, HOME_RIGHT) if name == HOME else (1, 1)
        kind.append((found[name].kind_features[decides], others[decides], of_kind))
        packaging.append((found[name].packaging_features[is_packaging], packs[is_packaging], of_right))
    of_kinds = _logistic(kind)
    for name, one in known.items():
        is_other, features = kinds(found[name], of_kinds)
        answered = is_other > 0.5
        of_right = HOME_RIGHT if name == HOME else 1
        other.append((features[answered], _hits(one, found[name])[1][answered], of_right * answered.mean()))
    return Weights(of_kinds, _logistic(packaging), _logistic(other))


def _hits(one: LeftOut, found: Candidates) -> tuple[Array, Array]:
    """Which photos have the right packaging, and which the right other thing."""
    rows = numpy.arange(len(one.right))
    return one.right[rows, found.packaging], one.right[rows, found.other]


def measured(sets: Mapping[str, LeftOut]) -> dict[str, Figures]:
    """Each fold of each set by what is fitted to everything else: no photo of it in any set."""
    found = {}
    for name, one in sets.items():
        best, certainty = numpy.zeros(len(one.photo), int), numpy.zeros(len(one.photo))
        for fold in numpy.unique(one.fold):
            asked = one.fold == fold
            rest = {
                other: photos.part(~numpy.isin(photos.photo, one.photo[asked]))
                for other, photos in sets.items()
            }
            said = judged(candidates(one.seen.part(asked)), fitted(rest))
            best[asked], certainty[asked] = said.best, said.certainty
        found[name] = _figures(one, best, certainty)
    return found


def _figures(one: LeftOut, best: Array, certainty: Array) -> Figures:
    number = numpy.arange(len(one.right))
    right = one.right[number, best]
    is_sure = certainty >= SURE_FROM
    answers = [(float(level), bool(hit)) for level, hit in zip(certainty, right, strict=True)]
    of_taught = [answer for answer, taught in zip(answers, one.is_taught, strict=True) if taught]
    names = one.right[number, one.seen.names.argmax(1)]
    head = one.right[number, one.seen.head.argmax(1)]
    better = max(head, names, key=lambda witness: int(witness.sum()))
    return Figures(
        photos=len(right),
        names=_share(names),
        head=_share(head),
        joint=_share(right),
        against_better=compare(zip(right.tolist(), better.tolist(), strict=True)),
        taught=_share(right[one.is_taught]),
        sure=_share(right[is_sure]),
        sure_of_taught=_share(right[is_sure & one.is_taught]),
        sure_share=_share(is_sure),
        calibration_error=calibration_error(confidence_bins(answers)) or 0.0,
        calibration_error_of_taught=calibration_error(confidence_bins(of_taught)) or 0.0,
        answers=answers,
        best=best.tolist(),
    )


def _share(hits: Array) -> Share:
    return Share(int(hits.sum()), len(hits))


def _logistic(sets: Sequence[tuple[Array, Array, float]]) -> tuple[float, ...]:
    """The weights; the features' last column is the constant."""
    features = numpy.concatenate([one for one, _, _ in sets])
    hits = numpy.concatenate([hit for _, hit, _ in sets])
    weight = numpy.concatenate(
        [numpy.full(len(hit), 1000 * times / max(1, len(hit))) for _, hit, times in sets]
    )
    if len(set(hits)) < 2:  # nothing to tell apart: always so, or never
        return (*[0.0] * (features.shape[1] - 1), 3.0 if hits.any() else -3.0)
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
