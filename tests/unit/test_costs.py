"""`growbin costs`: arithmetic that can be checked by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from PIL import Image

from growbin.cli import main
from growbin.commands.costs import (
    ESTIMATES,
    Month,
    NoPrice,
    as_json,
    as_table,
    contradictions,
    month_bill,
    note_bills,
)
from growbin.config import Settings
from growbin.usage import load_prices

DOCS = Path(__file__).parents[2] / "docs"
DEFAULT = load_prices().of(str(Settings.model_fields["openai_model"].default))


def cents(usd: Decimal) -> Decimal:
    return usd.quantize(Decimal("0.01"))


def test_migration_notes_totals_come_out_as_it_has_them() -> None:
    """From its own figures: $32.52 before, $31.71 after."""
    before, after, _ = note_bills()
    assert (cents(before.usd), cents(after.usd)) == (Decimal("32.52"), Decimal("31.71"))
    assert [line.usd for line in after.lines] == [
        Decimal(text) for text in ("0.0012", "1.70", "0.0075", "30")
    ]


def test_contradictions_of_the_note_are_named_in_its_own_figures() -> None:
    """Where it contradicts itself, and where the later decision contradicts it."""
    told = " ".join(contradictions())
    for figure in ("−$0.81", "+$0.89", "−$0.82", "+$1.71", "$100.00", "$101.71", "70 %"):
        assert figure in told


def test_model_is_calls_times_tokens_times_price() -> None:
    """Ten thousand photos with the default model are some three dollars; the same photo again is free."""
    assert month_bill(Month(), DEFAULT).lines[0].usd == Decimal("2.70")
    assert month_bill(replace(Month(), repeated=Decimal("0.5")), DEFAULT).lines[0].usd == Decimal("1.35")
    assert month_bill(replace(Month(), call_usd=Decimal("0.01")), None).lines[0].usd == 100


def test_each_line_is_its_amount_times_its_price() -> None:
    """Checked by hand: two puts a photo; raw once and the clean copy a view through the CDN; three nodes."""
    bill = {line.part: line.usd for line in month_bill(Month(), DEFAULT).lines}
    assert bill["S3 requests in"] == 20_000 * Decimal("0.0000045")
    assert bill["CDN requests"] == 30_000 * Decimal("0.00000075")
    assert bill["CDN transfer"] == (20 + Decimal("0.2") * 20) * Decimal("0.085")
    assert bill["broker"] == 3 * 730 * Decimal("0.04")


def test_estimates_are_marked_and_are_parameters() -> None:
    """Each one can be set by who knows better."""
    assert set(ESTIMATES) <= set(Month.__slots__)
    lines = {line.part: line.is_estimate for line in month_bill(Month(), DEFAULT).lines}
    assert lines["model"]
    assert lines["pods"]
    assert not month_bill(replace(Month(), call_usd=Decimal(1)), None).lines[0].is_estimate


def test_model_without_a_price_says_what_to_do() -> None:
    """It is not taken for free."""
    with pytest.raises(NoPrice, match="PRICES_FILE"):
        as_table(Month(), None)


def test_docs_say_what_the_command_says() -> None:
    """The table in the page and the JSON beside it are its output, to the letter."""
    assert f"```\n{as_table(Month(), DEFAULT)}```" in (DOCS / "costs.md").read_text()
    assert (DOCS / "costs.json").read_text() == as_json(Month(), DEFAULT)


def test_command_takes_its_parameters(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """JSON for machines, and a picture with a bar for each bill."""
    picture = tmp_path / "costs.png"
    given = ["--photos", "1000", "--call-usd", "0.5", "--json", "--picture", str(picture)]
    assert main(["costs", *given]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["growbin"]["lines"][0]["usd"] == 500
    assert told["migration_note"]["before"]["total_usd"] == 32.524
    with Image.open(picture) as drawn:
        assert drawn.size[0] > 500


@pytest.mark.parametrize("amount", ["-1", "nan", "much"])
def test_amount_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], amount: str) -> None:
    """Before anything is computed."""
    with pytest.raises(SystemExit):
        main(["costs", "--views", amount])
    assert amount in capsys.readouterr().err
