"""What is left out of a training, to be measured on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy

from growbin.embedded_model.train.collections import TrainingPhoto

if TYPE_CHECKING:
    from growbin.embedded_model.train.architecture import Array

FOLDS = 5
# Two photos of one label whose features (of the published network) are this much alike are taken to show one
# object: among TrashNet's 1,773 photos that joins 121.
SAME_OBJECT = 0.85
# Collections of one origin are left out together: both are exports of one project's photos.
ORIGINS = {"ecoera": "e-waste", "ewaste_d1": "e-waste"}


def origin_of(photo: TrainingPhoto) -> str:
    return ORIGINS.get(photo.collection, photo.collection)


def folds(photos: Sequence[TrainingPhoto], features: Array) -> Array:
    """The fold of each photo, 0 to 4: equally many of each label and collection, and all photos of one object
    in one. `features` is [photos, 1280]."""
    fold = numpy.zeros(len(photos), int)
    groups: dict[tuple[str, str], list[int]] = {}
    for number, photo in enumerate(photos):
        groups.setdefault((photo.collection, photo.photo.label), []).append(number)
    for _, members in sorted(groups.items()):
        objects = _objects([photos[number] for number in members], features[members])
        chance = numpy.random.default_rng(len(members))
        sizes = Counter(objects)
        order = sorted(sizes, key=lambda one, sizes=sizes: (-sizes[one], one))  # type: ignore[misc]
        shuffled = [order[place] for place in chance.permutation(len(order))]
        shuffled.sort(key=lambda one, sizes=sizes: -sizes[one])  # type: ignore[misc]
        held = numpy.zeros(FOLDS, int)
        place = {}
        for one in shuffled:
            place[one] = int(held.argmin())
            held[place[one]] += sizes[one]
        for number, one in zip(members, objects, strict=True):
            fold[number] = place[one]
    return fold


def _objects(photos: Sequence[TrainingPhoto], features: Array) -> list[int]:
    """A number for the object of each photo: photos that are alike, directly or by others, share it."""
    directions = features / numpy.linalg.norm(features, axis=1, keepdims=True)
    alike = directions @ directions.T > SAME_OBJECT
    found = list(range(len(photos)))

    def first(one: int) -> int:
        while found[one] != one:
            one = found[one]
        return one

    for one, other in zip(*numpy.nonzero(numpy.triu(alike, 1)), strict=True):
        found[first(int(other))] = first(int(one))
    named: dict[str, int] = {}
    for number, photo in enumerate(photos):
        if photo.photo.object is not None:
            found[first(number)] = first(named.setdefault(photo.photo.object, number))
    return [first(one) for one in range(len(photos))]


def frozen_folds(photos: Sequence[TrainingPhoto], fold: Array, features: Array) -> dict[str, list[float]]:
    """How often a plain classifier over the published network's features is right, for each fold and
    collection that labels one material a photo: what the network knows before it is tuned."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    scaled = (features - features.mean(0)) / (features.std(0) + 1e-6)
    single = numpy.array([len(photo.classes) == 1 for photo in photos])
    classes = numpy.array([photo.classes[0] if photo.classes else -1 for photo in photos])
    collections = numpy.array([photo.collection for photo in photos])
    found: dict[str, list[float]] = {}
    for left_out in range(FOLDS):
        learned, asked = single & (fold != left_out), single & (fold == left_out)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # so many rounds are enough
            model = LogisticRegression(C=0.003, max_iter=200).fit(scaled[learned], classes[learned])
        for collection in sorted(set(collections[asked])):
            chosen = asked & (collections == collection)
            right = model.predict(scaled[chosen]) == classes[chosen]
            found.setdefault(collection, []).append(round(float(right.mean()), 4))
    return found
