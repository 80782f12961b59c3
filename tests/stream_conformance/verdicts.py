"""Every rule tried on one service, and the table of what came of it."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import aiohttp

from tests.stream_conformance.any_service import AnyService, Broken, CannotBeTried
from tests.stream_conformance.rules import RULES, Rule

Outcome = Literal["kept", "broken", "cannot be tried"]
LONGEST_RULE_SECONDS = 180.0  # a client would have waited as long
SEEN_CHARACTERS = 400
NAME_WIDTH, OUTCOME_WIDTH, SEEN_WIDTH = 26, 17, 67


@dataclass(frozen=True)
class Verdict:
    rule: str
    promise: str
    outcome: Outcome
    seen: str


async def verdicts_on(service: AnyService, rules: Sequence[Rule] = RULES) -> list[Verdict]:
    """One rule after another, for some look at the clock."""
    return [await verdict_on(service, rule) for rule in rules]


async def verdict_on(service: AnyService, rule: Rule) -> Verdict:
    outcome: Outcome = "kept"
    try:
        async with asyncio.timeout(LONGEST_RULE_SECONDS):
            seen = await rule(service)
    except (ExceptionGroup, Broken, CannotBeTried, aiohttp.ClientError, OSError) as error:
        outcome, seen = _judged(list(_reasons(error)))
    return Verdict(name_of(rule), promise_of(rule), outcome, seen[:SEEN_CHARACTERS])


def name_of(rule: Rule) -> str:
    return rule.__name__.replace("_", " ")


def promise_of(rule: Rule) -> str:
    return " ".join((rule.__doc__ or "").split())


def _reasons(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for reason in error.exceptions:
            yield from _reasons(reason)
    else:
        yield error


def _judged(reasons: Sequence[Exception]) -> tuple[Outcome, str]:
    """The first that tells most; what is nobody's verdict is raised."""
    for reason in reasons:
        if not isinstance(reason, Broken | CannotBeTried | aiohttp.ClientError | OSError):
            raise reason
    for reason in reasons:
        if isinstance(reason, CannotBeTried):
            return "cannot be tried", str(reason)
    for reason in reasons:
        if isinstance(reason, Broken):
            return "broken", str(reason)
    return "broken", f"{type(reasons[0]).__name__}: {reasons[0]}"


def table(name: str, verdicts: Sequence[Verdict]) -> str:
    """For people: what is broken is spelled out."""
    lines = [f"{'rule':{NAME_WIDTH}}{'verdict':{OUTCOME_WIDTH}}seen"]
    for verdict in verdicts:
        told = [verdict.promise, verdict.seen] if verdict.outcome == "broken" else [verdict.seen]
        seen = [line for text in told for line in textwrap.wrap(text, SEEN_WIDTH)]
        lines.append(f"{verdict.rule:{NAME_WIDTH}}{verdict.outcome:{OUTCOME_WIDTH}}{seen[0]}")
        lines += [" " * (NAME_WIDTH + OUTCOME_WIDTH) + line for line in seen[1:]]
    outcomes = [verdict.outcome for verdict in verdicts]
    summary = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in get_args(Outcome))
    return "\n".join([*lines, "", f"{name}: {summary}, of {len(verdicts)} rules"])
