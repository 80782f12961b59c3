"""The shape of the rules. Anything unknown in them is an error.

    category + material  --choices-->   a rule: bin, recyclable or not, steps, cautions, source
    + conditions         --switches-->  perhaps another rule  (broken glass is no longer glass for recycling)
    + conditions         --notes-->     cautions, and steps that come before the rule's own

A switch or note takes effect when *all* its conditions are seen and the rule in force by then is
one of its `rules` ("*" stands for any text). Switches are tried once, in the order of the data, so
they may chain: a fluorescent lamp becomes a lamp, and a broken lamp becomes non-combustible waste.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable
from datetime import date
from fnmatch import fnmatchcase
from functools import cached_property
from importlib.resources import files
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter, model_validator

from growbin.job import DoubtReason, Locale, Noun
from growbin.taxonomy import Category, Condition, Material

STEP_LIMITS: dict[Locale, int] = {"ko": 60, "en": 90}  # characters: one line or two on a phone
GENERAL_PRACTICE = "general_practice"  # the source of what no authority says


def _fits_a_phone(step: Text) -> Text:
    for locale, limit in STEP_LIMITS.items():
        if len(step[locale]) > limit:
            raise ValueError(f"step longer than {limit} characters: {step[locale]}")
    return step


Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Text = Annotated[dict[Locale, Line], Field(min_length=2)]  # two languages, so both
Step = Annotated[Text, AfterValidator(_fits_a_phone)]


class Rule(Noun, extra="forbid"):
    """`source` and `bin` are keys of the lists of that name; `as_of` is the date of the source, null for
    general practice. Of a `guarded` rule an overlay may drop nothing: it would be dangerous."""

    title: Text
    source: str
    as_of: date | None
    recyclable: bool
    bin: str
    guarded: bool = False
    steps: Annotated[list[Step], Field(min_length=1)]
    cautions: list[Text]
    days: Text | None = None  # when it is collected; only an overlay knows


class Effect(Noun, extra="forbid"):
    """When all of `when` is seen on an item under one of `rules`, and the options are as `only` says."""

    when: Annotated[frozenset[Condition], Field(min_length=1)]
    rules: Annotated[list[str], Field(min_length=1)]
    only: dict[str, bool] = Field(default_factory=dict)
    caution: Text | None = None

    def applies(self, rule_id: str, conditions: frozenset[Condition]) -> bool:
        return self.when <= conditions and any(fnmatchcase(rule_id, pattern) for pattern in self.rules)


class Switch(Effect):
    """Another rule takes over."""

    becomes: str


class Note(Effect):
    """Something more is said."""

    steps: tuple[Step, ...] = ()

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.steps and not self.caution:
            raise ValueError("a note needs a caution or steps")
        return self


class NextPhoto(Noun, extra="forbid"):
    """What to photograph next, if any of these is seen on the best item; without any it fits everything."""

    conditions: frozenset[Condition] = frozenset()
    materials: frozenset[Material] = frozenset()
    categories: frozenset[Category] = frozenset()
    text: Text

    @property
    def fits_everything(self) -> bool:
        return not (self.conditions or self.materials or self.categories)


class Thing(Noun, extra="forbid"):
    """What people ask about by name. `rule` names a rule to which no finding leads; `steps` take the place
    of the rule's, `cautions` come before them. `entry` is a number in the source's dictionary."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    names: Annotated[dict[Locale, Annotated[list[Line], Field(min_length=1)]], Field(min_length=2)]
    category: Category
    material: Material | None = None
    condition: tuple[Condition, ...] = ()
    rule: str | None = None
    steps: tuple[Step, ...] = ()
    cautions: tuple[Text, ...] = ()
    source: str | None = None
    as_of: date | None = None
    entry: int | None = None


class Place(Noun):
    """The municipality whose overlay is in force."""

    name: Text
    contact: Text | None
    source: str
    as_of: date
    options: frozenset[str]  # those that it has set


def _in_order(value: object) -> object:
    """A set has another order in each process."""
    return sorted(value) if isinstance(value, frozenset) else str(value)


