"""What the embedded model sees in a photo: the things in it, how sure that is, and why not surer."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from growbin.embedded_model.object_names import HouseholdThing
from growbin.embedded_model.pictures import (
    Flaw,
    flaw_of,
    upright_photo,
    views_of_crops,
    views_of_whole,
)
from growbin.embedded_model.witnesses import (
    CLEAR_PET,
    FILM,
    HEAD,
    PLASTICS,
    SURE_FROM,
    Weights,
    answer_of,
    answers,
    candidates,
    evidence,
    judged,
    things_of,
)
from growbin.job import DoubtReason, Locale, Noun, Sorting
from growbin.taxonomy import Category, Condition, Material

if TYPE_CHECKING:
    import numpy.typing

    Floats = numpy.typing.NDArray[numpy.float32]

MODEL_FILE = "embedded_model.onnx"
CARD_FILE = "embedded_model.json"

# Of what the five views of the whole say. What fills the view is easier to tell, names better what stands
# upright.
HEAD_VIEW_SHARES = (0.15, 0.15, 0.15, 0.15, 0.4)
NAMES_VIEW_SHARES = (0.3, 0.133, 0.134, 0.133, 0.3)
# A name is said when it has this much of the names, and this share of those that go to the same place.
NAMED_FROM, NAMED_SHARE = 0.15, 0.4
NO_WASTE_FROM = 0.5
PROBABLE_FROM = 0.5
CHOICES = 4

PLAIN_NAMES: dict[Sorting, dict[Locale, str]] = {
    HEAD[0]: {"ko": "종이", "en": "something made of paper"},
    HEAD[1]: {"ko": "종이팩", "en": "carton"},
    HEAD[2]: {"ko": "유리로 된 것", "en": "something made of glass"},
    HEAD[3]: {"ko": "금속으로 된 것", "en": "something made of metal"},
    HEAD[4]: {"ko": "플라스틱으로 된 것", "en": "something made of plastic"},
    HEAD[5]: {"ko": "재활용되지 않는 것", "en": "something that is not recycled"},
    FILM: {"ko": "비닐", "en": "plastic film"},
    Sorting(category=Category.RECYCLABLE, material=Material.TEXTILES): {"ko": "옷이나 천", "en": "fabric"},
    Sorting(category=Category.RECYCLABLE, material=Material.E_WASTE): {
        "ko": "전자 제품",
        "en": "electronic device",
    },
    Sorting(category=Category.FOOD, material=None): {"ko": "음식물", "en": "food"},
    Sorting(category=Category.BULKY, material=None): {"ko": "큰 물건", "en": "something large"},
}
OTHER_PLAIN_NAME: dict[Locale, str] = {"ko": "이름 모를 것", "en": "something"}


class DamagedModel(Exception):
    """The model's file is not the one that was shipped; the text says what to do."""


