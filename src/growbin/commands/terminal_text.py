"""Text as a terminal shows it."""

from __future__ import annotations

import unicodedata

NAME_COLUMNS = 28  # of a photo's name


def clean(text: str) -> str:
    """File names and models may say anything; a terminal obeys control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def width(text: str) -> int:
    """Columns on a terminal, where Hangul is two wide."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def padded(text: str, columns: int) -> str:
    return text + " " * (columns - width(text))


def cut(text: str, columns: int) -> str:
    if width(text) <= columns:
        return text
    while width(text) > columns - 1:
        text = text[:-1]
    return f"{text}…"


def tail(text: str, columns: int) -> str:
    """The end of a path tells more than its beginning."""
    return text if width(text) <= columns else f"…{cut(text[::-1], columns)[-2::-1]}"
