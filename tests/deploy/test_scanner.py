"""A security scanner reads the rendered manifests."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.deploy.manifests import rendered
from tests.deploy.scanner import SUPPRESSED, SUPPRESSED_LOCAL, scan


@pytest.mark.parametrize(
    ("overlay", "suppressed"),
    [
        ("overlays/local", SUPPRESSED | SUPPRESSED_LOCAL),
        ("overlays/production", SUPPRESSED),
        ("overlays/eks", SUPPRESSED),
    ],
)
def test_scanner_finds_nothing_in_the_manifests(
    overlay: str, suppressed: dict[str, str], tmp_path: Path
) -> None:
    """Nothing but what is suppressed with a reason."""
    file = tmp_path / "rendered.yaml"
    file.write_text(yaml.safe_dump_all(rendered(overlay).documents))
    assert scan(file, "kubernetes", suppressed) == []
