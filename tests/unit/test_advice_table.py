"""What a terminal shows of a result, whichever version wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from growbin.commands.advice_table import Outcome, summary, table

TEXT = "더 가까이에서 찍어 주세요."
ITEM: dict[str, Any] = {"name": "병", "confidence": 0.4, "bin": "유리병 수거함", "steps": [], "cautions": []}


def outcome(ask_back: object) -> Outcome:
    result = {"items": [ITEM], "sure": ask_back is None, "ask_back": ask_back, "answer": None}
    return Outcome(Path("a.jpg"), "done", result)


@pytest.mark.parametrize("ask_back", [TEXT, {"reason": "far", "text": TEXT, "choices": []}])
def test_what_would_help_is_told_from_a_text_and_from_an_object(ask_back: object) -> None:
    """Earlier consumers wrote a text."""
    assert f"? {TEXT}" in table([outcome(ask_back)])
    assert summary(outcome(ask_back)).startswith("?")


def test_sure_answer_asks_nothing() -> None:
    """Neither in its line nor below it."""
    assert "?" not in table([outcome(None)]) + summary(outcome(None))
