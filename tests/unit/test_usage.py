"""What a call costs: the table of prices, ours or an operator's."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from growbin.usage import BadPrices, Usage, load_prices

ROW: dict[str, object] = {
    "model": "house-model",
    "input": "2",
    "cached": "1",
    "output": "8",
    "source": "us",
    "seen": "2026-01-02",
}


def written(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text(json.dumps({"prices": rows}))
    return path


def test_cost_counts_cached_tokens_once_and_reasoning_as_output() -> None:
    """Cached tokens are part of the input and cost less; reasoning is part of the output, and costs nothing
    more."""
    price = load_prices().of("gpt-4o")
    assert price is not None
    usage = Usage(input_tokens=1000, cached_tokens=400, output_tokens=300, reasoning_tokens=200)
    assert price.cost_usd(usage) == Decimal("0.0015") + Decimal("0.0005") + Decimal("0.003")


def test_more_cached_tokens_than_tokens_earn_nobody_anything() -> None:
    """A mistaken bill never makes the rest negative."""
    price = load_prices().of("gpt-4o")
    assert price is not None
    assert price.cost_usd(Usage(input_tokens=10, cached_tokens=500)) == Decimal("0.0000125")


@pytest.mark.parametrize("name", ["gpt-4o-2024-08-06", "gpt-4o-20240806", "gpt-4o"])
def test_dated_name_costs_what_the_plain_one_does(name: str) -> None:
    """Providers answer with the name of a snapshot."""
    price = load_prices().of(name)
    assert price is not None
    assert price.model == "gpt-4o"


@pytest.mark.parametrize("name", ["gpt-4o-mini-of-ours", "ft:gpt-4o:org::id", "llava", "", "gpt-4"])
def test_model_that_is_not_in_the_table_has_no_price(name: str) -> None:
    """A name that only resembles one is not taken for it: its price may be another."""
    assert load_prices().of(name) is None


def test_name_that_answered_counts_before_the_configured_one() -> None:
    """A server that answers with a cheaper model bills that one; an unknown name is billed as configured."""
    prices = load_prices()
    dear, fair = prices.of("gpt-4o-mini", "gpt-4o"), prices.of("a-proxy-name", "gpt-4o")
    assert dear is not None
    assert fair is not None
    assert (dear.model, fair.model) == ("gpt-4o-mini", "gpt-4o")


def test_each_row_has_a_source_and_a_date() -> None:
    """A price without either could not be checked."""
    for price in load_prices().prices:
        assert price.source
        assert price.seen <= date(2026, 12, 31)
        assert price.cached <= price.input <= price.output


def test_operators_file_takes_the_place_of_ours(tmp_path: Path) -> None:
    """It replaces the whole table: none of our rows is mixed in."""
    prices = load_prices(written(tmp_path / "prices.json", ROW))
    house = prices.of("house-model")
    assert house is not None
    assert house.cost_usd(Usage(input_tokens=1_000_000, output_tokens=1_000_000)) == 10
    assert prices.of("gpt-4o") is None


@pytest.mark.parametrize(
    "change",
    [{"input": "-1"}, {"output": "NaN"}, {"source": ""}, {"seen": "soon"}, {"curency": "KRW"}, {"model": ""}],
)
def test_file_that_cannot_be_meant_is_refused_by_name(tmp_path: Path, change: dict[str, object]) -> None:
    """A price that is no price would count money wrong in silence."""
    with pytest.raises(BadPrices, match=r"prices\.json"):
        load_prices(written(tmp_path / "prices.json", ROW | change))


def test_model_with_two_prices_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    """Nobody could say which price counts."""
    with pytest.raises(BadPrices, match="two prices"):
        load_prices(written(tmp_path / "prices.json", ROW, ROW))
    with pytest.raises(BadPrices, match=r"none\.json"):
        load_prices(tmp_path / "none.json")
