"""What alerts, panels and autoscalers name, held against what the code measures."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.metrics import MetricWrapperBase

from growbin.telemetry import metrics

PRODUCTION = Path(__file__).parents[1] / "deploy" / "k8s" / "overlays" / "production"
DASHBOARD = PRODUCTION / "dashboard.json"
# With what Prometheus scrapes them by, and what its own functions add.
FOREIGN_LABELS = {"le", "pod", "instance", "job", "namespace", "app_kubernetes_io_component"}
# Their label sets are those of the process at hand: its breakers, its checks.
SET_AT_RUN_TIME = {"growbin_part_away", "growbin_part_well"}

METRIC = re.compile(r'(growbin_\w+)(?:\{((?:[^}"]|"[^"]*")*)\})?')
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")


def family(name: str) -> str:
    return re.sub("_(total|bucket|sum|count)$", "", name)


def measured() -> dict[str, MetricWrapperBase]:
    """Every metric by its family's name, with the label sets that are there from the start."""
    for module in ("growbin.adapters.redis.progress_log", "growbin.gateway.app"):
        importlib.import_module(module)
    return {
        next(iter(metric.describe())).name: metric
        for metric in vars(metrics).values()
        if isinstance(metric, MetricWrapperBase)
    }


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in dashboard["panels"]:
        yield from [panel, *panel.get("panels", [])]


def panel_queries() -> list[tuple[str, str]]:
    """(panel, query)"""
    return [
        (panel["title"], target["expr"])
        for panel in panels(json.loads(DASHBOARD.read_text()))
        for target in panel.get("targets", [])
    ]


def alert_queries() -> list[tuple[str, str]]:
    groups = yaml.safe_load((PRODUCTION / "alerts.yaml").read_text())["spec"]["groups"]
    return [(rule.get("alert", "record"), rule["expr"]) for group in groups for rule in group["rules"]]


def scaler_queries() -> list[tuple[str, str]]:
    """Of autoscalers, and of KEDA's questions to Prometheus."""
    queries = []
    for document in yaml.safe_load_all((PRODUCTION / "scaling.yaml").read_text()):
        name, spec = document["metadata"]["name"], document.get("spec", {})
        queries += [(name, it["pods"]["metric"]["name"]) for it in spec.get("metrics", []) if "pods" in it]
        queries += [
            (name, it["metadata"]["query"]) for it in spec.get("triggers", []) if "query" in it["metadata"]
        ]
    return queries


def unknown(owner: str, query: str) -> Iterator[str]:
    """What this query names and nothing measures: a metric, a label, or a value that a label never has."""
    known = measured()
    labels_known = set(FOREIGN_LABELS)
    for name, chosen in METRIC.findall(query):
        metric = known.get(family(name))
        if metric is None:
            yield f"{owner} reads {name}, which nothing measures"
            continue
        labels_known |= set(metric._labelnames)
        for label, operator, wanted in MATCHER.findall(chosen):
            if label in FOREIGN_LABELS:
                continue
            if label not in metric._labelnames:
                yield f"{owner} chooses by {label}, and {name} has no such label"
            elif family(name) not in SET_AT_RUN_TIME:
                values = {values[metric._labelnames.index(label)] for values in metric._metrics}
                alternatives = wanted.split("|") if operator in ("=~", "!~") else [re.escape(wanted)]
                for one in alternatives:
                    if not any(re.fullmatch(one, value) for value in values):
                        yield f"{owner} looks for {label}={one}, which {name} never has"
    for group in GROUPING.findall(query):
        for label in filter(None, map(str.strip, group.split(","))):
            if "growbin_" in query and label not in labels_known:
                yield f"{owner} groups by {label}, which no metric there has"