class Card(Noun):
    """What stands beside the model's file: the weights of `witnesses`, and the certainty from which what a
    crop shows is a thing by itself."""

    sha256: str
    kind: tuple[float, ...]
    packaging: tuple[float, ...]
    other: tuple[float, ...]
    second_item: float = 1.0

    @property
    def weights(self) -> Weights:
        return Weights(self.kind, self.packaging, self.other)


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing in the photo. `confidence` is how probable it is that `place` is right."""

    name: dict[Locale, str]
    place: Sorting
    confidence: float
    condition: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Look:
    """What a photo shows, best first: at least one thing, which may be below `probable`. `choices` are the
    other places that are most likely, for a person who knows better."""

    seen: tuple[Seen, ...]
    doubt: DoubtReason | None
    choices: tuple[Sorting, ...]


@cache
def card() -> Card:
    return Card.model_validate_json(files("growbin").joinpath("data", CARD_FILE).read_bytes())


class Classifier:
    """Thread-safe. Without arguments the shipped model; raises DamagedModel where its file is not the one
    that was shipped."""

    def __init__(self, model: bytes | None = None, its_card: Card | None = None) -> None:
        import onnxruntime

        self._card = its_card or card()
        if model is None:
            model = files("growbin").joinpath("data", MODEL_FILE).read_bytes()
        if hashlib.sha256(model).hexdigest() != self._card.sha256:
            raise DamagedModel(f"{MODEL_FILE} is damaged: install growbin again")
        options = onnxruntime.SessionOptions()
        # Photos are served side by side: one thread each does more of them than two for one.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def look(self, photo: bytes) -> Look:
        """Raises UnreadablePhoto."""
        picture = upright_photo(photo)
        (whole,) = opinions(*of_whole(*self.outputs(views_of_whole(picture), together=True)), self._card)
        flaw = flaw_of(picture)
        crops: list[Opinion] = []
        # A sure whole fills the photo, and a flaw spoils every part of it.
        if flaw is None and whole.confidence < SURE_FROM:
            crops = opinions(*self.outputs(views_of_crops(picture)), self._card)
        return _look(whole, crops, flaw, self._card)

    def outputs(self, views: Floats, *, together: bool = False) -> tuple[Floats, Floats]:
        """`materials` [n, classes of the head and one] and `names` [n, 1000] of [n, 3, 224, 224]; of one
        photo `together` [1, n, …]."""
        import numpy

        # On one thread a batch is no faster than one by one, and the session would keep the memory it needs.
        seen = [self._session.run(["materials", "names"], {"photo": view[None]}) for view in views]
        materials, names = (numpy.concatenate(values) for values in zip(*seen, strict=True))
        return (materials[None], names[None]) if together else (materials, names)


@dataclass(frozen=True, slots=True)
class Opinion:
    """Of a whole photo or one crop: the shares of `answers()`, and how sure the best one is."""

    shares: Floats
    names: Floats
    no_waste: float
    best: int
    confidence: float

    @property
    def place(self) -> Sorting:
        return answers()[self.best]


def opinions(materials: Floats, names: Floats, its_card: Card) -> list[Opinion]:
    """Of each row."""
    seen = evidence(materials, names)
    said = judged(candidates(seen), its_card.weights)
    return [
        Opinion(
            said.shares[row],
            names[row],
            float(seen.no_waste[row]),
            int(said.best[row]),
            float(said.certainty[row]),
        )
        for row in range(len(names))
    ]


def of_whole(materials: Floats, names: Floats) -> tuple[Floats, Floats]:
    """The outputs for the five views of each photo, [n, 5, …], as one: [n, …]."""
    import numpy

    return (
        (materials * numpy.asarray(HEAD_VIEW_SHARES, numpy.float32)[None, :, None]).sum(1),
        (names * numpy.asarray(NAMES_VIEW_SHARES, numpy.float32)[None, :, None]).sum(1),
    )


def _look(whole: Opinion, crops: Sequence[Opinion], flaw: Flaw | None, its_card: Card) -> Look:
    others = second_items(whole, crops, its_card.second_item)
    doubt = _doubt(whole, crops, others, flaw)
    return Look((_seen(whole), *map(_seen, others)), doubt, _choices(whole))


def second_items(whole: Opinion, crops: Sequence[Opinion], least: float) -> list[Opinion]:
    """Things that a crop shows with such certainty, another probably, and that are something else than the
    whole, the surest first: a part of a thing looks like something else in one crop alone."""
    shown: dict[int, list[Opinion]] = defaultdict(list)
    for crop in sorted(crops, key=lambda crop: -crop.confidence):
        if crop.best != whole.best and crop.confidence >= PROBABLE_FROM:
            shown[crop.best].append(crop)
    found = [same[0] for same in shown.values() if len(same) > 1 and same[0].confidence >= least]
    return sorted(found, key=lambda crop: -crop.confidence)


def _doubt(
    whole: Opinion,
    crops: Sequence[Opinion],
    others: Sequence[Opinion],
    flaw: Flaw | None,
) -> DoubtReason | None:
    """The first cause that would help a person to take a better photo."""
    if flaw == "blank" or flaw == "colourless":
        return "unknown"
    if flaw is not None:
        return flaw
    if others:
        return "several"
    if whole.no_waste >= NO_WASTE_FROM:
        return "not_waste"
    if whole.confidence >= PROBABLE_FROM:
        return None
    told = {crop.best for crop in crops if crop.confidence >= PROBABLE_FROM}
    return ("unknown", "far")[len(told)] if len(told) < 2 else "several"


def _seen(opinion: Opinion) -> Seen:
    """With the name of the likeliest thing that goes there, where one stands out; else that of the
    material."""
    weights: dict[str, float] = defaultdict(float)
    things: dict[str, HouseholdThing] = {}
    for name in things_of(opinion.best):
        assert name.thing
        # A thing that goes there only when it is made of something else is called by what it is made of.
        if answer_of(_place(name.thing)) == opinion.best:
            things[name.thing.name["en"]] = name.thing
            weights[name.thing.name["en"]] += float(opinion.names[name.index])
    likeliest = max(weights, key=lambda name: weights[name], default="")
    place = opinion.place
    if weights[likeliest] < max(NAMED_FROM, NAMED_SHARE * sum(weights.values())):
        return Seen(PLAIN_NAMES.get(place, OTHER_PLAIN_NAME), place, opinion.confidence)
    thing = things[likeliest]
    if place == PLASTICS and _place(thing) == CLEAR_PET:
        place = CLEAR_PET
    return Seen(
        thing.name, place, opinion.confidence, tuple(thing.condition) if _place(thing) == place else ()
    )


def _place(thing: Sorting) -> Sorting:
    return Sorting(category=thing.category, material=thing.material)


def _choices(whole: Opinion) -> tuple[Sorting, ...]:
    """The likeliest places. To the network a clear bottle is one of the plastics; it has a bin of its own."""
    order = (answers()[number] for number in whole.shares.argsort()[::-1][:CHOICES])
    places = (one for place in order for one in ((place, CLEAR_PET) if place == PLASTICS else (place,)))
    return tuple(places)[:CHOICES]
