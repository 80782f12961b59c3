"""The embedded model: built from the published weights, and what it sees."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import numpy
import pytest
from PIL import Image

from growbin.embedded_model.build import MODEL_FILE, ensure_model, read_torch_weights
from growbin.embedded_model.classifier import (
    Classifier,
    Sighting,
    UnreadablePhoto,
    prepare,
    sightings,
)
from growbin.embedded_model.object_names import object_names
from growbin.taxonomy import Category, Material

COFFEE_CUP = Path(__file__).parents[2] / "examples" / "coffee-cup.jpg"
DOG, SODA_BOTTLE, WATER_BOTTLE, ORANGE, LEMON, BANANA = 208, 737, 898, 950, 951, 954


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def classifier(model: Path) -> Classifier:
    return Classifier(model)


def seen(probabilities: dict[int, float]) -> list[Sighting]:
    everything = numpy.zeros(1000, numpy.float32)
    everything[list(probabilities)] = list(probabilities.values())
    return sightings(object_names(), everything)


def names(things: list[Sighting]) -> list[str]:
    return [thing.label.name["en"] for thing in things]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# --- the build ---------------------------------------------------------------------------------


def test_built_model_is_kept(model: Path) -> None:
    """A second start uses the file of the first and leaves nothing else in the folder."""
    written = model.stat().st_mtime_ns
    assert ensure_model(model.parent) == model
    assert model.stat().st_mtime_ns == written
    assert [path.name for path in model.parent.iterdir()] == [MODEL_FILE]


def test_damaged_model_is_built_again(tmp_path: Path, model: Path) -> None:
    """A file cut short by a full disk is replaced by the very same model as anywhere else."""
    damaged = tmp_path / MODEL_FILE
    damaged.write_bytes(model.read_bytes()[:1000])
    assert ensure_model(tmp_path).read_bytes() == model.read_bytes()


def test_pickle_that_calls_something_is_refused(tmp_path: Path) -> None:
    """A weights file cannot run code: any name but four harmless ones is an error."""

    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "owned"),)

    with pytest.raises(pickle.UnpicklingError):
        read_torch_weights(io.BytesIO(pickle.dumps(Attack())))
    assert not (tmp_path / "owned").exists()


# --- photos ------------------------------------------------------------------------------------


def test_coffee_cup_is_a_cup(classifier: Classifier) -> None:
    """The example photo is recognised, and crockery is non-combustible waste."""
    (cup,) = classifier.classify(COFFEE_CUP.read_bytes())
    assert cup.label.name == {"ko": "머그컵", "en": "cup"}
    assert cup.label.category is Category.NON_COMBUSTIBLE
    assert cup.confidence > 0.8


def test_empty_picture_is_nothing_sure(classifier: Classifier) -> None:
    """A white picture gets three weak guesses, never an answer."""
    guesses = classifier.classify(encoded(Image.new("RGB", (300, 200), "white"), "PNG"))
    assert [guess.sure for guess in guesses] == [False, False, False]


def test_sideways_photo_is_turned_upright() -> None:
    """A photo with an EXIF orientation is prepared as the upright photo is."""
    turned = Image.Exif()
    turned[0x0112] = 6
    with Image.open(COFFEE_CUP) as upright:
        sideways = upright.transpose(Image.Transpose.ROTATE_90)
        expected = prepare(encoded(upright, "PNG"))
    assert numpy.array_equal(prepare(encoded(sideways, "PNG", exif=turned)), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "L", "1"])
def test_any_colour_mode_becomes_the_same_white(mode: str) -> None:
    """Transparent, grey, palette and print colours all end as RGB on white."""
    blank = Image.new("RGBA", (40, 30), (255, 255, 255, 0))
    picture = encoded(blank.convert(mode), "JPEG" if mode == "CMYK" else "PNG")
    pixels = prepare(picture)
    assert pixels.shape == (1, 3, 224, 224)
    assert pixels.min() == 1.0


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"no picture",
        COFFEE_CUP.read_bytes()[:5000],
        encoded(Image.new("RGB", (8, 8)), "GIF"),
        encoded(Image.new("1", (8000, 8000)), "PNG"),
    ],
    ids=["empty", "text", "cut", "gif", "64-megapixels"],
)
def test_unusable_picture_is_refused(damaged: bytes) -> None:
    """What is no JPEG, PNG or WebP, is broken or is far too large never reaches the model."""
    with pytest.raises(UnreadablePhoto):
        prepare(damaged)


# --- from probabilities to things --------------------------------------------------------------


def test_labels_of_one_thing_are_added_up() -> None:
    """Two labels for a bottle are one bottle, as sure as both together."""
    (bottle,) = seen({SODA_BOTTLE: 0.2, WATER_BOTTLE: 0.3})
    assert bottle.label.material is Material.CLEAR_PET
    assert bottle.confidence == pytest.approx(0.5)
    assert bottle.sure


def test_two_clear_things_are_two_items() -> None:
    """Two different things that both stand out are both reported, the clearer one first."""
    assert names(seen({ORANGE: 0.35, WATER_BOTTLE: 0.5})) == ["PET bottle", "orange"]


def test_weaker_second_reading_is_no_item() -> None:
    """A second reading below 0.3 is doubt about the first thing, not another thing."""
    assert names(seen({ORANGE: 0.28, WATER_BOTTLE: 0.5})) == ["PET bottle"]


def test_doubt_gives_three_guesses() -> None:
    """Below 0.25 the three best guesses are given, with their true confidence."""
    guesses = seen({ORANGE: 0.1, WATER_BOTTLE: 0.2, BANANA: 0.05, LEMON: 0.01})
    assert names(guesses) == ["PET bottle", "orange", "banana"]
    assert [round(guess.confidence, 2) for guess in guesses] == [0.2, 0.1, 0.05]
    assert not any(guess.sure for guess in guesses)


def test_thing_outside_the_table_is_no_evidence() -> None:
    """A dog, however clear, makes nothing in the table sure."""
    assert not any(guess.sure for guess in seen({DOG: 0.95, WATER_BOTTLE: 0.04}))
