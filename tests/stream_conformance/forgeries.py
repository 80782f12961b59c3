"""Ids that were never given."""

from __future__ import annotations

import re
from collections.abc import Callable

# Made from an id that is good, because one must not have to know how ids look to break them.
FORGERIES: dict[str, Callable[[str], str]] = {
    "nonsense": lambda _: "nonsense",
    "a number": lambda _: "1",
    "dots": lambda _: "..",
    "spaces": lambda _: "a b c",
    "letters of the world": lambda _: "종이컵",
    "a quotation": lambda _: "\"'\\",
    "patterns": lambda _: "*%s{0}",
    "cut short": lambda known: known[:-1],
    "grown": lambda known: known + "0",
    "doubled": lambda known: known + known,
    "last letter changed": lambda known: known[:-1] + ("0" if known[-1] != "0" else "1"),
    "first letter changed": lambda known: ("0" if known[0] != "0" else "1") + known[1:],
    "numbers grown": lambda known: re.sub(r"[0-9]+", lambda found: found[0] + "99", known),
    "numbers vast": lambda known: re.sub(r"\.[0-9]+\.", ".99999999999999999999.", known),
    "number zero": lambda known: re.sub(r"\.[0-9]+\.", ".0.", known),
    "number below zero": lambda known: re.sub(r"\.([0-9]+)\.", r".-\1.", known),
    "with leading zero": lambda known: re.sub(r"\.([0-9]+)\.", r".0\1.", known),
    "oversized": lambda known: known * 100,
    "zero bytes": lambda known: f"{known}\0{known}",
    "a line of its own": lambda known: f"{known}\n\nevent: done",
}
IN_HEADERS = [name for name in FORGERIES if name not in ("zero bytes", "a line of its own")]
