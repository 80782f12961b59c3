"""The alert rules as they stand in the repository, and as Prometheus' own programs read them."""

from __future__ import annotations

import re
import shutil
from typing import Any

import yaml

from tests.deploy.manifests import K8S

RULES_FILE = K8S / "overlays" / "production" / "alerts.yaml"
DURATION = re.compile(r"(\d+)(s|m|h)\b")
SECONDS = {"s": 1, "m": 60, "h": 3600}


def rule_groups() -> list[dict[str, Any]]:
    spec = yaml.safe_load(RULES_FILE.read_text())["spec"]
    return list(spec["groups"])


def rules() -> list[dict[str, Any]]:
    return [rule for group in rule_groups() for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def shortened(text: str, factor: float) -> str:
    """A duration, divided."""
    return DURATION.sub(lambda found: f"{int(int(found[1]) * SECONDS[found[2]] * 1000 / factor)}ms", text)


def fast_rules(factor: float, queue_name: str) -> str:
    """A rules file in which every `for` and every range is shorter by `factor`, for the queue of a test."""
    groups = rule_groups()
    for rule in (rule for group in groups for rule in group["rules"]):
        expr = re.sub(r"\[(\w+)\]", lambda found: f"[{shortened(found[1], factor)}]", rule["expr"])
        rule["expr"] = expr.replace("growbin.jobs", queue_name)
        if "for" in rule:
            rule["for"] = shortened(rule["for"], factor)
    return yaml.safe_dump({"groups": groups})


def program(name: str) -> str:
    """promtool or prometheus."""
    path = shutil.which(name)
    assert path is not None, f"{name} is not installed: run `make prometheus`, which installs it."
    return path
