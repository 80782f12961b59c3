"""Alerts, panels and autoscalers read what is measured, and what is measured is read."""

from __future__ import annotations

import pytest

from tests.metric_names import (
    METRIC,
    alert_queries,
    family,
    measured,
    panel_queries,
    scaler_queries,
    unknown,
)


def test_alerts_panels_and_autoscalers_name_only_what_is_measured() -> None:
    """Metrics, their labels, and the values of these."""
    queries = [*alert_queries(), *panel_queries(), *scaler_queries()]
    assert len(queries) > 50
    assert [finding for owner, query in queries for finding in unknown(owner, query)] == []


def test_each_metric_is_seen_by_somebody() -> None:
    """On the dashboard or by an alert: what nobody reads is not measured for anybody."""
    queries = [query for _, query in [*alert_queries(), *panel_queries(), *scaler_queries()]]
    named = {family(name) for query in queries for name, _ in METRIC.findall(query)}
    assert set(measured()) - named == set()


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("sum(growbin_sse_connections_active)", "growbin_sse_connections_active, which nothing measures"),
        ('rate(growbin_uploads_total{code="x"}[5m])', "by code, and growbin_uploads_total has no such"),
        ('growbin_uploads_total{outcome="refused"}', "outcome=refused, which growbin_uploads_total never"),
        ('growbin_uploads_total{outcome=~"accepted|full"}', "outcome=full, which"),
        ("sum by (code) (growbin_uploads_total)", "groups by code, which"),
    ],
)
def test_name_that_nothing_measures_is_found(query: str, told: str) -> None:
    """A metric, a label, a value: an alert on any of these would keep still for ever."""
    (finding,) = unknown("an alert", query)
    assert told in finding
