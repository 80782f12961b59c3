"""The advice: looked up in the rulebook, never written by a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from growbin.certainty import Thresholds, certainty_of, doubt_of
from growbin.job import (
    MOST_CHOICES,
    Advice,
    AdvisedItem,
    Analysis,
    AskBack,
    Certainty,
    Choice,
    Finding,
    Locale,
    NamedAdvice,
    NamedThing,
    RuleReference,
    Sorting,
)
from growbin.rules.rulebook import NextPhoto, Rulebook, Text, Thing
from growbin.taxonomy import Category, Condition

LEAST_SHOWN = 0.1  # a guess below this confidence helps nobody


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


def advise(book: Rulebook, finding: Finding, locale: Locale) -> Advice:
    """The advice for one finding, in one language."""
    return _look_up(book, book.choose(finding.category, finding.material), finding.condition, locale)


def advise_thing(book: Rulebook, thing: Thing, locale: Locale) -> NamedAdvice:
    """The advice for a thing by its name."""
    advice = _look_up(book, book.start_of(thing), thing.condition, locale, thing)
    return NamedAdvice(
        name=thing.names[locale][0],
        category=thing.category,
        material=thing.material,
        condition=list(thing.condition),
        **dict(advice),
    )


def advise_named(book: Rulebook, thing: NamedThing, locale: Locale) -> NamedAdvice:
    """The advice for what a person says it is; a thing without a name bears that of its rule."""
    advice = _look_up(book, book.choose(thing.category, thing.material), thing.condition, locale)
    return NamedAdvice(**dict(thing) | {"name": thing.name or advice.rule.title}, **dict(advice))


def _look_up(
    book: Rulebook, start: str, seen: Iterable[Condition], locale: Locale, thing: Thing | None = None
) -> Advice:
    conditions = frozenset(seen)
    rule_id, switches = book.settle(start, conditions)
    notes = book.notes_on(rule_id, conditions)
    rule = book.rules[rule_id]
    steps: list[Text] = [step for note in notes for step in note.steps]
    cautions: list[Text | None] = [effect.caution for effect in (*switches, *notes)]
    steps += thing.steps if thing and thing.steps else rule.steps
    own = thing.cautions if thing else ()
    source, as_of = (thing.source, thing.as_of) if thing and thing.source else (rule.source, rule.as_of)
    is_local = book.place and any(book.place.options & switch.only.keys() for switch in switches)
    if book.place and is_local:  # the way there is the municipality's own
        source, as_of = book.place.source, book.place.as_of
    entry = f" #{thing.entry}" if thing and thing.entry and not is_local else ""
    return Advice(
        recyclable=rule.recyclable,
        bin=book.bins[rule.bin][locale],
        steps=_said_once(steps, locale),
        cautions=_said_once([*own, *cautions, *rule.cautions], locale),
        rule=RuleReference(
            id=rule_id,
            title=rule.title[locale],
            source=book.sources[source][locale] + entry,
            as_of=as_of.isoformat() if as_of else None,
            place=book.place.name[locale] if book.place else None,
        ),
        days=rule.days[locale] if rule.days else None,
        contact=book.place.contact[locale] if book.place and book.place.contact else None,
    )


def advise_all(book: Rulebook, analysis: Analysis, locale: Locale, thresholds: Thresholds) -> Advised:
    """The advice for everything in the photo but the faintest guesses. Where nothing was seen, one item says
    so and asks back."""
    shown = [finding for finding in analysis.items if finding.confidence >= LEAST_SHOWN]
    analysis = analysis.model_copy(update={"items": shown})
    findings = sorted(shown, key=lambda finding: finding.confidence, reverse=True)
    items = [_advised_item(book, finding, locale) for finding in findings or [_nothing_seen(book, locale)]]
    certainty = certainty_of(analysis, thresholds)
    return Advised(
        items=items,
        waste_type=items[0].name,
        certainty=certainty,
        ask_back=None if certainty == "sure" else _ask_back(book, analysis, items, locale),
    )


def _nothing_seen(book: Rulebook, locale: Locale) -> Finding:
    return Finding(
        name=book.nothing_seen[locale],
        category=Category.UNCLASSIFIED,
        material=None,
        confidence=0,
        condition=[Condition.NOT_IDENTIFIABLE],
    )


def _advised_item(book: Rulebook, finding: Finding, locale: Locale) -> AdvisedItem:
    return AdvisedItem(**dict(finding), **dict(advise(book, finding, locale)))


def _ask_back(book: Rulebook, analysis: Analysis, items: list[AdvisedItem], locale: Locale) -> AskBack:
    reason = doubt_of(analysis)
    fitting = (photo.text for photo in book.next_photos[reason] if _fits(photo, items[0]))
    choices = [] if reason == "not_waste" else _choices(book, analysis.choices or items[1:], items[0], locale)
    return AskBack(reason=reason, text=next(fitting)[locale], choices=choices)


def _fits(photo: NextPhoto, item: AdvisedItem) -> bool:
    return (
        photo.fits_everything
        or item.category in photo.categories
        or item.material in photo.materials
        or not photo.conditions.isdisjoint(item.condition)
    )


def _choices(
    book: Rulebook, others: Sequence[Sorting | AdvisedItem], best: AdvisedItem, locale: Locale
) -> list[Choice]:
    """What it may be instead, by the model, else by what else was seen; what one rule sorts is one choice."""
    choices: dict[str, Choice] = {}
    for other in others:
        label = book.rules[book.choose(other.category, other.material)].title[locale]
        if other.category is not Category.UNCLASSIFIED and label != best.rule.title:
            choices.setdefault(label, Choice(label=label, category=other.category, material=other.material))
    return list(choices.values())[:MOST_CHOICES]


def _said_once(texts: Iterable[Text | None], locale: Locale) -> list[str]:
    return list(dict.fromkeys(text[locale] for text in texts if text))
