"""Which bin, and how. Everything that is said stands in `data/rules.json`; this module looks it up.

    category + material  --choices-->   a rule: bin, recyclable or not, steps, cautions, source
    + conditions         --switches-->  perhaps another rule  (broken glass is no longer glass for recycling)
    + conditions         --notes-->     cautions, and steps that come before the rule's own

A switch or note takes effect when *all* its conditions are seen and the rule in force by then is
one of its `rules` ("*" stands for any text). Switches are tried once, in the order of the data, so
they may chain: a fluorescent lamp becomes a lamp, and a broken lamp becomes non-combustible waste.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from growbin.certainty import Thresholds, certainty_of, doubt_of
from growbin.job import (
    MOST_CHOICES,
    Advice,
    AdvisedItem,
    Analysis,
    AskBack,
    Certainty,
    Choice,
    DoubtReason,
    Finding,
    Locale,
    Noun,
    RuleReference,
    Sorting,
)
from growbin.taxonomy import Category, Condition, Material

STEP_LIMITS: dict[Locale, int] = {"ko": 60, "en": 90}  # characters: one line or two on a phone


@dataclass(frozen=True, slots=True)
class Advised:
    """The advice for a whole photo. There is always at least one item, the most confident first.

    Unless it is sure, `ask_back` says what to photograph next.
    """

    items: list[AdvisedItem]
    waste_type: str
    certainty: Certainty
    ask_back: AskBack | None

    @property
    def is_sure(self) -> bool:
        return self.certainty == "sure"


def advise(finding: Finding, locale: Locale) -> Advice:
    """The advice for one finding, in one language."""
    book = _rulebook()
    conditions = frozenset(finding.condition)
    rule_id = book.choose(finding.category, finding.material)
    steps: list[Text] = []
    cautions: list[Text | None] = []
    for switch in book.switches:
        if switch.applies(rule_id, conditions):
            rule_id = switch.becomes
            cautions.append(switch.caution)
    for note in book.notes:
        if note.applies(rule_id, conditions):
            steps.extend(note.steps)
            cautions.append(note.caution)
    rule = book.rules[rule_id]
    return Advice(
        recyclable=rule.recyclable,
        bin=book.bins[rule.bin][locale],
        steps=_said_once([*steps, *rule.steps], locale),
        cautions=_said_once([*cautions, *rule.cautions], locale),
        rule=RuleReference(
            id=rule_id,
            title=rule.title[locale],
            source=book.sources[rule.source][locale],
            as_of=rule.as_of.isoformat() if rule.as_of else None,
        ),
    )


def advise_all(analysis: Analysis, locale: Locale, thresholds: Thresholds) -> Advised:
    """The advice for everything in the photo. Where nothing was seen, one item says so and asks back."""
    findings = sorted(analysis.items, key=lambda finding: finding.confidence, reverse=True)
    findings = findings or [_nothing_seen(locale)]
    items = [_advised_item(finding, locale) for finding in findings]
    certainty = certainty_of(analysis, thresholds)
    return Advised(
        items=items,
        waste_type=items[0].name,
        certainty=certainty,
        ask_back=None if certainty == "sure" else _ask_back(analysis, items, locale),
    )


def _nothing_seen(locale: Locale) -> Finding:
    return Finding(
        name=_rulebook().nothing_seen[locale],
        category=Category.UNCLASSIFIED,
        material=None,
        confidence=0,
        condition=[Condition.NOT_IDENTIFIABLE],
    )


def _advised_item(finding: Finding, locale: Locale) -> AdvisedItem:
    return AdvisedItem(**dict(finding), **dict(advise(finding, locale)))


def _ask_back(analysis: Analysis, items: list[AdvisedItem], locale: Locale) -> AskBack:
    reason = doubt_of(analysis)
    fitting = (photo.text for photo in _rulebook().next_photos[reason] if photo.fits(items[0]))
    choices = [] if reason == "not_waste" else _choices(analysis.choices, items, locale)
    return AskBack(reason=reason, text=next(fitting)[locale], choices=choices)


def _choices(said: list[Sorting], items: list[AdvisedItem], locale: Locale) -> list[Choice]:
    """What it may be instead, by the model, else by what else was seen; what one rule sorts is one choice."""
    book = _rulebook()
    best, *others = items
    choices: dict[str, Choice] = {}
    for other in said or others:
        label = book.rules[book.choose(other.category, other.material)].title[locale]
        if other.category is not Category.UNCLASSIFIED and label != best.rule.title:
            choices.setdefault(label, Choice(label=label, category=other.category, material=other.material))
    return list(choices.values())[:MOST_CHOICES]


def _said_once(texts: Iterable[Text | None], locale: Locale) -> list[str]:
    return list(dict.fromkeys(text[locale] for text in texts if text))


# --- the shape of data/rules.json; anything unknown in it is an error --------------------------


def _fits_a_phone(step: Text) -> Text:
    for locale, limit in STEP_LIMITS.items():
        if len(step[locale]) > limit:
            raise ValueError(f"step longer than {limit} characters: {step[locale]}")
    return step


Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Text = Annotated[dict[Locale, Line], Field(min_length=2)]  # two languages, so both
Step = Annotated[Text, AfterValidator(_fits_a_phone)]


class Rule(Noun, extra="forbid"):
    """`source` and `bin` are keys of the lists of that name; `as_of` is null where no date is known."""

    title: Text
    source: str
    as_of: date | None
    recyclable: bool
    bin: str
    steps: Annotated[list[Step], Field(min_length=1)]
    cautions: list[Text]


class Effect(Noun, extra="forbid"):
    """When all of `when` is seen on an item under one of `rules`."""

    when: Annotated[frozenset[Condition], Field(min_length=1)]
    rules: Annotated[list[str], Field(min_length=1)]
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

    def fits(self, item: AdvisedItem) -> bool:
        return (
            self.fits_everything
            or item.category in self.categories
            or item.material in self.materials
            or not self.conditions.isdisjoint(item.condition)
        )


class Rulebook(Noun, extra="forbid"):
    """All of `data/rules.json`."""

    sources: dict[str, Text]
    bins: dict[str, Text]
    rules: dict[str, Rule]
    choices: dict[Category, dict[Material | Literal["otherwise"], str]]
    switches: list[Switch]
    notes: list[Note]
    nothing_seen: Text
    next_photos: dict[DoubtReason, Annotated[list[NextPhoto], Field(min_length=1)]]

    def choose(self, category: Category, material: Material | None) -> str:
        """The rule to start from. Some materials outweigh the category: no battery goes in a bag."""
        choice = self.choices[category]
        return choice.get(material or "otherwise", choice["otherwise"])

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        """Every id that is used exists, and every entry is used."""
        effects: list[Effect] = [*self.switches, *self.notes]
        reached = {rule_id for choice in self.choices.values() for rule_id in choice.values()}
        reached |= {switch.becomes for switch in self.switches}
        _must_agree("rules", reached, self.rules)
        _must_agree("bins", {rule.bin for rule in self.rules.values()}, self.bins)
        _must_agree("sources", {rule.source for rule in self.rules.values()}, self.sources)
        _must_agree("categories", self.choices, Category)
        _must_agree("conditions", {seen for effect in effects for seen in effect.when}, Condition)
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


def _must_agree(what: str, used: Iterable[str], known: Iterable[str]) -> None:
    used, known = set(used), set(known)
    if used != known:
        raise ValueError(f"{what}: unknown {sorted(used - known)}, unused {sorted(known - used)}")


@cache
def _rulebook() -> Rulebook:
    return Rulebook.model_validate_json(files("growbin").joinpath("data/rules.json").read_bytes())
