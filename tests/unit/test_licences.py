"""What the package is made of is told with it."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

DATA = files("growbin") / "data"


@pytest.mark.parametrize("name", ["Apache-2.0", "MIT", "CC-BY-4.0", "CC0-1.0"])
def test_each_licence_of_the_notice_stands_beside_it(name: str) -> None:
    """As a text of its own, which NOTICE names."""
    assert f"licences/{name}.txt" in (DATA / "NOTICE").read_text()
    assert len((DATA / "licences" / f"{name}.txt").read_text()) > 1000


def test_notice_counts_the_photos_that_the_model_was_made_from() -> None:
    """The card's collections and the table's numbers are the same."""
    notice = (DATA / "NOTICE").read_text()
    photos = json.loads((DATA / "embedded_model.json").read_text())["made"]["photos"]
    del photos["sha256"]
    assert sum(photos.values()) == 4813
    for count in photos.values():
        assert f"{count:,} |" in notice
