"""Things found by the names that people use for them, also misspelt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from growbin.job import Locale
from growbin.rules.rulebook import Rulebook, Thing, letters_of

MOST_FOUND = 5
# Shorter words have too many neighbours to be taken for a misspelling. In letters: a Korean syllable has two
# or three.
LEAST_MISSPELT = 4


class ThingFinder:
    """The names of a rulebook's things, ready to be searched."""

    def __init__(self, book: Rulebook) -> None:
        self._names: list[tuple[str, Thing, Locale]] = [
            (letters_of(name), thing, locale)
            for thing in book.things
            for locale, names in thing.names.items()
            for name in names
        ]
        # By their hashes: the texts of so many forms would take megabytes. Should two hashes ever be alike, a
        # thing too many is found.
        self._nearby: dict[int, tuple[int, ...]] = defaultdict(tuple)
        for number, (name, _, _) in enumerate(self._names):
            this_one = (number,)
            for form in _one_letter_less(name):
                self._nearby[hash(form)] += this_one

    def find(self, name: str, locale: Locale) -> list[Thing]:
        """The things that `name` may mean, best first: called so, beginning so, containing it or contained
        in it, misspelt by one letter. The reader's own language goes before the other."""
        asked = letters_of(name)
        if not asked:
            return []
        misspelt = {number for form in _one_letter_less(asked) for number in self._nearby.get(hash(form), ())}
        ranked = []
        for number, (known, thing, language) in enumerate(self._names):
            rank = _rank(asked, known) or (4 if number in misspelt else 0)
            if rank:
                # Of equally good ones the name that is nearest in length: `can` is rather a can than a canoe.
                ranked.append((rank, language != locale, abs(len(known) - len(asked)), number, thing))
        ranked.sort(key=lambda one: one[:4])
        return list({thing.id: thing for *_, thing in ranked}.values())[:MOST_FOUND]


def _rank(asked: str, known: str) -> int:
    """1 is best, 0 is none."""
    if asked == known:
        return 1
    if known.startswith(asked):
        return 2
    is_word = min(len(asked), len(known)) >= LEAST_MISSPELT
    return 3 if is_word and (asked in known or known in asked) else 0


def _one_letter_less(letters: str) -> Iterator[str]:
    """The word itself, and without each of its letters. Two words share one of these when a letter is
    missing, too many, another one, or in its neighbour's place."""
    yield letters
    if len(letters) >= LEAST_MISSPELT:
        for at in range(len(letters)):
            yield letters[:at] + letters[at + 1 :]
