"""What a terminal shows of a result, whichever version wrote it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from growbin.commands.advice_table import Outcome, summary, table

SEOUL = timezone(timedelta(hours=9))
TEXT = "더 가까이에서 찍어 주세요."
ITEM: dict[str, Any] = {"name": "병", "confidence": 0.4, "bin": "유리병 수거함", "steps": [], "cautions": []}


def outcome(ask_back: object, **more: object) -> Outcome:
    result = {"items": [ITEM], "sure": ask_back is None, "ask_back": ask_back, "answer": None, "locale": "ko"}
    return Outcome(Path("a.jpg"), "done", result | more)


@pytest.mark.parametrize("ask_back", [TEXT, {"reason": "far", "text": TEXT, "choices": []}])
def test_what_would_help_is_told_from_a_text_and_from_an_object(ask_back: object) -> None:
    """Earlier consumers wrote a text."""
    assert f"? {TEXT}" in table([outcome(ask_back)])
    assert summary(outcome(ask_back), "ko").startswith("?")


def test_sure_answer_asks_nothing() -> None:
    """Neither in its line nor below it."""
    assert "?" not in table([outcome(None)]) + summary(outcome(None), "ko")


@pytest.mark.parametrize(
    ("certainty", "locale", "word"),
    [
        ("sure", "ko", "확실해요"),
        ("probable", "ko", "아마 맞을 거예요"),
        ("unsure", "en", "Not sure"),
        ("probable", "en", "Probably"),
    ],
)
def test_certainty_is_told_in_words(certainty: str, locale: str, word: str) -> None:
    """In the language of the advice, and never in percent."""
    shown = table([outcome(None, certainty=certainty, locale=locale)])
    assert word in shown
    assert "%" not in shown


@pytest.mark.parametrize(("ask_back", "word"), [(None, "확실해요"), (TEXT, "확실하지 않아요")])
def test_earlier_service_told_only_whether_it_is_sure(ask_back: object, word: str) -> None:
    """Its result has no certainty."""
    assert word in table([outcome(ask_back)])
    assert word in table([outcome(ask_back, certainty=None)])


def test_choices_stand_in_a_line() -> None:
    """Below what would help."""
    choices = [{"label": "유리병"}, {"label": "플라스틱"}]
    lines = table([outcome({"reason": "far", "text": TEXT, "choices": choices})]).splitlines()
    assert [line.strip() for line in lines if "?" in line] == [f"? {TEXT}", "? 혹시: 유리병, 플라스틱"]


def test_guess_below_a_tenth_is_not_told() -> None:
    """Earlier services told every one; the only item is told whatever it is."""
    guess = ITEM | {"name": "만년필", "confidence": 0.09}
    assert "만년필" not in table([outcome(None, items=[ITEM, guess])])
    assert "만년필" in table([outcome(None, items=[guess])])
    assert "만년필" in summary(outcome(None, items=[guess]), "ko")


@pytest.fixture
def _in_seoul(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Seoul")
        time.tzset()
        yield
    time.tzset()


def spent_until(moment: datetime) -> Outcome:
    failure = {"code": "budget_exhausted", "detail": "No more.", "opens_at": f"{moment:%FT%T}.500Z"}
    return Outcome(Path("a.jpg"), "failed", failure=failure)


@pytest.mark.usefixtures("_in_seoul")
def test_spent_budget_says_when_it_opens_again() -> None:
    """In local time, with the day where it is another one; never a minute too early."""
    line = summary(spent_until(datetime(2030, 1, 1, 15, 29, 59, tzinfo=UTC)), "en")
    assert line == "✗ a.jpg: No more. It opens again at 2030-01-02 00:30."
    today = datetime.now(SEOUL).replace(hour=23, minute=58, second=30)
    assert summary(spent_until(today.astimezone(UTC)), "ko") == "✗ a.jpg: No more. 23:59에 다시 열려요."
