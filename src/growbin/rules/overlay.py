"""A municipality's overlay: what it may change, what it may not, and where a mistake stands.

An overlay is the file `overlay.json` in the folder that `RULES_DIR` names; `docs/rules.md` says how to write
it. Anything unknown in it, and whatever would make the rules less safe, stops the start with file and line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from growbin.job import Locale, Noun
from growbin.rules.rulebook import Line, Place, Rule, Rulebook, Step, Text, Thing, national_rulebook
from growbin.taxonomy import Category, Condition, Material

FILE = "overlay.json"
SOURCE = "overlay"  # its id among the sources
# What a step may never tell anybody to do: to open a can under pressure, to pour into the drain, to burn.
# A caution may speak of it, to warn.
UNSAFE_STEP = re.compile(
    r"구멍|뚫|하수구|배수구|싱크대|변기|태우|태워|소각하|pierc|punctur|\bholes?\b|\bdrain\b|\bsink\b|\btoilet\b|\bburn",
    re.IGNORECASE,
)
WARNS = re.compile(
    r"마세요|말고|마시고|않|안 돼|못|금지|\bnot\b|\bnever\b|n't\b|\bno\b|\bwithout\b", re.IGNORECASE
)
# No bin of a guarded rule may bear the name of the bag for everything.
GENERAL_BIN = re.compile(r"종량제|일반\s*쓰레기|general waste|pay-as-you-throw|pay bag", re.IGNORECASE)


UNKNOWN_FIELD = "there is no such field"
SPACES = re.compile(r"[ \t\r\n]*")


class BadRules(Exception):
    """The overlay cannot be used; a line for each mistake says where it stands and what is wrong."""


class LocalRule(Noun, extra="forbid"):
    """What is changed of a rule. Lists without `add_` take the place of the rule's own."""

    bin: str | None = None
    steps: Annotated[list[Step], Field(min_length=1)] | None = None
    cautions: list[Text] | None = None
    add_steps_before: tuple[Step, ...] = ()
    add_steps_after: tuple[Step, ...] = ()
    add_cautions: tuple[Text, ...] = ()
    days: Text | None = None


class LocalThing(Noun, extra="forbid"):
    """What is changed of a thing, or a thing of the municipality's own: it needs `names` and `category`.
    Names and cautions are added to those that it has."""

    names: dict[Locale, list[Line]] = Field(default_factory=dict)
    category: Category | None = None
    material: Material | None = None
    condition: list[Condition] | None = None
    rule: str | None = None
    steps: list[Step] | None = None
    cautions: tuple[Text, ...] = ()


class Overlay(Noun, extra="forbid"):
    """All of `overlay.json`."""

    place: Text
    source: Text
    as_of: date
    contact: Text | None = None
    bins: dict[str, Text] = Field(default_factory=dict)
    options: dict[str, bool] = Field(default_factory=dict)
    rules: dict[str, LocalRule] = Field(default_factory=dict)
    things: dict[str, LocalThing] = Field(default_factory=dict)


Where = tuple[str | int, ...]  # the keys that lead to a place in the file
Mistake = tuple[Where, str]


def load_rulebook(rules_dir: Path | None) -> Rulebook:
    """The national rules, with the overlay in `rules_dir` laid over them. Raises BadRules."""
    national = national_rulebook()
    if rules_dir is None:
        return national
    file = rules_dir / FILE
    text = _text_of(file)
    if repeated := list(_repeated(text)):
        raise _refused(file, text, [(where, "stands there twice") for where in repeated])
    try:
        overlay = Overlay.model_validate_json(text)
    except ValidationError as error:
        raise _refused(file, text, _in_words(error)) from None
    if mistakes := list(_mistakes(overlay, national)):
        raise _refused(file, text, mistakes)
    try:
        return _laid_over(overlay, national)
    except ValidationError as error:
        raise _refused(file, text, [((), what) for _, what in _in_words(error)]) from None


