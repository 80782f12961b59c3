"""How the photos ended, for people and for machines."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from growbin.commands.terminal_text import NAME_COLUMNS, clean, padded, tail, width

RULE_COLUMNS = 40
LEAST_CONFIDENCE = 0.1  # what is less likely than that is not worth a word
WORDS = {
    "ko": {
        "sure": "확실해요",
        "probable": "아마 맞을 거예요",
        "unsure": "확실하지 않아요",
        "choices": "혹시",
        "opens": "{time}에 다시 열려요.",
    },
    "en": {
        "sure": "Sure",
        "probable": "Probably",
        "unsure": "Not sure",
        "choices": "Perhaps",
        "opens": "It opens again at {time}.",
    },
}

JSON = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one photo ended; `refused` means that no job began. Either `result` or `failure` is there."""

    photo: Path
    stage: str
    result: JSON | None = None
    failure: JSON | None = None

    def as_json(self) -> str:
        end = {"result": self.result} if self.result else {"failure": self.failure}
        return json.dumps({"photo": str(self.photo), "stage": self.stage, **end}, ensure_ascii=False)


def summary(outcome: Outcome, language: str) -> str:
    """One line for a photo that has ended."""
    if outcome.result is None:
        failure = outcome.failure or {}
        opens = _opens_again(failure.get("opens_at"), language)
        return f"✗ {clean(str(outcome.photo))}: {clean(failure['detail'] + opens)}"
    seen = ", ".join(f"{item['name']} → {item['bin']}" for item in _likely(outcome.result)[:1])
    return f"{'✓' if outcome.result['sure'] else '?'} {clean(str(outcome.photo))}: {clean(seen)}"


def _opens_again(moment: str | None, language: str) -> str:
    """When a spent budget has room, in local time: the minute after, and the day where it is another."""
    if moment is None:
        return ""
    minute = math.ceil(datetime.fromisoformat(moment).timestamp() / 60) * 60
    at = datetime.fromtimestamp(minute).astimezone()
    is_today = at.date() == datetime.now().astimezone().date()
    return f" {WORDS[language]['opens'].format(time=f'{at:%H:%M}' if is_today else f'{at:%Y-%m-%d %H:%M}')}"


def table(outcomes: Iterable[Outcome]) -> str:
    """A row for each item of each photo that has a result; what to do stands indented below it. Empty when
    there is none: how the others ended was told in their own lines."""
    rows: list[tuple[str, ...]] = [("PHOTO", "ITEM", "SURE", "BIN")]
    notes: dict[int, list[str]] = {}
    for outcome in outcomes:
        if outcome.result is None:
            continue
        name = tail(clean(str(outcome.photo)), NAME_COLUMNS)
        items = _likely(outcome.result)
        certainty = _certainty(outcome.result)
        if not items:
            rows.append((name, "?", certainty, ""))
            notes[len(rows) - 1] = []
        for item, following in zip_longest(items, items[1:]):
            rows.append((name, clean(item["name"]), certainty, clean(item["bin"])))
            name = certainty = ""  # they are the whole photo's
            if following is None or _way(following) != _way(item):  # what goes the same way is told once
                notes[len(rows) - 1] = _way(item)
        rest = _asked_back(outcome.result)
        rest += [f"> {outcome.result['answer']}"] if outcome.result.get("answer") else []
        notes[len(rows) - 1].extend(map(clean, rest))
    if len(rows) == 1:
        return ""
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("─" * min(columns, RULE_COLUMNS) for columns in widths))
    lines = []
    for number, row in enumerate(rows):
        cells = (padded(cell, columns) for cell, columns in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
        lines += [f"{'':{widths[0]}}  {note}" for note in notes.get(number - 1, [])]
    return "\n".join(["", *lines, ""])


def _likely(result: JSON) -> list[JSON]:
    """Earlier services told every guess; the item that says that nothing is known has no confidence."""
    items: list[JSON] = result["items"]
    return [item for item in items if item["confidence"] >= LEAST_CONFIDENCE or len(items) == 1]


def _certainty(result: JSON) -> str:
    certainty = result.get("certainty") or ("sure" if result["sure"] else "unsure")
    return _words(result).get(certainty, certainty)


def _asked_back(result: JSON) -> list[str]:
    """What would help, and what it may be instead. Earlier services wrote a text."""
    ask_back = result.get("ask_back")
    if not isinstance(ask_back, dict):
        return [f"? {ask_back}"] if ask_back else []
    labels = ", ".join(choice["label"] for choice in ask_back.get("choices", []))
    return [f"? {ask_back['text']}", *([f"? {_words(result)['choices']}: {labels}"] if labels else [])]


def _words(result: JSON) -> dict[str, str]:
    return WORDS.get(result.get("locale", "en"), WORDS["en"])


def _way(item: JSON) -> list[str]:
    steps = [f"{number}. {step}" for number, step in enumerate(item["steps"], 1)]
    return [clean(line) for line in [*steps, *(f"! {caution}" for caution in item["cautions"])]]