class Rulebook(Noun, extra="forbid"):
    """All of `data/rules.json` and `data/things.json`, and what an overlay has changed."""

    sources: dict[str, Text]
    bins: dict[str, Text]
    options: dict[str, bool] = Field(default_factory=dict)  # what differs by place
    rules: dict[str, Rule]
    choices: dict[Category, dict[Material | Literal["otherwise"], str]]
    switches: list[Switch]
    notes: list[Note]
    nothing_seen: Text
    next_photos: dict[DoubtReason, Annotated[list[NextPhoto], Field(min_length=1)]]
    things: tuple[Thing, ...] = ()
    place: Place | None = None

    def choose(self, category: Category, material: Material | None) -> str:
        """The rule to start from. Some materials outweigh the category: no battery goes in a bag."""
        choice = self.choices[category]
        return choice.get(material or "otherwise", choice["otherwise"])

    def called(self, name: str, locale: Locale) -> str | None:
        """The id of the thing with this name."""
        asked = letters_of(name)
        names = ((thing.id, known) for thing in self.things for known in thing.names[locale])
        return next((thing_id for thing_id, known in names if letters_of(known) == asked), None)

    def start_of(self, thing: Thing) -> str:
        """The rule from which a thing's advice starts."""
        return thing.rule or self.choose(thing.category, thing.material)

    def settle(self, rule_id: str, conditions: frozenset[Condition]) -> tuple[str, list[Switch]]:
        """The rule in force for what is seen, and the switches that led to it."""
        taken = []
        for switch in self.switches:
            if switch.applies(rule_id, conditions) and self._is_on(switch):
                rule_id = switch.becomes
                taken.append(switch)
        return rule_id, taken

    def notes_on(self, rule_id: str, conditions: frozenset[Condition]) -> list[Note]:
        return [note for note in self.notes if note.applies(rule_id, conditions) and self._is_on(note)]

    def _is_on(self, effect: Effect) -> bool:
        return all(self.options[option] is value for option, value in effect.only.items())

    @cached_property
    def version(self) -> str:
        """Another one whenever anything in the rules is another, and the same in every process."""
        told = json.dumps(self.model_dump(), default=_in_order)
        return hashlib.sha256(told.encode()).hexdigest()[:12]

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        """Every id that is used exists, and every entry is used."""
        effects: list[Effect] = [*self.switches, *self.notes]
        reached = {rule_id for choice in self.choices.values() for rule_id in choice.values()}
        reached |= {switch.becomes for switch in self.switches}
        reached |= {thing.rule for thing in self.things if thing.rule}
        _must_agree("rules", reached, self.rules)
        _must_agree("bins", {rule.bin for rule in self.rules.values()}, self.bins)
        sources = {rule.source for rule in self.rules.values()}
        sources |= {thing.source for thing in self.things if thing.source}
        sources |= {self.place.source} if self.place else set()
        _must_agree("sources", sources, self.sources)
        _must_agree("categories", self.choices, Category)
        _must_agree("conditions", {seen for effect in effects for seen in effect.when}, Condition)
        _must_agree("options", {option for effect in effects for option in effect.only}, self.options)
        for pattern in (pattern for effect in effects for pattern in effect.rules):
            if not any(fnmatchcase(rule_id, pattern) for rule_id in self.rules):
                raise ValueError(f"no rule is called {pattern}")
        if any("otherwise" not in choice for choice in self.choices.values()):
            raise ValueError("each category needs an `otherwise`")
        _must_agree("reasons", self.next_photos, get_args(DoubtReason))
        for *others, last in self.next_photos.values():
            if not last.fits_everything or any(photo.fits_everything for photo in others):
                raise ValueError("the last of a reason's next_photos, and only that one, fits everything")
        return self

    @model_validator(mode="after")
    def _dates_its_sources(self) -> Self:
        dated: list[tuple[str, Rule | Thing]] = [*self.rules.items()]
        dated += [(thing.id, thing) for thing in self.things if thing.source]
        for name, entry in dated:
            if (entry.as_of is None) != (entry.source == GENERAL_PRACTICE):
                raise ValueError(f"{name}: a source has a date, and {GENERAL_PRACTICE} has none")
        return self

    @model_validator(mode="after")
    def _names_each_thing_once(self) -> Self:
        ids = [thing.id for thing in self.things]
        if repeated := {thing_id for thing_id in ids if ids.count(thing_id) > 1}:
            raise ValueError(f"things: {sorted(repeated)} stand there twice")
        for locale in get_args(Locale):
            owners: dict[str, str] = {}
            for thing in self.things:
                for name in thing.names[locale]:
                    known = owners.setdefault(letters_of(name), thing.id)
                    if known != thing.id:
                        raise ValueError(f"things: both {known} and {thing.id} are called {name}")
        return self


def letters_of(name: str) -> str:
    """What makes a name: letters and digits, small ones. Korean syllables are taken apart, so that one wrong
    vowel is one wrong letter."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    return "".join(letter for letter in plain if letter.isalnum())


def _must_agree(what: str, used: Iterable[str], known: Iterable[str]) -> None:
    used, known = set(used), set(known)
    if used != known:
        raise ValueError(f"{what}: unknown {sorted(used - known)}, unused {sorted(known - used)}")


def national_rulebook() -> Rulebook:
    """The rules that ship."""
    data = files("growbin").joinpath("data")
    things = TypeAdapter(list[Thing]).validate_json(data.joinpath("things.json").read_bytes())
    rules = TypeAdapter(dict[str, object]).validate_json(data.joinpath("rules.json").read_bytes())
    return Rulebook.model_validate({**rules, "things": things})
