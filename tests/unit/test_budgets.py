"""The text of a budget."""

from __future__ import annotations

from decimal import Decimal

import pytest

from growbin.budgets import Limit, micros, parse_limits
from growbin.config import BadSetting, Settings, load_settings
from growbin.wiring.consumer import budget_of
from growbin.wiring.parts import CannotStart


def settings(monkeypatch: pytest.MonkeyPatch, **given: str) -> Settings:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def test_limits_are_read_as_people_write_them() -> None:
    """Calls and dollars, a minute and a day, in any number."""
    assert parse_limits("session", "1 call/minute, 500 calls/day,$2.50/day") == (
        Limit("session", "calls", "minute", 1),
        Limit("session", "calls", "day", 500),
        Limit("session", "micros", "day", 2_500_000),
    )
    assert parse_limits("session", "") == ()


@pytest.mark.parametrize(
    "text", ["5/day", "5 calls", "5 calls/week", "$-1/day", "$1e3/day", "lots", "5 calls/day;"]
)
def test_bad_limit_stops_the_start_and_is_quoted(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A budget that was not understood would be none."""
    with pytest.raises(BadSetting, match="BUDGET"):
        settings(monkeypatch, BUDGET=text)


@pytest.mark.parametrize(
    ("dollars", "millionths"), [(Decimal("0.0000001"), 1), (0.1 + 0.2, 300_000), (0, 0), (0.0004, 400)]
)
def test_dollars_are_rounded_up_to_millionths(dollars: Decimal | float, millionths: int) -> None:
    """What is spent is never told as less; what only a float adds is nothing."""
    assert micros(dollars) == millionths


def test_no_budget_is_kept_unless_one_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off by default."""
    assert budget_of(settings(monkeypatch)) is None


def test_call_reserves_what_it_may_cost_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """More thinking may cost more; a longer call is given longer."""
    plain = budget_of(settings(monkeypatch, BUDGET="$1/day", OPENAI_MODEL="gpt-6-luna"))
    thinking = budget_of(
        settings(monkeypatch, BUDGET="$1/day", OPENAI_REASONING_EFFORT="low", MODEL_TIMEOUT_SECONDS="100")
    )
    assert plain is not None
    assert thinking is not None
    assert plain.call_micros == 8_000 * 0.1 + 1_500 * 0.5
    assert thinking.call_micros > 10 * 1_000
    assert thinking.call_seconds > 100


def test_model_without_a_price_is_bounded_in_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its dollars cannot be counted; a budget in dollars alone would bound nothing, and stops the start."""
    bounded = budget_of(settings(monkeypatch, BUDGET="$1/day, 5 calls/day", OPENAI_MODEL="house-model"))
    assert bounded is not None
    assert bounded.limits == (Limit("everybody", "calls", "day", 5),)
    with pytest.raises(CannotStart, match="house-model has no price"):
        budget_of(settings(monkeypatch, BUDGET="$1/day", OPENAI_MODEL="house-model"))
