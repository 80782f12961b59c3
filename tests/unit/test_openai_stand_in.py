"""The stand-in of the provider: it must be as strict as it says, or what passes it proves nothing."""

from __future__ import annotations

import io
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
from PIL import Image

from growbin.adapters.model.analyst import OpenAIAnalyst
from growbin.capabilities import CallWishes
from growbin.errors import Throttled
from growbin.job import CleanPhoto
from growbin.usage import load_prices
from tests.openai_stand_in import GPT_4O, GPT_4O_MINI, StandIn, Tariff


def photo(width: int, height: int) -> CleanPhoto:
    output = io.BytesIO()
    Image.new("RGB", (width, height), "green").save(output, "JPEG")
    return CleanPhoto(output.getvalue(), "image/jpeg", width, height)


@pytest.mark.parametrize(
    ("tariff", "size", "detail", "tokens"),
    [
        (GPT_4O, (4000, 3000), "low", 85),
        (GPT_4O, (1024, 768), "high", 765),
        (GPT_4O, (1024, 1024), "high", 765),
        (GPT_4O, (2048, 4096), "high", 1105),
        (GPT_4O, (512, 512), "high", 255),
        (GPT_4O_MINI, (1024, 768), "low", 2833),
        (GPT_4O_MINI, (1024, 768), "high", 2833 + 4 * 5667),
    ],
)
def test_picture_counts_as_the_published_formula_says(
    tariff: Tariff, size: tuple[int, int], detail: str, tokens: int
) -> None:
    """The provider's own examples among them."""
    assert tariff.tokens_of_picture(*size, detail) == tokens


@pytest.mark.parametrize(
    "change",
    [
        {"max_completion_tokens": "many"},
        {"reasoning_effort": "huge"},
        {"bogus": 1},
        {"messages": "none"},
        {"messages": [{"role": "nobody", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"detail": "low"}}]}]},
        {"response_format": {"type": "yaml"}},
        {"model": None},
        {"model": "another"},
    ],
    ids=str,
)
async def test_request_that_the_schema_does_not_have_is_refused(change: dict[str, Any]) -> None:
    """Nothing is answered, and nothing billed."""
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
    headers = {"Authorization": "Bearer sk-test"}
    async with StandIn().serving() as provider, aiohttp.ClientSession(headers=headers) as http:
        async with http.post(f"{provider.url}/chat/completions", json=body) as answer:
            assert answer.status == 200
        async with http.post(f"{provider.url}/chat/completions", json=body | change) as answer:
            assert answer.status in (400, 404)
    assert len(provider.calls) == 1


@pytest.mark.parametrize("tariff", [GPT_4O, GPT_4O_MINI], ids=lambda tariff: tariff.model)
async def test_what_growbin_sends_passes_and_its_dollars_are_the_bill(tariff: Tariff) -> None:
    """In each way that it may ask, to the last digit; the second call's beginning is cached where it is long
    enough."""
    spent = Decimal(0)
    price = load_prices().of(tariff.model)
    assert price is not None
    async with StandIn(tariff).serving() as provider:
        for wishes in (CallWishes(), CallWishes(detail="high"), CallWishes(response_format="json_object")):
            async with OpenAIAnalyst.open(
                api_key="sk-test", base_url=provider.url, model=tariff.model, wishes=wishes, timeout_seconds=5
            ) as analyst:
                for question in (None, "Which bin?"):
                    usage = (await analyst.ask(photo(900, 700), question, "en")).usage
                    spent += price.cost_usd(usage)
                    assert usage.cost_usd == float(price.cost_usd(usage))
                    assert usage.picture_tokens == tariff.tokens_of_picture(900, 700, wishes.detail or "low")
    assert not provider.refusals
    assert spent == provider.bill_usd
    assert len(provider.calls) == 6


async def test_rate_and_quota_are_refused_as_the_provider_words_them() -> None:
    """Growbin tells the one from the other: patience, or a person."""
    async with (
        StandIn(calls_per_minute=1).serving() as busy,
        StandIn(quota_usd=Decimal(0)).serving() as empty,
    ):
        for provider, is_broken in ((busy, False), (empty, True)):
            async with OpenAIAnalyst.open(
                api_key="sk-test", base_url=provider.url, model="gpt-4o", timeout_seconds=5
            ) as analyst:
                if not is_broken:
                    await analyst.ask(photo(64, 64), None, "en")
                with pytest.raises(Throttled) as refused:
                    await analyst.ask(photo(64, 64), None, "en")
            assert refused.value.broken == is_broken
    assert (len(busy.calls), len(empty.calls)) == (1, 0)
