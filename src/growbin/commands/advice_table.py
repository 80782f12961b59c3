"""How the photos ended, for people and for machines."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from growbin.commands.terminal_text import NAME_COLUMNS, clean, padded, tail, width

RULE_COLUMNS = 40

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


def summary(outcome: Outcome) -> str:
    """One line for a photo that has ended."""
    if outcome.result is None:
        return f"✗ {clean(str(outcome.photo))}: {clean((outcome.failure or {})['detail'])}"
    seen = ", ".join(f"{item['name']} → {item['bin']}" for item in outcome.result["items"][:1])
    return f"{'✓' if outcome.result['sure'] else '?'} {clean(str(outcome.photo))}: {clean(seen)}"


def table(outcomes: Iterable[Outcome]) -> str:
    """A row for each item of each photo; what to do stands indented below it."""
    rows: list[tuple[str, ...]] = [("PHOTO", "ITEM", "SURE", "BIN")]
    notes: dict[int, list[str]] = {}
    for outcome in outcomes:
        name = tail(clean(str(outcome.photo)), NAME_COLUMNS)
        if outcome.result is None:
            rows.append((name, "-", "-", clean((outcome.failure or {})["detail"])))
            continue
        items = outcome.result["items"]
        if not items:
            rows.append((name, "-", "-", "-"))
            notes[len(rows) - 1] = []
        for item, following in zip_longest(items, items[1:]):
            rows.append((name, clean(item["name"]), f"{item['confidence']:4.0%}", clean(item["bin"])))
            name = ""
            if following is None or _way(following) != _way(item):  # what goes the same way is told once
                notes[len(rows) - 1] = _way(item)
        ask_back = outcome.result.get("ask_back")
        asked = ask_back.get("text") if isinstance(ask_back, dict) else ask_back
        rest = [f"? {asked}"] if asked else []
        rest += [f"> {outcome.result['answer']}"] if outcome.result.get("answer") else []
        notes[len(rows) - 1].extend(map(clean, rest))
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("─" * min(columns, RULE_COLUMNS) for columns in widths))
    lines = []
    for number, row in enumerate(rows):
        cells = (padded(cell, columns) for cell, columns in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
        lines += [f"{'':{widths[0]}}  {note}" for note in notes.get(number - 1, [])]
    return "\n".join(["", *lines, ""])


def _way(item: JSON) -> list[str]:
    steps = [f"{number}. {step}" for number, step in enumerate(item["steps"], 1)]
    return [clean(line) for line in [*steps, *(f"! {caution}" for caution in item["cautions"])]]