def _text_of(file: Path) -> str:
    """Some JSON."""
    try:
        text = file.read_text(encoding="utf-8")
        json.loads(text)
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        raise BadRules(f"{file}: {reason}: RULES_DIR is a folder with a file {FILE}") from None
    except UnicodeDecodeError:
        raise BadRules(f"{file}: is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise BadRules(f"{file}:{error.lineno}: is no JSON: {error.msg}") from None
    return text


def _refused(file: Path, text: str, mistakes: Iterable[Mistake]) -> BadRules:
    lines = sorted({(_line_of(text, where), ".".join(map(str, where)), what) for where, what in mistakes})
    return BadRules("\n".join(f"{file}:{line}: {name or 'overlay'}: {what}" for line, name, what in lines))


def _in_words(error: ValidationError) -> list[Mistake]:
    return [
        (problem["loc"], UNKNOWN_FIELD if problem["type"] == "extra_forbidden" else problem["msg"])
        for problem in error.errors()
    ]


# --- what may not be changed ---------------------------------------------------------------------


def _mistakes(overlay: Overlay, national: Rulebook) -> Iterator[Mistake]:
    yield from _unknown(("options",), overlay.options, national.options)
    yield from _unknown(("rules",), overlay.rules, national.rules)
    used = {change.bin for change in overlay.rules.values()}
    for bin_id in overlay.bins.keys() - national.bins.keys() - used:
        yield (
            ("bins", bin_id),
            "no rule goes there: name it in a rule's `bin`, or use one of the bins that exist",
        )
    for rule_id, change in overlay.rules.items():
        if rule := national.rules.get(rule_id):
            yield from _mistakes_of_rule(("rules", rule_id), change, rule, overlay, national)
    for bin_id, name in overlay.bins.items():
        users = [rule for rule in national.rules.values() if rule.bin == bin_id and rule.guarded]
        if users and not _is_general(national.bins[bin_id]) and _is_general(name):
            yield ("bins", bin_id), "what is dangerous goes there: it is not the bag for everything"
    for thing_id, thing_change in overlay.things.items():
        yield from _mistakes_of_thing(("things", thing_id), thing_change, overlay, national)


def _mistakes_of_rule(
    where: Where, change: LocalRule, rule: Rule, overlay: Overlay, national: Rulebook
) -> Iterator[Mistake]:
    bins = national.bins | overlay.bins
    if change.bin is not None:
        yield from _unknown((*where, "bin"), [change.bin], bins, at_key=False)
    if rule.guarded:
        for name in ("steps", "cautions"):
            if getattr(change, name) is not None:
                yield (*where, name), f"nothing of this rule may be dropped, for safety: use add_{name}…"
        known = change.bin in overlay.bins or change.bin in {
            other.bin for other in national.rules.values() if other.guarded
        }
        is_looser = change.bin in bins and (
            not known or (_is_general(bins[change.bin]) and not _is_general(national.bins[rule.bin]))
        )
        if change.bin is not None and is_looser:
            yield (*where, "bin"), "what is dangerous does not go there: name a bin of its own"
    for name in ("steps", "add_steps_before", "add_steps_after"):
        yield from _unsafe_steps((*where, name), getattr(change, name) or [], rule.steps)
    for name in ("cautions", "add_cautions"):
        yield from _unsafe_cautions((*where, name), getattr(change, name) or [])


def _mistakes_of_thing(
    where: Where, change: LocalThing, overlay: Overlay, national: Rulebook
) -> Iterator[Mistake]:
    thing_id = str(where[-1])
    known = {thing.id: thing for thing in national.things}.get(thing_id)
    if known is None and not (change.names and change.category):
        close = _closest(thing_id, [thing.id for thing in national.things])
        yield where, f"a new thing needs `names` and `category`; of those that exist none has this id{close}"
        return
    if change.rule is not None:
        yield from _unknown((*where, "rule"), [change.rule], national.rules, at_key=False)
        if change.rule not in national.rules:
            return
    try:
        thing = _changed_thing(thing_id, known, change)
    except ValidationError as error:
        yield from (((*where, *deeper), what) for deeper, what in _in_words(error))
        return
    for locale, names in change.names.items():
        for number, name in enumerate(names):
            owner = national.called(name, locale)
            if owner and owner != thing_id:
                yield (*where, "names", locale, number), f"{owner} is called so: change that thing"
    yield from _unsafe_steps((*where, "steps"), change.steps or [], [])
    yield from _unsafe_cautions((*where, "cautions"), change.cautions)
    if known and _is_guarded(known, national):
        if change.steps is not None:
            yield (*where, "steps"), "nothing of this thing's steps may be dropped, for safety: use cautions"
        if not _is_guarded(thing, national):
            yield where, "this thing is dangerous: it may not go where harmless things go"


def _is_guarded(thing: Thing, book: Rulebook) -> bool:
    rule_id, _ = book.settle(book.start_of(thing), frozenset(thing.condition))
    return book.rules[rule_id].guarded


def _is_general(name: Text) -> bool:
    return any(GENERAL_BIN.search(line) for line in name.values())


def _unsafe_steps(where: Where, steps: Sequence[Text], known: Sequence[Text]) -> Iterator[Mistake]:
    for number, step in enumerate(steps):
        if step not in known and any(UNSAFE_STEP.search(line) for line in step.values()):
            yield (
                (*where, number),
                "no step may lead to holes, drains or fire; to warn of them is for cautions",
            )


def _unsafe_cautions(where: Where, cautions: Sequence[Text]) -> Iterator[Mistake]:
    for number, caution in enumerate(cautions):
        for line in caution.values():
            if UNSAFE_STEP.search(line) and not WARNS.search(line):
                yield (*where, number), "a caution that speaks of holes, drains or fire must warn of them"


def _unknown(
    where: Where, used: Iterable[str], known: Collection[str], *, at_key: bool = True
) -> Iterator[Mistake]:
    for name in used:
        if name not in known:
            yield ((*where, name) if at_key else where), f"{name} is unknown{_closest(name, known)}"


def _closest(name: str, known: Collection[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(known)[:40])}"


# --- laying it over ------------------------------------------------------------------------------


def _laid_over(overlay: Overlay, national: Rulebook) -> Rulebook:
    rules = dict(national.rules)
    for rule_id, change in overlay.rules.items():
        rules[rule_id] = _changed_rule(rules[rule_id], change, overlay)
    things = {thing.id: thing for thing in national.things}
    for thing_id, thing_change in overlay.things.items():
        thing = _changed_thing(thing_id, things.get(thing_id), thing_change)
        local = {"source": SOURCE, "as_of": overlay.as_of, "entry": None}
        things[thing_id] = thing.model_copy(update=local)
    bins, sources = national.bins | overlay.bins, national.sources | {SOURCE: overlay.source}
    used_bins = {rule.bin for rule in rules.values()}
    used_sources = (
        {SOURCE} | {rule.source for rule in rules.values()} | {thing.source for thing in things.values()}
    )
    place = Place(
        name=overlay.place,
        contact=overlay.contact,
        source=SOURCE,
        as_of=overlay.as_of,
        options=frozenset(overlay.options),
    )
    laid = national.model_copy(
        update={
            "rules": rules,
            "things": tuple(things.values()),
            "bins": {bin_id: name for bin_id, name in bins.items() if bin_id in used_bins},
            "sources": {source: name for source, name in sources.items() if source in used_sources},
            "options": national.options | overlay.options,
            "place": place,
        }
    )
    return Rulebook.model_validate(laid.model_dump())  # a copy is not checked


def _changed_rule(rule: Rule, change: LocalRule, overlay: Overlay) -> Rule:
    steps = rule.steps if change.steps is None else change.steps
    cautions = rule.cautions if change.cautions is None else change.cautions
    return rule.model_copy(
        update={
            "bin": change.bin or rule.bin,
            "steps": [*change.add_steps_before, *steps, *change.add_steps_after],
            "cautions": [*change.add_cautions, *cautions],
            "days": change.days or rule.days,
            "source": SOURCE,
            "as_of": overlay.as_of,
        }
    )


def _changed_thing(thing_id: str, known: Thing | None, change: LocalThing) -> Thing:
    """Raises ValidationError where a new thing lacks something."""
    given = change.model_dump(exclude_unset=True)
    if known is None:
        return Thing.model_validate({**given, "id": thing_id})
    names = {locale: [*have, *change.names.get(locale, [])] for locale, have in known.names.items()}
    cautions = [*change.cautions, *known.cautions]
    moved = {"rule": None, "material": None} if change.category else {}
    return Thing.model_validate(
        {**known.model_dump(), **moved, **given, "names": names, "cautions": cautions}
    )


# --- where a mistake stands ----------------------------------------------------------------------


def _line_of(text: str, where: Where) -> int:
    """The line of the value to which the keys lead; where one is missing, of what should hold it."""
    at = _skipped(text, 0)
    for key in where:
        if text[at] not in "{[":
            break
        within = [value_at for name, value_at in _members(text, at) if name == key]
        if not within:
            break
        at = within[-1]  # of a key that stands there twice, the second
    return text.count("\n", 0, at) + 1


def _repeated(text: str, at: int = 0, where: Where = ()) -> Iterator[Where]:
    """The keys that stand twice in one object: JSON readers keep the last in silence."""
    at = _skipped(text, at)
    if text[at] in "{[":
        members = list(_members(text, at))
        names = [name for name, _ in members]
        yield from ((*where, name) for name in dict.fromkeys(names) if names.count(name) > 1)
        for name, value_at in members:
            yield from _repeated(text, value_at, (*where, name))


def _members(text: str, at: int) -> Iterator[tuple[str | int, int]]:
    """Of the object or list at `at` in some JSON: each key or number, and where its value begins."""
    is_object = text[at] == "{"
    decoder = json.JSONDecoder()
    at, number = _skipped(text, at + 1), 0
    while text[at] not in "}]":
        name: str | int = number
        if is_object:
            name, at = decoder.raw_decode(text, at)
            at = _skipped(text, _skipped(text, at) + 1)  # behind the colon
        yield name, at
        _, at = decoder.raw_decode(text, at)
        at = _skipped(text, at)
        if text[at] == ",":
            at, number = _skipped(text, at + 1), number + 1


def _skipped(text: str, at: int) -> int:
    """The next place that is no space."""
    spaces = SPACES.match(text, at)
    return spaces.end() if spaces else at
