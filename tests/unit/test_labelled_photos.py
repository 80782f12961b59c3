"""Where the labelled photos of an evaluation come from, and its file of results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from growbin.commands.evaluation_results import PhotoResult, keep, read_results, results_file
from growbin.labelled_photos import BadPhotos, LabelledPhoto, find_photos


def folder_of(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def test_folder_gives_the_photos_of_each_label(tmp_path: Path) -> None:
    """Deeper folders belong to their label; whatever is no photo, hidden or without label is passed over."""
    names = ("glass/a.JPG", "Food Organics/deep/b.webp", "glass/notes.txt", "c.png", "glass/.d.png")
    found = find_photos(folder_of(tmp_path, *names), None, 0)
    assert [(photo.label, photo.name) for photo in found] == [
        ("Food Organics", "Food Organics/deep/b.webp"),
        ("glass", "glass/a.JPG"),
    ]


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_manifest_gives_its_photos_with_what_it_knows(tmp_path: Path, name: str) -> None:
    """Paths start at the manifest; collection and object may be there."""
    rows = [
        {"path": "a.jpg", "label": "glass", "collection": "ours", "object": "7"},
        {"path": "b.jpg", "label": "food", "collection": "", "object": ""},
    ]
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    text = "\n".join(lines if name.endswith("csv") else map(json.dumps, rows)) + "\n"
    (tmp_path / name).write_text(text)
    assert find_photos(tmp_path / name, None, 0) == [
        LabelledPhoto(tmp_path / "b.jpg", "b.jpg", "food"),
        LabelledPhoto(tmp_path / "a.jpg", "a.jpg", "glass", "ours", "7"),
    ]


def test_manifest_of_a_collection_is_read_by_its_own_headings(tmp_path: Path) -> None:
    """`file` and `source` are taken as well, and a label that only the collection knows by its material."""
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(
        "file,material,label,source\na.jpg,textiles,hat,wardrobe\nb.jpg,textiles,clothes,wardrobe\n"
    )
    assert [(photo.name, photo.label, photo.collection) for photo in find_photos(manifest, None, 0)] == [
        ("b.jpg", "clothes", "wardrobe"),
        ("a.jpg", "textiles", "wardrobe"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("list.csv", "path,label\na.jpg,dog\n", "nothing is known of the label dog"),
        ("list.csv", "photo,label\na.jpg,glass\n", "line 2: it needs `path` and `label`"),
        ("list.jsonl", '{"path": "a.jpg", "label": "glass"}\n7\n', "line 2: it is no JSON object"),
        ("list.csv", "path,label\n", "holds no labelled photo"),
        ("list.txt", "", "neither a folder nor a manifest"),
        ("list.csv", "\x00\udcff", "cannot be read"),
    ],
)
def test_bad_manifest_is_refused_in_one_sentence(tmp_path: Path, name: str, text: str, told: str) -> None:
    """It says what is wrong and where."""
    (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BadPhotos) as refusal:
        find_photos(tmp_path / name, None, 0)
    assert told in str(refusal.value)


def test_sample_is_the_same_everywhere_and_grows(tmp_path: Path) -> None:
    """A larger sample holds the smaller one, so what was answered stays of use; another seed draws others."""
    folder = folder_of(tmp_path, *(f"glass/{number}.jpg" for number in range(40)))
    small, large, other = (set(find_photos(folder, *drawn)) for drawn in ((10, 1), (20, 1), (10, 2)))
    assert small < large
    assert (len(small), len(large)) == (10, 20)
    assert small != other


def result(path: str, model: str = "one", **changes: object) -> PhotoResult:
    told = {"path": path, "sha256": "0", "label": "glass", "model": model, "ms": 1} | changes
    return PhotoResult.model_validate(told)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True))
def test_any_results_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    """Whatever a path holds."""
    path = tmp_path_factory.mktemp("results") / "results.jsonl"
    with results_file(path) as file:
        for name in names:
            keep(file, result(name))
    assert [found.path for found in read_results(path).values()] == names


def test_line_that_was_cut_off_is_passed_over_and_replaced(tmp_path: Path) -> None:
    """A process that was killed while it wrote costs one answer, not the file."""
    path = tmp_path / "results.jsonl"
    with results_file(path) as file:
        keep(file, result("a"))
    path.write_bytes(path.read_bytes() + '{"path": "가'.encode()[:-1])
    assert [found.path for found in read_results(path).values()] == ["a"]
    with results_file(path) as file:
        keep(file, result("b"))
    assert [found.path for found in read_results(path).values()] == ["a", "b"]


def test_results_of_another_model_are_another_ones(tmp_path: Path) -> None:
    """One file may hold the answers of several; the last line of a photo counts."""
    path = tmp_path / "results.jsonl"
    with results_file(path) as file:
        for one in (result("a"), result("a", "two"), result("a", sure=True)):
            keep(file, one)
    assert [found.sure for found in read_results(path, "one").values()] == [True]
    assert [found.model for found in read_results(path, "two").values()] == ["two"]


@pytest.mark.parametrize("text", ["my diary", "my diary\n", '{"path": 7}\n'])
def test_file_that_holds_something_else_is_refused(tmp_path: Path, text: str) -> None:
    """It is neither believed nor written over."""
    path = tmp_path / "diary.txt"
    path.write_text(text)
    with pytest.raises(BadPhotos):
        read_results(path)
    assert path.read_text() == text
