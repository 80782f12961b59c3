"""Labelled photos: a folder of folders, one for each label, or a manifest that names them."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from growbin.photo_labels import known_labels, right_answers

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif"})
MANIFEST_SUFFIXES = frozenset({".csv", ".jsonl", ".ndjson"})
COLUMNS = ("path", "file", "label", "material", "collection", "source", "object")


class BadPhotos(Exception):
    """The labelled photos cannot be used; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class LabelledPhoto:
    """`name` is the path as it is written down: inside the folder, or as the manifest has it. Photos may
    come from several collections, and several may show one object."""

    path: Path
    name: str
    label: str
    collection: str | None = None
    object: str | None = None


def find_photos(source: Path, limit: int | None, seed: int) -> list[LabelledPhoto]:
    """The photos of a folder or manifest, or a sample of at most `limit`: with one seed the same photos
    everywhere, and a larger sample has those of a smaller one. Raises BadPhotos."""
    try:
        found = list(_of_folder(source) if source.is_dir() else _of_manifest(source))
    except (OSError, UnicodeError) as error:
        raise BadPhotos(f"{source} cannot be read: {error}") from None
    if not found:
        wanted = (
            "a folder for each label, with JPEG, PNG, WebP or HEIC photos" if source.is_dir() else "a photo"
        )
        raise BadPhotos(f"{source} holds no labelled photo: it needs {wanted}.")
    _check_labels(found)
    drawn = sorted(found, key=lambda photo: hashlib.sha256(f"{seed}:{photo.name}".encode()).digest())
    return sorted(drawn[:limit], key=lambda photo: (photo.label, photo.name))


def _of_folder(folder: Path) -> Iterator[LabelledPhoto]:
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in inside.parts)
        if path.suffix.lower() in SUFFIXES and len(inside.parts) > 1 and not is_hidden and path.is_file():
            name = inside.as_posix().encode(errors="replace").decode()  # a name may be no UTF-8
            yield LabelledPhoto(path, name, name.partition("/")[0])


def _of_manifest(manifest: Path) -> Iterator[LabelledPhoto]:
    """A line a photo, with `path` or `file` (from the manifest's folder on) and `label`; `collection` or
    `source`, and `object`, where they are known. A label that is a name of the collection's own (a hat) may
    be explained by a `material`."""
    if manifest.suffix.lower() not in MANIFEST_SUFFIXES:
        raise BadPhotos(f"{manifest} is neither a folder nor a manifest (.csv, .jsonl).")
    for number, row in _rows(manifest):
        told = {name: str(row[name]) for name in COLUMNS if row.get(name)}
        path, label = told.get("path") or told.get("file"), told.get("label") or told.get("material")
        if path is None or label is None:
            raise BadPhotos(f"{manifest}, line {number}: it needs `path` and `label`.")
        if not right_answers(label):
            label = told.get("material", label)
        collection = told.get("collection") or told.get("source")
        yield LabelledPhoto(manifest.parent / path, path, label, collection, told.get("object"))


def _rows(manifest: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with manifest.open(encoding="utf-8-sig", newline="") as file:
        if manifest.suffix.lower() == ".csv":
            rows = csv.DictReader(file)
            for row in rows:
                yield rows.line_num, row
            return
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield number, dict(json.loads(line))
            except (TypeError, ValueError):
                raise BadPhotos(f"{manifest}, line {number}: it is no JSON object.") from None


def _check_labels(photos: Sequence[LabelledPhoto]) -> None:
    unknown = sorted({photo.label for photo in photos if not right_answers(photo.label)})
    if unknown:
        raise BadPhotos(
            f"nothing is known of the label {', '.join(unknown)}: "
            f"name it as one of {', '.join(known_labels())}."
        )
