"""What the embedded model sees: the shipped file, pictures that show nothing, and what two outputs say
together."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy
import pytest
from PIL import Image, ImageDraw, ImageFilter

from growbin.capabilities import capabilities_of
from growbin.embedded_model.classifier import (
    MODEL_FILE,
    PROBABLE_FROM,
    Classifier,
    Look,
    Opinion,
    _choices,
    _doubt,
    _seen,
    card,
    second_items,
)
from growbin.embedded_model.object_names import object_names
from growbin.embedded_model.pictures import UnreadablePhoto, flaw_of, upright_photo, views_of_whole
from growbin.embedded_model.server import MODEL_ID
from growbin.embedded_model.witnesses import (
    HEAD,
    SURE_FROM,
    answer_of,
    answers,
    candidates,
    evidence,
    judged,
)
from growbin.job import Sorting
from growbin.taxonomy import Category, Material

COFFEE_CUP = Path(__file__).parents[2] / "examples" / "coffee-cup.jpg"
LABRADOR, WINE_BOTTLE, JEANS, WATER_BOTTLE, COFFEE_MUG = 208, 907, 608, 898, 504
GLASS, PLASTICS = (
    Sorting(category=Category.RECYCLABLE, material=material)
    for material in (Material.GLASS, Material.PLASTICS)
)
TEXTILES = Sorting(category=Category.RECYCLABLE, material=Material.TEXTILES)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier()


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def cup() -> Image.Image:
    return upright_photo(COFFEE_CUP.read_bytes())


# --- the shipped file --------------------------------------------------------------------------


def test_shipped_file_is_small_and_the_one_of_its_card() -> None:
    """At most 10 MB, and the sha256 that its card tells."""
    model = files("growbin").joinpath("data", MODEL_FILE).read_bytes()
    assert len(model) <= 10_000_000
    assert hashlib.sha256(model).hexdigest() == card().sha256


def test_thresholds_are_those_that_the_consumer_uses() -> None:
    """They stand in the table of models as well."""
    thresholds = capabilities_of(MODEL_ID).certainty
    assert (thresholds.sure, thresholds.probable) == (SURE_FROM, PROBABLE_FROM)


def test_coffee_cup_is_a_cup(classifier: Classifier) -> None:
    """The example photo is recognised, and crockery is non-combustible waste."""
    look = classifier.look(COFFEE_CUP.read_bytes())
    assert look.seen[0].name == {"ko": "머그컵", "en": "cup"}
    assert look.seen[0].place.category is Category.NON_COMBUSTIBLE
    assert look.seen[0].confidence >= SURE_FROM
    assert (len(look.seen), look.doubt) == (1, None)


# --- pictures ----------------------------------------------------------------------------------


def page_of_text() -> Image.Image:
    page = Image.new("RGB", (600, 800), "white")
    for line in range(36):
        ImageDraw.Draw(page).text(
            (40, 20 + 21 * line), "the quick brown fox jumps over the lazy dog " * 2, fill="black"
        )
    return page


def red_square() -> Image.Image:
    picture = Image.new("RGB", (400, 300), "white")
    ImageDraw.Draw(picture).rectangle((120, 70, 280, 230), fill="red")
    return picture


@pytest.mark.parametrize(
    ("picture", "doubt"),
    [
        (Image.new("RGB", (300, 200), "black"), "dark"),
        (Image.new("RGB", (300, 200), "white"), "unknown"),
        (cup().point(lambda level: level // 8), "dark"),
        (cup().resize((224, 224)).filter(ImageFilter.GaussianBlur(6)), "blurred"),
        (red_square(), None),
        (page_of_text(), "unknown"),
        (cup().convert("L"), "unknown"),
    ],
    ids=["black", "white", "dark", "blurred", "square", "text", "colourless"],
)
def test_picture_that_shows_no_waste_is_never_sure(
    classifier: Classifier, picture: Image.Image, doubt: str | None
) -> None:
    """Neither as PNG nor as JPEG; where the picture itself is the cause, that is said."""
    for kind in ("PNG", "JPEG"):
        look = classifier.look(encoded(picture, kind))
        assert look.doubt is not None or look.seen[0].confidence < SURE_FROM
        if doubt:
            assert look.doubt == doubt


def test_sideways_photo_is_turned_upright() -> None:
    """A photo with an EXIF orientation is seen as the upright photo is."""
    turned = Image.Exif()
    turned[0x0112] = 6
    with Image.open(COFFEE_CUP) as upright:
        sideways = upright.transpose(Image.Transpose.ROTATE_90)
        expected = upright_photo(encoded(upright))
    assert upright_photo(encoded(sideways, exif=turned)).tobytes() == expected.tobytes()


def test_photo_taken_sideways_is_the_same_thing(classifier: Classifier) -> None:
    """Whatever way the phone was held."""
    turns = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180)
    turned = [classifier.look(encoded(cup().transpose(turn))) for turn in turns]
    upright = classifier.look(encoded(cup()))
    assert {look.seen[0].place.category for look in turned} == {upright.seen[0].place.category}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "L", "1"])
def test_any_colour_mode_becomes_the_same_white(mode: str) -> None:
    """Transparent, grey, palette and print colours all end as RGB on white."""
    blank = Image.new("RGBA", (40, 30), (255, 255, 255, 0))
    views = views_of_whole(upright_photo(encoded(blank.convert(mode), "JPEG" if mode == "CMYK" else "PNG")))
    assert views.shape == (5, 3, 224, 224)
    assert views.min() == 1.0


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"no picture",
        COFFEE_CUP.read_bytes()[:5000],
        encoded(Image.new("RGB", (8, 8)), "GIF"),
        encoded(Image.new("1", (8000, 8000))),
    ],
    ids=["empty", "text", "cut", "gif", "64-megapixels"],
)
def test_unusable_picture_is_refused(damaged: bytes) -> None:
    """What is no JPEG, PNG or WebP, is broken or is far too large never reaches the model."""
    with pytest.raises(UnreadablePhoto):
        upright_photo(damaged)


def test_ordinary_photo_has_no_flaw() -> None:
    """Nor has a small one."""
    assert flaw_of(cup()) is None
    assert flaw_of(cup().resize((120, 90))) is None


# --- what two outputs say together -------------------------------------------------------------


def said(head: dict[int, float], names: dict[int, float]) -> Sorting:
    """The answer when the head and the names say so."""
    materials, all_names = numpy.full((1, len(HEAD)), 0.02), numpy.full((1, 1000), 1e-5)
    materials[0, list(head)] = list(head.values())
    all_names[0, list(names)] = list(names.values())
    seen = evidence(materials / materials.sum(), all_names / all_names.sum())
    return answers()[int(judged(candidates(seen), card().weights).best[0])]


def test_head_that_knows_packaging_is_believed() -> None:
    """The names are vague about it."""
    assert said({HEAD.index(GLASS): 0.9}, {WATER_BOTTLE: 0.2, LABRADOR: 0.1}) == GLASS


def test_names_that_know_clothes_are_believed_against_the_head() -> None:
    """The head has never seen clothes: whatever material it takes them for."""
    assert said({HEAD.index(PLASTICS): 0.4, HEAD.index(GLASS): 0.3}, {JEANS: 0.8}) == TEXTILES


def test_names_decide_where_the_head_wavers() -> None:
    """Glass or plastic? The name says wine bottle."""
    unsure = {HEAD.index(GLASS): 0.4, HEAD.index(PLASTICS): 0.45}
    assert said(unsure, {WINE_BOTTLE: 0.6}) == GLASS
    assert said(unsure, {WATER_BOTTLE: 0.6}) == PLASTICS


def test_name_that_stands_alone_is_sure_where_the_head_knows_nothing() -> None:
    """However the bin of such a thing may vary: a cup is a cup. A head that is certain is heard first."""

    def best(head: float) -> tuple[Sorting, float]:
        materials, names = numpy.full((1, len(HEAD)), (1 - head) / 5), numpy.full((1, 1000), 4e-4)
        materials[0, HEAD.index(GLASS)], names[0, COFFEE_MUG] = head, 0.6
        said = judged(candidates(evidence(materials, names)), card().weights)
        return answers()[int(said.best[0])], float(said.certainty[0])

    assert best(0.4)[0].category is Category.NON_COMBUSTIBLE
    assert best(0.4)[1] >= SURE_FROM
    assert best(0.95)[0] == GLASS


def test_packaging_is_sure_only_when_both_witnesses_support_it() -> None:
    """Head and names agree, or the head is certain; a head that is fairly certain alone is never enough."""

    def certainty(head: float, name: int) -> float:
        materials, names = numpy.full((1, len(HEAD)), (1 - head) / 5), numpy.full((1, 1000), 5e-4)
        materials[0, HEAD.index(GLASS)], names[0, name] = head, 0.5
        seen = evidence(materials, names / names.sum())
        return float(judged(candidates(seen), card().weights).certainty[0])

    assert certainty(0.7, WINE_BOTTLE) >= SURE_FROM
    assert certainty(0.95, WATER_BOTTLE) >= SURE_FROM
    assert certainty(0.75, WATER_BOTTLE) < SURE_FROM


def test_anything_else_is_sure_only_when_its_name_stands_out() -> None:
    """Where the head knows nothing and the names say little, whatever the regressions make of it."""

    def certainty(jeans: float) -> float:
        names = numpy.full((1, 1000), (1 - jeans) / 999)
        names[0, JEANS] = jeans
        seen = evidence(numpy.full((1, len(HEAD)), 1 / len(HEAD)), names)
        certain = replace(card().weights, kind=(*[0.0] * (len(card().kind) - 1), 5.0), other=(0.0, 0.0, 5.0))
        told = judged(replace(candidates(seen), named_alone=numpy.zeros(1)), certain)
        assert answers()[int(told.best[0])] == TEXTILES
        return float(told.certainty[0])

    assert certainty(0.5) >= SURE_FROM
    assert PROBABLE_FROM <= certainty(0.3) < SURE_FROM


def test_evidence_is_whole() -> None:
    """Each name goes somewhere, to one place or several: nothing is lost or counted twice."""
    seen = evidence(numpy.full((3, len(HEAD)), 1 / 6), numpy.eye(1000)[[LABRADOR, JEANS, WATER_BOTTLE]])
    assert numpy.allclose(seen.names.sum(1) + seen.no_waste, 1)
    assert seen.no_waste.tolist() == [1, 0, 0]
    assert seen.names[1, answer_of(TEXTILES)] == 1
    assert 0 < seen.names[2, answer_of(PLASTICS)] < 1


def test_each_place_of_a_name_is_an_answer() -> None:
    """Every bin that a name may lead to can be answered."""
    things = [name.thing for name in object_names() if name.thing]
    for place in (place for thing in things for place in (thing, *thing.also)):
        assert answer_of(place) < len(answers())


def test_look_offers_the_likeliest_places(classifier: Classifier) -> None:
    """For a person who knows better: a few, the best one first, none twice."""
    look: Look = classifier.look(COFFEE_CUP.read_bytes())
    assert look.choices[0] == look.seen[0].place
    assert len(set(map(str, look.choices))) == len(look.choices) == 4


def test_clear_bottle_is_offered_beside_the_plastics() -> None:
    """The network has one class for both, and their bins are two."""
    clear_pet = Sorting(category=Category.RECYCLABLE, material=Material.CLEAR_PET)
    assert _choices(opinion(PLASTICS, 0.7))[:2] == (PLASTICS, clear_pet)
    assert len(_choices(opinion(PLASTICS, 0.7))) == 4


# --- what is said of it ------------------------------------------------------------------------


def opinion(place: Sorting, confidence: float, name: int = LABRADOR, *, no_waste: float = 0.0) -> Opinion:
    """Of one photo or crop; all of the names is one name."""
    names = numpy.zeros(1000, numpy.float32)
    names[name] = 1
    shares = numpy.zeros(len(answers()), numpy.float32)
    shares[answer_of(place)] = 1
    return Opinion(shares, names, no_waste, answer_of(place), confidence)


def test_thing_is_never_called_by_a_name_that_goes_elsewhere() -> None:
    """A PET bottle that is judged to be glass is something made of glass."""
    assert _seen(opinion(GLASS, 0.7, WATER_BOTTLE)).name["en"] == "something made of glass"
    assert _seen(opinion(GLASS, 0.7, WINE_BOTTLE)).name["en"] == "glass bottle"
    for name in object_names():
        for place in answers():
            seen = _seen(opinion(place, 0.7, name.index))
            if name.thing and seen.name == name.thing.name:
                assert answer_of(Sorting(category=name.thing.category, material=name.thing.material)) == (
                    answer_of(place)
                )


@pytest.mark.parametrize(
    ("crops", "doubt"),
    [
        ([], "unknown"),
        ([(GLASS, 0.4), (TEXTILES, 0.3)], "unknown"),
        ([(GLASS, 0.6), (GLASS, 0.7), (TEXTILES, 0.3)], "far"),
        ([(GLASS, 0.6), (TEXTILES, 0.6)], "several"),
    ],
)
def test_unsure_whole_is_doubted_for_what_its_crops_show(
    crops: list[tuple[Sorting, float]], doubt: str
) -> None:
    """Nothing, one thing, or more."""
    whole = opinion(PLASTICS, 0.3)
    assert _doubt(whole, [opinion(*crop) for crop in crops], [], None) == doubt


@pytest.mark.parametrize(
    ("crops", "others"),
    [
        ([(PLASTICS, 0.99), (PLASTICS, 0.99)], []),
        ([(GLASS, 0.99), (PLASTICS, 0.99)], []),
        ([(GLASS, 0.8), (GLASS, 0.6)], []),
        ([(GLASS, 0.99), (GLASS, 0.6), (TEXTILES, 0.99)], [GLASS]),
    ],
)
def test_second_item_is_another_thing_than_the_whole_in_two_crops(
    crops: list[tuple[Sorting, float]], others: list[Sorting]
) -> None:
    """One of them sure, the other probable: else it is a part of the one thing."""
    found = second_items(opinion(PLASTICS, 0.9), [opinion(*crop) for crop in crops], 0.9)
    assert [other.place for other in found] == others
