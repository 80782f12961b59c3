"""What the labels of photo collections mean."""

from __future__ import annotations

import pytest

from growbin.photo_labels import matched_name, right_answers
from growbin.taxonomy import Category, Material

RECYCLABLE, GENERAL, FOOD = Category.RECYCLABLE, Category.GENERAL, Category.FOOD


@pytest.mark.parametrize(
    "label",
    [
        *("cardboard", "glass", "metal", "paper", "plastic", "trash"),
        *("Cardboard", "Food Organics", "Glass", "Metal", "Miscellaneous Trash", "Paper", "Plastic"),
        *("Textile Trash", "Vegetation", "brown-glass", "biological"),
        *Material,
    ],
)
def test_names_of_the_known_collections_are_understood(label: str) -> None:
    """TrashNet's, RealWaste's, the Garbage Dataset's and our own, in whatever way they are written."""
    assert right_answers(label)


@pytest.mark.parametrize("label", ["", "dog", "recyclable", "unclassified"])
def test_name_without_a_meaning_has_no_right_answer(label: str) -> None:
    """What says nothing about the bin cannot be judged."""
    assert right_answers(label) == ()


@pytest.mark.parametrize(
    ("label", "category", "material", "name"),
    [
        ("glass", RECYCLABLE, Material.GLASS, "glass"),
        ("glass", Category.NON_COMBUSTIBLE, Material.GLASS, "glass"),
        ("glass", RECYCLABLE, Material.CLEAR_PET, None),
        ("plastic", RECYCLABLE, Material.CLEAR_PET, "clear_pet"),
        ("clear_pet", RECYCLABLE, Material.PLASTICS, None),
        ("trash", GENERAL, Material.PAPER, "general"),
        ("trash", RECYCLABLE, Material.FILM, "film"),
        ("trash", RECYCLABLE, Material.PAPER, None),
        ("Food Organics", FOOD, None, "food"),
        ("Textile Trash", GENERAL, None, "general"),
        ("batteries", Category.HAZARDOUS, Material.BATTERIES, "batteries"),
        ("metal", Category.UNCLASSIFIED, None, None),
    ],
)
def test_answer_is_judged_by_material_or_category(
    label: str, category: Category, material: Material | None, name: str | None
) -> None:
    """A recyclable is right by its material, whatever its state; the rest by the way it goes."""
    assert matched_name(label, category, material) == name
