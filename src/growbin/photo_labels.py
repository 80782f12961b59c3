"""What the labels of photo collections mean: which answers are right for a photo of that label.

The ids of our own materials and categories are labels that mean themselves; the names that others use
stand in `data/photo_labels.json`, with their sources.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Self

from pydantic import Field, model_validator

from growbin.job import Noun
from growbin.taxonomy import Category, Material


class RightAnswer(Noun, extra="forbid"):
    """A pair of category and material; None stands for any."""

    category: Category | None = None
    material: Material | None = None

    @property
    def name(self) -> str:
        return str(self.material or self.category)

    def fits(self, category: Category, material: Material | None) -> bool:
        return self.category in (None, category) and self.material in (None, material)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.category is None and self.material is None:
            raise ValueError("a right answer needs a category or a material")
        return self


def right_answers(label: str) -> tuple[RightAnswer, ...]:
    """The answers that are right for `label`, written in whatever way; empty when it is not known."""
    return _meanings().get(_plain(label), ())


def matched_name(label: str, category: Category, material: Material | None) -> str | None:
    """The name of the right answer that was given, or None when the answer is wrong."""
    fitting = (right.name for right in right_answers(label) if right.fits(category, material))
    return next(fitting, None)


def known_labels() -> list[str]:
    return sorted(_meanings())


def _plain(label: str) -> str:
    """`Food Organics`, `food-organics` and `food_organics` are one label."""
    return re.sub(r"[\s_-]+", "_", label.strip().lower())


# --- the shape of data/photo_labels.json; anything unknown in it is an error ---------------------


class _Meaning(Noun, extra="forbid"):
    names: Annotated[tuple[str, ...], Field(min_length=1)]
    sources: Annotated[tuple[str, ...], Field(min_length=1)]
    right: Annotated[tuple[RightAnswer, ...], Field(min_length=1)]
    why: str = ""


class _Table(Noun, extra="forbid"):
    sources: dict[str, str]
    labels: tuple[_Meaning, ...]

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        used = {source for meaning in self.labels for source in meaning.sources}
        if used != set(self.sources):
            raise ValueError(f"sources: {sorted(used ^ set(self.sources))} used or known only")
        names = [name for meaning in self.labels for name in meaning.names]
        if len(set(names)) != len(names) or names != [_plain(name) for name in names]:
            raise ValueError("each name stands once, in its plain form")
        return self


@cache
def _meanings() -> Mapping[str, tuple[RightAnswer, ...]]:
    table = _Table.model_validate_json(files("growbin").joinpath("data/photo_labels.json").read_bytes())
    own = {material.value: (RightAnswer(material=material),) for material in Material}
    own |= {
        category.value: (RightAnswer(category=category),)
        for category in Category
        if category not in (Category.RECYCLABLE, Category.UNCLASSIFIED)
    }
    return own | {name: meaning.right for meaning in table.labels for name in meaning.names}
