"""The training as a command, on drawn pictures: seconds instead of an hour, and nothing learned."""

from __future__ import annotations

import csv
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnxruntime
import pytest
from PIL import Image, ImageDraw

from growbin.embedded_model.classifier import CARD_FILE, MODEL_FILE
from growbin.embedded_model.train.collections import CORRECTED_LABELS, training_photos
from growbin.embedded_model.train.folds import folds, origin_of
from growbin.labelled_photos import BadPhotos
from growbin.photo_labels import right_answers

LABELS = {"glass": "green", "metal": "silver", "paper": "white", "trash": "brown", "food": "red"}
PHOTOS = 10  # of each label and collection


def drawn(folder: Path) -> Path:
    """Two collections of coloured shapes; one has a manifest."""
    chance = random.Random(1)
    for collection in ("first", "second"):
        lines = ["file,label,source"]
        for label, colour in LABELS.items():
            (folder / collection / label).mkdir(parents=True)
            for number in range(PHOTOS):
                picture = Image.new("RGB", (120, 90), "grey")
                left, top = chance.randrange(60), chance.randrange(40)
                box = (left, top, left + chance.randrange(20, 60), top + chance.randrange(20, 50))
                ImageDraw.Draw(picture).ellipse(box, fill=colour)
                picture.save(folder / collection / label / f"{number}.png")
                lines.append(f"{label}/{number}.png,{label},hand")
        if collection == "second":
            (folder / collection / "manifest.csv").write_text("\n".join(lines) + "\n")
    (folder / "notes").mkdir()
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(tmp_path_factory.mktemp("data"))


def command(data: Path, work: Path) -> list[str]:
    recipe = ["--epochs", "2", "--views", "2", "--work", str(work), "--out", str(work / "made")]
    return [sys.executable, "-m", "growbin.embedded_model.train", str(data), *recipe]


def trained(data: Path, work: Path) -> bytes:
    done = subprocess.run(command(data, work), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return (work / "made" / MODEL_FILE).read_bytes()


@pytest.fixture(scope="module")
def first(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("first")
    trained(data, work)
    return work


def test_same_photos_and_seed_give_the_same_file(data: Path, first: Path, tmp_path: Path) -> None:
    """To the byte, in another folder."""
    assert trained(data, tmp_path) == (first / "made" / MODEL_FILE).read_bytes()


def test_training_that_was_stopped_goes_on_to_the_same_file(data: Path, first: Path, tmp_path: Path) -> None:
    """Stopped like by Ctrl-C after an epoch: it says that it can go on, and the next run ends as if it had
    not been."""
    running = subprocess.Popen(command(data, tmp_path), stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("without *.pt")):
        assert running.poll() is None
        time.sleep(0.05)  # the checkpoint is another process's: it can only be polled
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Run it again to go on" in told
    assert trained(data, tmp_path) == (first / "made" / MODEL_FILE).read_bytes()


def test_file_is_small_and_its_card_tells_what_it_was_made_of(first: Path) -> None:
    """At most 10 MB; photos, licences, seed and hashes are named; both outputs are there."""
    made = first / "made"
    assert (made / MODEL_FILE).stat().st_size <= 10_000_000
    card = json.loads((made / CARD_FILE).read_text())
    assert card["made"]["recipe"]["seed"] == 0
    assert card["made"]["photos"]["first"] == card["made"]["photos"]["hand"] == PHOTOS * len(LABELS)
    assert len(card["made"]["photos"]["sha256"]) == 64
    session = onnxruntime.InferenceSession(made / MODEL_FILE, providers=["CPUExecutionProvider"])
    assert {output.name for output in session.get_outputs()} == {"materials", "names", "features"}
    assert {path.suffix for path in made.iterdir()} == {".onnx", ".json", ".png"}


@pytest.mark.parametrize(
    ("folder", "told"), [(".", "holds no folder of labelled photos"), ("mistyped", "mistyped is no folder")]
)
def test_folder_without_photos_is_told_in_one_sentence(tmp_path: Path, folder: str, told: str) -> None:
    """And nothing is trained."""
    done = subprocess.run(command(tmp_path / folder, tmp_path / "work"), capture_output=True, text=True)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_labels_teach_what_they_mean(data: Path) -> None:
    """Food is left to the object names, trash is what is not recycled; the origin of two exports is one."""
    photos = training_photos(data)
    assert {photo.photo.label: photo.classes for photo in photos} == {
        "glass": (2,),
        "metal": (3,),
        "paper": (0,),
        "trash": (5,),
        "food": (),
    }
    assert {origin_of(photo) for photo in photos} == {"first", "hand"}
    with pytest.raises(BadPhotos):
        training_photos(data / "notes")


def test_photos_of_one_object_are_in_one_fold(data: Path) -> None:
    """Those whose features are alike go together, and each fold has its share."""
    import numpy

    photos = training_photos(data)
    features = numpy.random.default_rng(0).normal(size=(len(photos), 1280))
    features[1] = features[0] + 0.01
    fold = folds(photos, features)
    assert fold[0] == fold[1]
    assert sorted(numpy.bincount(fold)) == [20] * 5


def test_corrected_label_is_one_that_means_something() -> None:
    """By the photo's sha256, each once, with a word of where it is from."""
    with CORRECTED_LABELS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["sha256"] for row in rows}) == len(rows)
    assert all(len(row["sha256"]) == 64 and right_answers(row["label"]) and row["file"] for row in rows)
