"""The words for stages, failures and problems. They stand in `data/messages.json`."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from growbin.errors import PARTS
from growbin.job import Failure, Locale, Noun, Stage

Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Text = Annotated[dict[Locale, Line], Field(min_length=2)]  # two languages, so both


def stage_message(stage: Stage, locale: Locale) -> str:
    """What the person waiting reads while the job is in `stage`."""
    return _messages().stages[stage][locale]


def failure(code: str, locale: Locale) -> Failure:
    """What happened, what to do now, and whether the same photo may succeed once more; a code without
    its own words gets those of `internal`."""
    failures = _messages().failures
    words = failures.get(code, failures["internal"])
    return Failure(code=code, detail=words.detail[locale], retryable=words.retryable)


def failure_codes() -> list[str]:
    """All that have words of their own."""
    return list(_messages().failures)


def notice(part: str, locale: Locale) -> str:
    """What the person waiting reads while `part`, one of PARTS, is away."""
    return _messages().notices[part][locale]


def place_in_line(position: int, wait_seconds: int | None, locale: Locale) -> str:
    """`3rd in line, about 8 s.`"""
    words = _messages().place_in_line["unknown" if wait_seconds is None else "known"][locale]
    place = position if locale == "ko" else _ordinal(position)
    return words.format(place=place, seconds=wait_seconds)


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


class ProblemWords(Noun, extra="forbid"):
    title: Line
    detail: Line


def problem_words(code: str, detail: str, locale: Locale) -> ProblemWords:
    """The `title` and `detail` of an HTTP problem. `detail` is the sentence of this one, in English; the
    Korean one is the code's, and repeats it where it asks to. A code without its own title gets that of
    `internal`."""
    messages = _messages()
    if locale == "ko" and (words := messages.problems_in_korean.get(code)):
        return ProblemWords(title=words.title, detail=words.detail.replace("{detail}", detail))
    return ProblemWords(title=problem_title(code), detail=detail)


def problem_title(code: str) -> str:
    """The English `title` of an HTTP problem; a code without its own words gets that of `internal`."""
    titles = _messages().problems
    return titles.get(code, titles["internal"])


# --- the shape of data/messages.json; anything unknown in it is an error -----------------------


class FailureWords(Noun, extra="forbid"):
    retryable: bool
    detail: Text


class Messages(Noun, extra="forbid"):
    """All of `data/messages.json`."""

    stages: dict[Stage, Text]
    notices: dict[str, Text]
    place_in_line: dict[Literal["known", "unknown"], Text]  # by whether the wait is known
    failures: dict[str, FailureWords]
    problems: dict[str, Line]
    problems_in_korean: dict[str, ProblemWords]

    @model_validator(mode="after")
    def _leaves_nobody_speechless(self) -> Self:
        if wordless := set(Stage) - set(self.stages):
            raise ValueError(f"stages without words: {sorted(wordless)}")
        if wordless_parts := set(PARTS) - set(self.notices):
            raise ValueError(f"parts without words: {sorted(wordless_parts)}")
        if in_one_language := set(self.problems) ^ set(self.problems_in_korean):
            raise ValueError(f"problems with words in one language: {sorted(in_one_language)}")
        if "internal" not in self.failures or "internal" not in self.problems:
            raise ValueError("`internal` needs words: it stands in for unknown codes")
        return self


@cache
def _messages() -> Messages:
    return Messages.model_validate_json(files("growbin").joinpath("data/messages.json").read_bytes())
