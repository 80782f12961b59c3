"""What is measured on a photo was not learned from it, and the choice between two candidates is learned where
it decides."""

from __future__ import annotations

from dataclasses import replace

import numpy

from growbin.embedded_model.train.calibrate import HOME, LeftOut, fitted, left_out, measured
from growbin.embedded_model.witnesses import HEAD, Evidence, answers, evidence

PHOTOS = 60
LABELS = ("glass", "metal", "clothes")


def seen(number: int) -> Evidence:
    """Drawn outputs, of which neither is always right."""
    chance = numpy.random.default_rng(number)
    return evidence(
        chance.dirichlet(numpy.full(len(HEAD), 0.4), PHOTOS), chance.dirichlet(numpy.full(1000, 0.01), PHOTOS)
    )


def photos(number: int, first: int, folds: int = 1) -> LeftOut:
    labels = [LABELS[one % len(LABELS)] for one in range(PHOTOS)]
    numbers = numpy.arange(first, first + PHOTOS)
    return left_out(seen(number), labels, numpy.ones(PHOTOS, bool), numbers, numbers % folds)


def test_photo_that_is_measured_is_fitted_to_in_no_set() -> None:
    """Whatever is said of a collection's photos where other networks saw them at home: its figures stay."""
    table, home = photos(1, 0), photos(2, 0, folds=5)
    other = photos(3, PHOTOS)
    sets = {HOME: home, "table": table, "other": other}
    told = measured(sets)
    wrong_at_home = replace(home, right=~home.right)
    assert measured(sets | {HOME: wrong_at_home})["table"].answers == told["table"].answers
    assert measured(sets | {HOME: wrong_at_home})["other"].answers != told["other"].answers
    # A fold at home is measured by the other folds, and by none of its photos elsewhere.
    fold = home.photo % 5 == 0
    flipped = replace(table, right=numpy.where(fold[:, None], ~table.right, table.right))
    answered = numpy.array(measured(sets | {"table": flipped})[HOME].answers)
    assert (answered[fold] == numpy.array(told[HOME].answers)[fold]).all()
    assert (answered[~fold] != numpy.array(told[HOME].answers)[~fold]).any()


def test_kind_is_learned_from_photos_of_which_one_candidate_is_right() -> None:
    """Photos that both get wrong change nothing, and a label that both fulfil tells nothing."""
    one = photos(1, 0)
    nothing, everything = numpy.zeros((20, len(answers())), bool), numpy.ones((20, len(answers())), bool)
    for right in (nothing, everything):
        more = replace(photos(4, PHOTOS).part(numpy.arange(20)), right=right)
        assert fitted({"table": one, "more": more}).kind == fitted({"table": one}).kind


def test_both_together_are_compared_with_the_better_witness() -> None:
    """Photo by photo: what only one of them gets right adds up to the difference."""
    told = measured({HOME: photos(2, 0, folds=5), "table": photos(1, PHOTOS)})["table"]
    better = max(told.head.hits, told.names.hits)
    against = told.against_better
    assert against.total == PHOTOS
    assert told.joint.hits - better == against.only_first_right - against.only_second_right
