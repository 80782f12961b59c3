"""What a call of the model used, and what that costs.

Prices stand in `data/prices.json`, a row for a model with its source and the day on which it was seen there;
an operator's own file of the same shape takes its place. They are dollars for a million tokens, written as
text: a price is exact, and so is a sum of calls.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

TOKENS_OF_A_PRICE = 1_000_000
_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$|-\d{8}$")  # a dated name costs what the plain one does

PerMillion = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]


class Usage(BaseModel):
    """As the provider bills it. Cached tokens and those of the picture (None: not told) are part of the input
    and reasoning is part of the output. `cost_usd` is None where there is no price."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    picture_tokens: int | None = None
    cost_usd: float | None = None


class Price(BaseModel):
    """Dollars for a million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[str, Field(min_length=1)]
    input: PerMillion
    cached: PerMillion
    output: PerMillion
    source: Annotated[str, Field(min_length=1)]
    seen: date

    def cost_usd(self, usage: Usage) -> Decimal:
        """Exact. More cached tokens than tokens would be a mistake, and earn nobody anything."""
        cached = min(usage.cached_tokens, usage.input_tokens)
        dollars = (
            (usage.input_tokens - cached) * self.input
            + cached * self.cached
            + usage.output_tokens * self.output
        )
        return dollars / TOKENS_OF_A_PRICE


class BadPrices(Exception):
    """The table of prices cannot be used; the text says why."""


class PriceList(BaseModel):
    """All of `data/prices.json`; anything unknown in it is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prices: tuple[Price, ...]

    def of(self, *models: str) -> Price | None:
        """The price of the first of these that has one: the name that answered, then the configured one."""
        known: Mapping[str, Price] = {price.model: price for price in self.prices}
        for model in models:
            for name in (model, _SNAPSHOT.sub("", model)):
                if name in known:
                    return known[name]
        return None


def load_prices(path: Path | None = None) -> PriceList:
    """Ours, or those of an operator's file in their place. Raises BadPrices."""
    source = files("growbin").joinpath("data/prices.json") if path is None else path
    try:
        listed = PriceList.model_validate_json(source.read_bytes())
    except (OSError, ValidationError) as error:
        raise BadPrices(f"{source}: {error}") from None
    names = [price.model for price in listed.prices]
    if len(set(names)) < len(names):
        raise BadPrices(f"{source}: a model has two prices")
    return listed
