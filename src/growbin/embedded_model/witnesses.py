"""What the network's two outputs say together, and how sure that is.

The *head* was trained on photos of waste: it tells packaging by its material, and knows nothing else. The
*names* are the published network's 1,000 object names, kept through the training; `data/labels.json` says
where each thing goes. One is right at home and confidently wrong about what it has not seen; the other is
vague about packaging and right about clothes, food and electronics wherever they were photographed. So there
are two candidates:

    packaging       the best of head · names ^ 0.4
    anything else   the best of the names

Three logistic regressions decide between them and say how sure that is. `kind` is fitted to the photos of
which one candidate is right: how probable it is that this is the other thing. `packaging` says how probable
it is that packaging is named rightly, `other` that what is answered as another thing is one. They were fitted
to photos of collections that the head had not been trained on (train/calibrate.py). Their weights stand with
the model's file.

Arrays have a row for each photo. Plastics and clear PET are one answer here: what tells them apart is a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any

from growbin.embedded_model.object_names import ObjectName, object_names
from growbin.job import Sorting
from growbin.taxonomy import Category, Material

if TYPE_CHECKING:
    import numpy.typing

    Floats = numpy.typing.NDArray[Any]

PLASTICS = Sorting(category=Category.RECYCLABLE, material=Material.PLASTICS)
CLEAR_PET = Sorting(category=Category.RECYCLABLE, material=Material.CLEAR_PET)
FILM = Sorting(category=Category.RECYCLABLE, material=Material.FILM)
# The classes of the head. No class says "none of these": learned from clothes and phones at home, it fired on
# half of the packaging of a collection that was left out.
HEAD = (
    Sorting(category=Category.RECYCLABLE, material=Material.PAPER),
    Sorting(category=Category.RECYCLABLE, material=Material.CARTON),
    Sorting(category=Category.RECYCLABLE, material=Material.GLASS),
    Sorting(category=Category.RECYCLABLE, material=Material.METALS),
    PLASTICS,
    Sorting(category=Category.GENERAL, material=None),
)
PACKAGING = len(HEAD) + 1  # so many of the answers, the first, are packaging: the head's, and film
# Of a thing whose name leaves the bin open so much goes to its first bin, the rest to the others.
FIRST_SHARE = 0.7

# How the names weigh against the head, and what either is taken to say at least: nothing is ruled out by one.
NAMES_POWER = 0.4
HEAD_FLOOR, NAMES_FLOOR, KINDS_FLOOR = 0.02, 0.03, 0.05
FILM_SHARE = 0.1  # in place of the head, which has not learned film

FAMILIAR_FROM = 0.8  # the logit of 0.7: a head below that is one that does not know

# From here on an answer is sure. About packaging it is sure only if head and names agree, or the head is as
# certain as it is about what it knows: elsewhere a certain-looking head is often wrong, whatever the
# regression says (docs/embedded-model.md has the figures).
SURE_FROM = 0.85
BELOW_SURE = SURE_FROM - 0.001
AGREED_HEAD, AGREED_NAMES = 0.5, 0.2
FAMILIAR_HEAD = 0.82
# Anything else is sure only if so much of the names says so. Where the head is not even half certain of any
# material, a thing that has the first share of the names is the answer, and with the second a sure one: no
# ceramics were there to learn from.
NAMED_ALONE, NAMED_SURELY = 0.35, 0.45
SUPPORTED_FROM = 0.5  # of its chance


@dataclass(frozen=True, slots=True)
class Weights:
    """Of the three regressions; the last of each is the constant."""

    kind: tuple[float, ...]
    packaging: tuple[float, ...]
    other: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the outputs say: `head` [n, classes of HEAD] sums to 1; `names` [n, answers] is how much of the
    names goes to each of `answers()`; `no_waste` [n] is the rest, names that are no evidence for any bin.
    `thing` [n] is how much goes to the likeliest thing alone, `thing_answer` [n] its first place."""

    head: Floats
    names: Floats
    no_waste: Floats
    thing: Floats
    thing_answer: Floats

    def part(self, chosen: Floats) -> Evidence:
        return Evidence(**{name: values[chosen] for name, values in self.arrays().items()})

    def arrays(self) -> dict[str, Floats]:
        return {one.name: getattr(self, one.name) for one in fields(self)}


