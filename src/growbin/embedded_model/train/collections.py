"""The photos to learn from, by collection, with what each label allows."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from growbin.embedded_model.witnesses import HEAD
from growbin.labelled_photos import BadPhotos, LabelledPhoto, find_photos
from growbin.photo_labels import right_answers

# Photos of a collection that has fewer teach, but are no measure of it.
MEASURED_FROM_PHOTOS = 100
# A collection that is left out is asked for kinds that so many photos of others teach.
TAUGHT_FROM_PHOTOS = 50
# Photos that show something else than their label says, each looked at: plastic bottles among the electronics
# of one collection, clean sheets of paper among the general waste of another. By their content, so that the
# photos of others are never taken for them.
CORRECTED_LABELS = Path(__file__).with_name("corrected_labels.csv")


@dataclass(frozen=True, slots=True)
class TrainingPhoto:
    """`classes` are the classes of the head that the label allows, by number: several where the label is
    coarse, none where only the object names can tell (clothes, food, electronics)."""

    photo: LabelledPhoto
    collection: str
    classes: tuple[int, ...]
    sha256: str


def training_photos(data: Path) -> list[TrainingPhoto]:
    """The photos of every folder inside `data` that is a collection: one with a `manifest.csv`, else one with
    a folder for each label. Collections come in the order of their names; labels known to be wrong are
    corrected. Raises BadPhotos."""
    corrected = _corrected_labels()
    photos: list[TrainingPhoto] = []
    if not data.is_dir():
        raise BadPhotos(f"{data} is no folder. It should hold a folder for each collection of photos.")
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        manifest = folder / "manifest.csv"
        has_labels = any(path.is_dir() and right_answers(path.name) for path in folder.iterdir())
        if not manifest.is_file() and not has_labels:
            continue
        for photo in find_photos(manifest if manifest.is_file() else folder, None, 0):
            collection = photo.collection or folder.name
            digest = hashlib.sha256(photo.path.read_bytes()).hexdigest()
            shown = replace(photo, label=corrected.get(digest, photo.label))
            photos.append(TrainingPhoto(shown, collection, _classes(shown.label), digest))
    if not any(photo.classes for photo in photos):
        raise BadPhotos(f"{data} holds no folder of labelled photos with a material to learn.")
    return photos


def digest_of(photos: list[TrainingPhoto]) -> str:
    """One sha256 for all photos and their labels: it names the data that a model was made from."""
    lines = sorted(f"{photo.sha256} {photo.photo.label}\n" for photo in photos)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def counted(photos: list[TrainingPhoto]) -> dict[str, int]:
    """Photos of each collection."""
    return dict(sorted(Counter(photo.collection for photo in photos).items()))


def _corrected_labels() -> dict[str, str]:
    with CORRECTED_LABELS.open(newline="") as file:
        return {row["sha256"]: row["label"] for row in csv.DictReader(file)}


def _classes(label: str) -> tuple[int, ...]:
    """Of a label that may also mean what no class is (textiles, for one), the first meaning decides."""
    allowed = right_answers(label)
    fitting = tuple(
        number
        for number, place in enumerate(HEAD)
        if any(
            right.material is place.material and right.category in (None, place.category) for right in allowed
        )
    )
    first = allowed[0]
    is_of_the_head = any(
        first.material is place.material and first.category in (None, place.category) for place in HEAD
    )
    return fitting if is_of_the_head else ()
