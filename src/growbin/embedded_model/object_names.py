"""What ImageNet's 1,000 names mean to a household: the reviewed table of `data/labels.json`."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from growbin.job import Locale, Noun, Sorting
from growbin.taxonomy import Condition

# Why a name is no evidence for any bin. A "place" is also what stands in it for good; a "thing" is never put
# in a household's bin, or its name is too vague to tell.
NoWaste = Literal["animal", "person", "plant", "nature", "place", "vehicle", "thing"]


class HouseholdThing(Sorting, extra="forbid"):
    """A thing that a household throws away. `condition` holds only what is true of every such thing
    (a phone has a battery), never what a photo would have to show. `also` is where such a thing
    often goes as well, because its name does not tell what it is made of."""

    name: Annotated[dict[Locale, str], Field(min_length=2)]  # two languages, so both
    condition: list[Condition]
    also: list[Sorting]


class ObjectName(Noun, extra="forbid"):
    """One ImageNet name: a thing for some bin, or the reason why it is none."""

    index: int
    label: str
    thing: HouseholdThing | None = None
    no_waste: NoWaste | None = None

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.thing is None) == (self.no_waste is None):
            raise ValueError(f"{self.label}: either a thing or no waste")
        return self


@cache
def object_names() -> tuple[ObjectName, ...]:
    """All 1,000; the index of each is its place."""
    table = files("growbin").joinpath("data/labels.json").read_bytes()
    return TypeAdapter(tuple[ObjectName, ...]).validate_json(table)
