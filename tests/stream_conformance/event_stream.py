"""Server-sent events as the WHATWG's page defines them, read as kindly as a browser does.

Whether a stream is any good is for the rules to say; `wire.py` beside this reads growbin's own, strictly.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

LINE_END = re.compile(rb"\r\n|\n|\r(?=.)", re.DOTALL)  # a CR at the end may yet be followed by its LF


@dataclass(frozen=True)
class Event:
    """`id` is the one in this very block: None where it has none, though a browser would keep the last."""

    id: str | None
    name: str
    text: str

    @property
    def data(self) -> dict[str, Any]:
        """Empty where it is no JSON object."""
        try:
            data = json.loads(self.text)
        except ValueError:
            return {}
        return data if isinstance(data, dict) else {}

    def __str__(self) -> str:
        return f"{self.name} {self.text[:60]!r}" + ("" if self.id is None else f" with id {self.id!r}")


@dataclass(frozen=True)
class Retry:
    milliseconds: int


@dataclass(frozen=True)
class Comment:
    text: str


Item = Event | Retry | Comment


class EventStreamDecoder:
    """Bytes in, whole items out. A block that was cut is forgotten, as browsers do."""

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[str, list[str]] = {}

    def feed(self, chunk: bytes) -> list[Item]:
        *lines, self._rest = LINE_END.split(self._rest + chunk)
        items: list[Item] = []
        for line in lines:
            if line:
                items += self._line(line.decode("utf-8", errors="replace"))
            else:
                items += self._dispatch()
        return items

    def _line(self, line: str) -> list[Item]:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name:
            return [Comment(value)]
        if name == "retry":
            return [Retry(int(value))] if re.fullmatch("[0-9]+", value, re.ASCII) else []
        if name != "id" or "\0" not in value:
            self._fields.setdefault(name, []).append(value)
        return []

    def _dispatch(self) -> list[Item]:
        fields, self._fields = self._fields, {}
        if "data" not in fields:
            return []
        [*_, name] = fields.get("event", [""])
        [*_, event_id] = fields.get("id", [None])
        return [Event(event_id, name or "message", "\n".join(fields["data"]))]
