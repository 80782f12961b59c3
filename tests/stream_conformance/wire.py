"""The wire format of a progress stream, read strictly: what a kind parser forgives is an error here."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

TERMINAL = ("done", "failed", "cancelled", "expired")
NAMES = ("progress", "reset", *TERMINAL)
NOTICE = "notice"  # of a part that is away: no event of any job's story


@dataclass(frozen=True)
class Event:
    """One event; two that are equal came as the same bytes."""

    id: str
    name: str
    text: str

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.text)
        return data

    @property
    def ends(self) -> bool:
        return self.name in TERMINAL

    def __str__(self) -> str:
        return f"{self.name} {self.id}"


@dataclass(frozen=True)
class Retry:
    milliseconds: int


@dataclass(frozen=True)
class Comment:
    """What heartbeats are made of."""


@dataclass(frozen=True)
class Notice:
    """It has no id, so that a client's last one stands."""

    data: dict[str, Any]


Item = Event | Retry | Comment | Notice


class Decoder:
    """Bytes in, whole blocks out. A block that was cut is forgotten, as every client of the format does."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[Item]:
        assert b"\r" not in chunk, "lines end with LF alone"
        *blocks, self._rest = (self._rest + chunk).split(b"\n\n")
        return [item for block in blocks for item in _items(block)]

    @property
    def is_between_blocks(self) -> bool:
        return not self._rest


def _items(block: bytes) -> list[Item]:
    fields: dict[str, list[str]] = {}
    items: list[Item] = []
    for line in block.decode("utf-8").split("\n"):  # strict: bad UTF-8 raises
        name, colon, value = line.partition(":")
        assert colon, f"a line without a colon: {line!r}"
        if not name:
            items.append(Comment())
        else:
            fields.setdefault(name, []).append(value.removeprefix(" "))
    assert fields.keys() <= {"id", "event", "data", "retry"}, f"unknown fields: {block!r}"
    for wait in fields.get("retry", []):
        assert re.fullmatch("[0-9]+", wait, re.ASCII), f"clients would ignore this retry: {wait!r}"
        items.append(Retry(int(wait)))
    if fields.keys() - {"retry"}:
        items.append(_event(fields))
    return items


def _event(fields: dict[str, list[str]]) -> Event | Notice:
    """Each event is complete: one id, one name, and a JSON object as data. A notice has no id."""
    if fields["event"] == [NOTICE]:
        assert "id" not in fields
        [text] = fields["data"]
        notice = Notice(json.loads(text))
        place = {"position", "wait_seconds"} if notice.data["part"] == "queue" else set()
        assert notice.data.keys() - {"job_id"} - place == {"part", "message", "since"}
        return notice
    [event_id], [name] = fields["id"], fields["event"]
    assert re.fullmatch(r"[!-~]{1,6000}", event_id), f"an id that a header could not carry: {event_id!r}"
    assert name in NAMES, f"unknown event: {name!r}"
    event = Event(event_id, name, "\n".join(fields["data"]))
    assert isinstance(event.data, dict)
    return event