def evidence(materials: Floats, names: Floats) -> Evidence:
    """Of the network's outputs, [n, classes of HEAD] and [n, 1000]."""
    table, places = _things()
    shares, things = names @ _meanings(), names @ table
    best = things.argmax(1)
    return Evidence(materials, shares[:, :-1], shares[:, -1], things.max(1), places[best])


@cache
def answers() -> tuple[Sorting, ...]:
    """Everything that can be answered: the head's classes, film, then what else the names know."""
    things = [name.thing for name in object_names() if name.thing]
    named = {_merged(place) for thing in things for place in (thing, *thing.also)} - {*HEAD, FILM}
    return (*HEAD, FILM, *sorted(named, key=lambda place: (place.category, place.material or "")))


def answer_of(place: Sorting) -> int:
    return _numbers()[place.category, place.material]


@cache
def things_of(answer: int) -> tuple[ObjectName, ...]:
    """The names of things that go there, first or also."""
    return tuple(
        name
        for name in object_names()
        if name.thing and any(answer_of(place) == answer for place in (name.thing, *name.thing.also))
    )


@dataclass(frozen=True, slots=True)
class Candidates:
    """For each photo the best packaging and the best other thing: their numbers in `answers()`, the shares of
    all answers of their kind [n, answers of it], and the features of the regressions, each [n, k]."""

    kind_features: Floats
    packaging: Floats
    packaging_shares: Floats
    packaging_features: Floats
    other: Floats
    other_shares: Floats
    other_features: Floats
    is_supported: Floats  # [n]: whether the packaging may be sure
    is_named: Floats  # [n]: whether the other thing may be sure
    named_alone: Floats  # [n]: how certain the other thing is by its name alone, 0 if it is not


def candidates(seen: Evidence) -> Candidates:
    import numpy

    rows = numpy.arange(len(seen.head))
    of_packaging, of_others = seen.names[:, :PACKAGING], seen.names[:, PACKAGING:]
    certain = seen.head.max(1)
    elsewhere = of_others.sum(1)
    balance = numpy.log((elsewhere + KINDS_FLOOR) / (of_packaging.sum(1) + KINDS_FLOOR))
    familiar = numpy.maximum(0, _logit(certain) - FAMILIAR_FROM)
    one = numpy.ones(len(rows))

    head = numpy.concatenate([seen.head, numpy.full((len(rows), 1), FILM_SHARE)], 1)
    shares = (head + HEAD_FLOOR) * (of_packaging + NAMES_FLOOR) ** NAMES_POWER
    shares = shares / shares.sum(1, keepdims=True)
    packaging = shares.argmax(1)
    named = of_packaging[rows, packaging]
    agree = (seen.head.argmax(1) == packaging) & (of_packaging.argmax(1) == packaging)
    is_vague = numpy.isin(packaging, [answer_of(HEAD[-1]), answer_of(FILM)])
    packaging_features = (
        _logit(shares.max(1)), familiar, balance, elsewhere, agree, agree * named.clip(max=0.5), is_vague,
        one,
    )  # fmt: skip

    other = of_others.argmax(1) + PACKAGING
    named_other = seen.names[rows, other]
    is_alone = (seen.thing >= NAMED_ALONE) & (seen.thing_answer == other) & (certain < AGREED_HEAD)
    return Candidates(
        kind_features=_kind_features(seen),
        packaging=packaging,
        packaging_shares=shares,
        packaging_features=numpy.stack(packaging_features, 1).astype(float),
        other=other,
        other_shares=(of_others + 1e-4) / (of_others + 1e-4).sum(1, keepdims=True),
        other_features=numpy.stack((_logit(named_other), one), 1).astype(float),
        is_supported=(agree & (named >= AGREED_NAMES) & (certain >= AGREED_HEAD))
        | (certain >= FAMILIAR_HEAD),
        is_named=named_other >= NAMED_SURELY,
        named_alone=numpy.where(is_alone, SURE_FROM * (seen.thing / NAMED_SURELY).clip(max=1), 0),
    )


