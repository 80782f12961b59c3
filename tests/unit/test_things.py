"""Things are found by the names that people use, and lead to the advice by rule."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from growbin.job import Locale
from growbin.rules.advice import advise_thing
from growbin.rules.overlay import load_rulebook
from growbin.rules.rulebook import STEP_LIMITS, Thing, letters_of
from growbin.rules.things import LEAST_MISSPELT, MOST_FOUND, ThingFinder

BOOK = load_rulebook(None)
FINDER = ThingFinder(BOOK)
LOCALES: tuple[Locale, ...] = get_args(Locale)
NAMES = [(thing, locale, name) for thing in BOOK.things for locale in LOCALES for name in thing.names[locale]]
LONG_NAMES = [named for named in NAMES if len(letters_of(named[2])) >= LEAST_MISSPELT]


def found(name: str, locale: Locale) -> list[str]:
    return [thing.id for thing in FINDER.find(name, locale)]


def test_at_least_150_things_are_known_in_both_languages() -> None:
    """So many may be asked about without a photo."""
    assert len(BOOK.things) >= 150


def test_each_thing_is_found_first_by_each_of_its_names() -> None:
    """In its own language a name leads to its thing."""
    lost = [
        (name, found(name, locale)) for thing, locale, name in NAMES if found(name, locale)[:1] != [thing.id]
    ]
    assert lost == []


@pytest.mark.parametrize("locale", LOCALES)
def test_spaces_punctuation_and_case_do_not_matter(locale: Locale) -> None:
    """People write a name together or apart, large or small."""
    for thing, language, name in NAMES:
        if language == locale:
            apart = " ".join(name.replace(" ", "")).upper() + "?"
            assert thing.id in found(apart, locale)


@given(st.sampled_from(LONG_NAMES), st.data())
def test_name_misspelt_by_one_letter_is_found(named: tuple[Thing, Locale, str], data: st.DataObject) -> None:
    """A letter left out, doubled, wrong, or in its neighbour's place."""
    thing, locale, name = named
    letters = letters_of(name)
    at = data.draw(st.integers(0, len(letters) - 1))
    after = letters[at + 1 :]
    misspelt = data.draw(
        st.sampled_from(
            [
                letters[:at] + after,
                letters[: at + 1] + letters[at:],
                letters[:at] + ("ㅏ" if locale == "ko" else "x") + after,
                letters[:at] + after[:1] + letters[at] + after[1:],
            ]
        )
    )
    assert thing.id in found(misspelt, locale), (name, misspelt)


def test_beginning_of_a_name_finds_it_while_it_is_typed() -> None:
    """From its first half on, a thing is among those shown, unless that many others begin so."""
    for thing, locale, name in NAMES:
        begun = name[: (len(name) + 1) // 2]
        assert thing.id in found(begun, locale) or len(found(begun, locale)) == MOST_FOUND


def test_name_within_a_longer_request_is_found() -> None:
    """People write more than the name."""
    assert found("다 쓴 건전지", "ko")[:1] == found("건전지", "ko")[:1]
    assert found("a dirty pizza box", "en")[:1] == found("pizza box", "en")[:1]


@pytest.mark.parametrize("name", ["", "  ", "?!", "zxqvbn", "뷁뷁뷁뷁"])
def test_what_has_no_name_of_ours_finds_nothing(name: str) -> None:
    """No guess is made from nothing."""
    assert found(name, "ko") == []


@given(st.text(max_size=100), st.sampled_from(LOCALES))
def test_any_text_finds_at_most_a_handful(name: str, locale: Locale) -> None:
    """Whatever is typed, each thing is there once."""
    ids = found(name, locale)
    assert len(ids) == len(set(ids)) <= MOST_FOUND


@pytest.mark.parametrize(("thing", "locale"), [*itertools.product(BOOK.things, LOCALES)])
def test_each_thing_has_its_advice_with_a_source(thing: Thing, locale: Locale) -> None:
    """Bin, short steps, each text once, and either a source with its date or general practice."""
    advice = advise_thing(BOOK, thing, locale)
    assert advice.name == thing.names[locale][0]
    assert advice.bin
    assert advice.steps
    assert max(map(len, advice.steps)) <= STEP_LIMITS[locale]
    assert len({*advice.steps}) == len(advice.steps)
    assert len({*advice.cautions}) == len(advice.cautions)
    general_practice = BOOK.sources["general_practice"][locale]
    assert (advice.rule.as_of is None) == (advice.rule.source == general_practice)
