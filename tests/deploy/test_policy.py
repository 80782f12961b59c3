"""The manifests keep the rules of policy.py."""

from __future__ import annotations

import pytest

from tests.deploy.manifests import OVERLAYS, rendered
from tests.deploy.policy import RULES, Rule


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_manifests_keep_the_rule(overlay: str, rule: Rule) -> None:
    """No overlay breaks a rule."""
    assert list(rule(rendered(overlay))) == []