def _kind_features(seen: Evidence) -> Floats:
    """What tells which candidate is right: how certain the head is, and of what; how much of the names goes
    to other things, to packaging, and to general waste, where many names of clothes and household things
    may go as well; and whether the likeliest thing is packaging."""
    import numpy

    general = answer_of(HEAD[-1])
    of_packaging = numpy.delete(seen.names[:, :PACKAGING], general, 1)
    of_others = seen.names[:, PACKAGING:]
    is_other = seen.thing_answer >= PACKAGING
    second, first = numpy.sort(seen.head, 1)[:, -2:].T
    features = (
        _logit(first),
        numpy.log((first + 1e-6) / (second + 1e-6)),
        -(seen.head * numpy.log(seen.head + 1e-9)).sum(1),
        _logit(of_others.sum(1)),
        _logit(of_others.max(1)),
        _logit(of_packaging.sum(1)),
        _logit(of_packaging.max(1)),
        _logit(seen.names[:, general]),
        _logit(seen.no_waste),
        _logit(seen.thing * is_other),
        _logit(seen.thing * ~is_other),
        *seen.head.T,
        numpy.ones(len(first)),
    )
    return numpy.stack(features, 1).astype(float)


@dataclass(frozen=True, slots=True)
class Judgement:
    """`best` [n] is the answer's number, `certainty` [n] how probable it is that it is right; `shares`
    [n, answers] sums to 1."""

    best: Floats
    certainty: Floats
    shares: Floats


def judged(found: Candidates, weights: Weights) -> Judgement:
    import numpy

    is_other, answered_other = kinds(found, weights.kind)
    packaging = (1 - is_other) * _chance(found.packaging_features, weights.packaging)
    other = _chance(answered_other, weights.other)
    other = numpy.where(found.is_named, other, numpy.minimum(other, BELOW_SURE))
    other = numpy.maximum(other, found.named_alone)
    is_other = (is_other > 0.5) | (found.named_alone > 0)
    supported = numpy.maximum(packaging, SURE_FROM)
    unsupported = numpy.minimum(packaging, BELOW_SURE)
    bounded = numpy.where(found.is_supported & (packaging >= SUPPORTED_FROM), supported, unsupported)
    total = packaging + other
    return Judgement(
        best=numpy.where(is_other, found.other, found.packaging),
        certainty=numpy.where(is_other, other, bounded),
        shares=numpy.concatenate(
            [
                found.packaging_shares * (packaging / total)[:, None],
                found.other_shares * (other / total)[:, None],
            ],
            1,
        ),
    )


def kinds(found: Candidates, weights: Sequence[float]) -> tuple[Floats, Floats]:
    """[n] how probable it is that the other thing is the answer; and the features that say how sure it then
    is: that probability, and what the names say."""
    import numpy

    is_other = _chance(found.kind_features, weights)
    return is_other, numpy.concatenate([_logit(is_other)[:, None], found.other_features], 1)


def _chance(features: Floats, weights: Sequence[float]) -> Floats:
    import numpy

    chance: Floats = 1 / (1 + numpy.exp(-features @ numpy.asarray(weights)))
    return chance


def _merged(place: Sorting) -> Sorting:
    return (
        PLASTICS
        if place.material is Material.CLEAR_PET
        else Sorting(category=place.category, material=place.material)
    )


def _logit(shares: Floats) -> Floats:
    import numpy

    inside = numpy.clip(shares, 1e-3, 1 - 1e-3)
    found: Floats = numpy.log(inside / (1 - inside))
    return found


@cache
def _numbers() -> dict[tuple[Category, Material | None], int]:
    numbers = {(place.category, place.material): number for number, place in enumerate(answers())}
    return numbers | {(CLEAR_PET.category, CLEAR_PET.material): numbers[PLASTICS.category, PLASTICS.material]}


@cache
def _things() -> tuple[Floats, Floats]:
    """[1000, things]: which names are which thing; and the answer where each thing goes first."""
    import numpy

    english = [name.thing.name["en"] if name.thing else "" for name in object_names()]
    things = sorted(set(english) - {""})
    table = numpy.zeros((len(english), len(things)), numpy.float32)
    places = numpy.zeros(len(things), int)
    for name in object_names():
        if name.thing:
            number = things.index(name.thing.name["en"])
            table[name.index, number], places[number] = 1, answer_of(name.thing)
    return table, places


@cache
def _meanings() -> Floats:
    """[1000, answers and one]: how much of a name goes to each answer; the last column is no waste."""
    import numpy

    table = numpy.zeros((len(object_names()), len(answers()) + 1), numpy.float32)
    for name in object_names():
        if name.thing is None:
            table[name.index, -1] = 1
            continue
        also = name.thing.also
        table[name.index, answer_of(name.thing)] += FIRST_SHARE if also else 1
        for place in also:
            table[name.index, answer_of(place)] += (1 - FIRST_SHARE) / len(also)
    return table
