"""`growbin costs`: what a month of photos costs, from parameters, and what the migration note said it would.

It is arithmetic: nothing is asked of anybody. Every line says how it comes about, and whether it stands on an
estimate. A GB is 1,000 MB, as in the note.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import Field

from growbin.commands.costs_picture import Bar, draw
from growbin.job import Noun
from growbin.usage import Price, Usage

HOURS = 730  # of a month
DAYS = Decimal("30.4")
MB_OF_A_GB = 1000
RAW_DAYS, CLEAN_DAYS = 1, 7  # how long photos lie in the bucket

# The migration note's own assumptions.
NOTE_PHOTOS, NOTE_MB, NOTE_CALL_USD = 10_000, Decimal(2), Decimal("0.01")
NOTE_MISSES = Decimal("0.3")  # of its CDN, and before it of its cache of results
NOTE_SAID_CHANGE = Decimal("0.89")  # in its closing table


@dataclass(frozen=True, slots=True)
class Month:
    """What is asked about. `views`: how often people look at a photo afterwards, through the CDN."""

    photos: int = 10_000
    photo_mb: Decimal = Decimal(2)
    clean_mb: Decimal = Decimal("0.2")
    views: Decimal = Decimal(2)
    hits: Decimal = Decimal("0.7")  # of the views, at the edge
    repeated: Decimal = Decimal(0)  # share that the same session has sent before
    input_tokens: int = 1200
    output_tokens: int = 300
    call_usd: Decimal | None = None  # instead of tokens and the table of prices
    pods_cpu: Decimal = Decimal("0.7")  # requested: two consumers, two gateways
    broker_cpu: Decimal = Decimal(3)  # three nodes
    redis_nodes: int = 1


ESTIMATES = {
    "clean_mb": "what a photo has after hygiene",
    "views": "how often people look at a photo again",
    "hits": "the note's hope; nobody has measured it",
    "input_tokens": "prompt and picture, measured for no model with a real key",
    "output_tokens": "the answer, likewise",
    "pods_cpu": "what the manifests request, not what is used",
    "broker_cpu": "the same",
}


class CloudPrice(Noun, extra="forbid"):
    name: str
    usd: Annotated[Decimal, Field(ge=0)]
    unit: str
    is_estimate: bool
    source: str


class _CloudPrices(Noun, extra="forbid"):
    prices: tuple[CloudPrice, ...]


@cache
def cloud_prices() -> dict[str, CloudPrice]:
    text = files("growbin").joinpath("data/cloud_prices.json").read_bytes()
    return {price.name: price for price in _CloudPrices.model_validate_json(text).prices}


@dataclass(frozen=True, slots=True)
class Line:
    """`how` it comes about; `is_estimate`: it stands on one."""

    part: str
    usd: Decimal
    how: str
    is_estimate: bool = False


@dataclass(frozen=True, slots=True)
class Bill:
    title: str
    lines: tuple[Line, ...]

    @property
    def usd(self) -> Decimal:
        return sum((line.usd for line in self.lines), Decimal(0))


class NoPrice(Exception):
    """The model has none; the text says what to do."""


# --- growbin's month --------------------------------------------------------------------------------


def month_bill(month: Month, price: Price | None) -> Bill:
    """Raises NoPrice."""
    raw_gb = month.photos * month.photo_mb / MB_OF_A_GB
    clean_gb = month.photos * month.clean_mb / MB_OF_A_GB
    looks = month.photos * month.views
    gets = month.photos * 2 + looks * (
        1 - month.hits
    )  # the check, the consumer's through the CDN, missed views
    served_gb = raw_gb + clean_gb * month.views
    stored_gb = (raw_gb * RAW_DAYS + clean_gb * CLEAN_DAYS) / DAYS
    return Bill(
        f"growbin, {month.photos:,} photos of {month.photo_mb} MB a month",
        (
            _model_line(month, price),
            _line(
                "S3 requests in", "s3_put", Decimal(month.photos * 2), "two a photo: as it came, and clean"
            ),
            _line("S3 requests out", "s3_get", gets, "check, consumer, missed views", is_estimate=True),
            _line("S3 storage", "s3_storage", stored_gb, "raw a day, clean seven", is_estimate=True),
            _line("CDN requests", "cdn_request", month.photos + looks, "consumer, views", is_estimate=True),
            _line("CDN transfer", "cdn_transfer", served_gb, "raw once, clean a view", is_estimate=True),
            _line("broker", "cpu", month.broker_cpu * HOURS, f"{month.broker_cpu} vCPU", is_estimate=True),
            _line("Redis", "redis_node", Decimal(month.redis_nodes * HOURS), f"{month.redis_nodes} node"),
            _line("pods", "cpu", month.pods_cpu * HOURS, f"{month.pods_cpu} vCPU", is_estimate=True),
        ),
    )


def _model_line(month: Month, price: Price | None) -> Line:
    calls = month.photos * (1 - month.repeated)
    usd = month.call_usd
    if usd is None:
        if price is None:
            raise NoPrice("the model has no price: set PRICES_FILE, or give --call-usd")
        usd = price.cost_usd(Usage(input_tokens=month.input_tokens, output_tokens=month.output_tokens))
    return Line("model", calls * usd, f"{calls:,.0f} × ${usd.normalize():f}", month.call_usd is None)


def _line(part: str, name: str, amount: Decimal, why: str, *, is_estimate: bool = False) -> Line:
    price = cloud_prices()[name]
    per = f"{amount.normalize():,f}" if amount == amount.to_integral() else f"{amount:,.2f}"
    how = f"{per} × ${price.usd:f} a {price.unit}: {why}"
    return Line(part, amount * price.usd, how, is_estimate or price.is_estimate)


# --- the migration note -----------------------------------------------------------------------------


def note_bills() -> tuple[Bill, Bill, Bill]:
    """Before, after, and what its own figures give once a later note has taken the cache of results away."""
    gb, prices = NOTE_PHOTOS * NOTE_MB / MB_OF_A_GB, cloud_prices()
    misses = NOTE_PHOTOS * NOTE_MISSES
    model = Line("model", misses * NOTE_CALL_USD, f"{misses:,.0f} × ${NOTE_CALL_USD}")
    before = Bill(
        "migration note: before (S3, results cached by perceptual hash)",
        (
            Line("S3 GET", NOTE_PHOTOS * prices["s3_get"].usd, f"{NOTE_PHOTOS:,} requests"),
            Line("transfer", gb * prices["s3_transfer"].usd, f"S3, {gb:f} GB"),
            model,
        ),
    )
    cdn = (
        Line("transfer", gb * prices["cdn_transfer"].usd, f"CDN, {gb:f} GB"),
        Line("CDN requests", NOTE_PHOTOS * prices["cdn_request"].usd, f"{NOTE_PHOTOS:,} requests"),
    )
    after = Bill(
        "migration note: after (CDN)",
        (
            Line("S3 GET", misses * prices["s3_get"].usd, f"{misses:,.0f} requests: 70 % at the edge"),
            *cdn,
            model,
        ),
    )
    later = Bill(
        "its own figures without the perceptual hash, and each raw photo read once",
        (
            Line("S3 GET", NOTE_PHOTOS * prices["s3_get"].usd, f"{NOTE_PHOTOS:,} requests: none at the edge"),
            *cdn,
            Line("model", NOTE_PHOTOS * NOTE_CALL_USD, f"{NOTE_PHOTOS:,} × ${NOTE_CALL_USD}"),
        ),
    )
    return before, after, later


def contradictions() -> list[str]:
    """Of the note with itself, and with what was decided after it."""
    before, after, later = note_bills()
    transfer = after.lines[1].usd - before.lines[1].usd
    cloudfront = after.lines[1].usd + after.lines[2].usd
    change = _cents(after.usd) - _cents(before.usd)
    return [
        (
            f"Its totals differ by {_signed(change)}; its closing table says {_signed(NOTE_SAID_CHANGE)}"
            f" (3 %): {_signed(transfer)} for transfer and {_signed(cloudfront)} for CloudFront, which counts"
            " the CDN's transfer twice."
        ),
        (
            f"A later note takes the perceptual hash away: then {NOTE_PHOTOS:,} photos are as many calls,"
            f" {_dollars(later.lines[3].usd)} at its own price of a call, and {_dollars(later.usd)} in all."
        ),
        (
            "A consumer reads each raw photo once, so the edge has none of them: the 70 % can only be people"
            " who look at a photo again."
        ),
        "The cost of what runs (broker, Redis, pods) stands in neither of its columns.",
    ]


# --- told -------------------------------------------------------------------------------------------


def as_table(month: Month, price: Price | None) -> str:
    """Raises NoPrice."""
    bills = (month_bill(month, price), *note_bills())
    parts = [_bill_table(bill) for bill in bills]
    marked = [f"  {name}: {why}" for name, why in ESTIMATES.items()]
    sources = [f"  {price.name}: {price.source}" for price in cloud_prices().values()]
    lists: Sequence[tuple[str, list[str]]] = (
        ("Contradictions of the migration note", [f"  - {text}" for text in contradictions()]),
        ("Estimates (~)", marked),
        ("Where prices come from", sources),
    )
    return "\n\n".join([*parts, *("\n".join([title, *lines]) for title, lines in lists)]) + "\n"


def _bill_table(bill: Bill) -> str:
    rows = [
        (line.part, _dollars(line.usd) + ("~" if line.is_estimate else " "), line.how) for line in bill.lines
    ]
    rows.append(("total", _dollars(bill.usd) + " ", ""))
    return "\n".join([bill.title, *(f"  {part:<16} {usd:>11} {how}".rstrip() for part, usd, how in rows)])


def as_json(month: Month, price: Price | None) -> str:
    """The same. Raises NoPrice."""
    before, after, later = note_bills()
    told = {
        "growbin": _told(month_bill(month, price)),
        "migration_note": {"before": _told(before), "after": _told(after), "later": _told(later)},
        "contradictions": contradictions(),
        "estimates": ESTIMATES,
        "sources": {price.name: price.source for price in cloud_prices().values()},
    }
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


def _told(bill: Bill) -> dict[str, object]:
    lines = [
        {"part": line.part, "usd": float(_exact(line.usd)), "how": line.how, "is_estimate": line.is_estimate}
        for line in bill.lines
    ]
    return {"title": bill.title, "total_usd": float(_exact(bill.usd)), "lines": lines}


def save_picture(month: Month, price: Price | None, path: Path) -> None:
    """A bar for each bill. Raises NoPrice and OSError."""
    named = zip(
        ("growbin", "note: before", "note: after", "note: later"),
        (month_bill(month, price), *note_bills()),
        strict=True,
    )
    kinds: dict[str, Callable[[str], bool]] = {
        "model": lambda part: part == "model",
        "photos": lambda part: part.startswith(("S3", "CDN", "transfer")),
        "what runs": lambda part: part in ("broker", "Redis", "pods"),
    }
    bars = [
        Bar(
            name,
            {
                kind: float(sum(line.usd for line in bill.lines if is_of(line.part)))
                for kind, is_of in kinds.items()
            },
        )
        for name, bill in named
    ]
    draw(bars, f"{month.photos:,} photos a month, in dollars").save(path, "PNG")


def _exact(usd: Decimal) -> Decimal:
    return usd.quantize(Decimal("0.000001"), ROUND_HALF_UP)


def _dollars(usd: Decimal) -> str:
    """To the cent; what is less than one, in full."""
    return f"${_cents(usd):,}" if usd >= Decimal("0.01") else f"${usd.normalize():f}"


def _cents(usd: Decimal) -> Decimal:
    return usd.quantize(Decimal("0.01"), ROUND_HALF_UP)


def _signed(usd: Decimal) -> str:
    return f"{'−' if usd < 0 else '+'}{_dollars(abs(usd))}"
