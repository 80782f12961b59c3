"""The alerts at true durations, by promtool: each fires when it should, and nothing else with it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.alert_cases import CASES, WELL, Case
from tests.deploy.alert_rules import alerts, program, rule_groups

LONG_AFTER = "35m"


def expected(case: Case) -> dict[str, Any]:
    rule = alerts()[case.alert]

    def filled(text: str) -> str:
        return re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: case.labels[found[1]], text)

    return {
        "exp_labels": {**rule["labels"], **case.labels},
        "exp_annotations": {name: filled(text) for name, text in rule["annotations"].items()},
    }


def asked(eval_time: str, firing: Case | None) -> list[dict[str, Any]]:
    """All alerts at this time: of the case's own what is expected, of every other one nothing."""
    return [
        {
            "eval_time": eval_time,
            "alertname": name,
            "exp_alerts": [expected(firing)] if firing and firing.alert == name else [],
        }
        for name in alerts()
    ]


def run(tests: list[dict[str, Any]], folder: Path) -> str:
    """What promtool has against it; empty when all is as expected."""
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": rule_groups()}))
    text = {"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": tests}
    (folder / "tests.yaml").write_text(yaml.safe_dump(text, width=1000))
    told = subprocess.run(
        [program("promtool"), "test", "rules", "tests.yaml"], cwd=folder, capture_output=True, text=True
    )
    return "" if told.returncode == 0 else told.stdout + told.stderr


def world(series: dict[str, str | None]) -> list[dict[str, str]]:
    return [{"series": name, "values": values} for name, values in (WELL | series).items() if values]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_alert_fires_after_its_time_and_alone(case: Case, tmp_path: Path) -> None:
    """Not a scrape earlier; and it fires on while the fault lasts."""
    times = [asked(case.silent_at, None), asked(case.fires_at, case), asked(LONG_AFTER, case)]
    test = {
        "interval": "15s",
        "input_series": world(dict(case.series)),
        "alert_rule_test": [one for at in times for one in at],
    }
    assert run([test], tmp_path) == ""


def test_nothing_fires_while_all_is_well(tmp_path: Path) -> None:
    """Half an hour under load, with the failures that any day brings."""
    test = {"interval": "15s", "input_series": world({}), "alert_rule_test": asked(LONG_AFTER, None)}
    assert run([test], tmp_path) == ""


def test_what_an_outage_left_behind_pages_nobody_and_what_goes_on_does(tmp_path: Path) -> None:
    """The model is away for six minutes and jobs expire; ten minutes after its return whoever still fails
    has a cause of his own."""
    away = 'growbin_part_away{part="model"}'
    expired = 'growbin_jobs_ended_total{outcome="expired"}'
    part_away = next(case for case in CASES if case.alert == "GrowbinPartAway")
    jobs_fail = next(case for case in CASES if case.alert == "GrowbinJobsFail")
    times = [asked("5m", part_away), asked("8m", None), asked("15m", None), asked("28m", jobs_fail)]
    test = {
        "interval": "15s",
        "input_series": world({away: "1x23 0x160", expired: "0+10x160"}),
        "alert_rule_test": [one for at in times for one in at],
    }
    assert run([test], tmp_path) == ""


def test_each_alert_has_a_case() -> None:
    """An alert without one may never fire."""
    assert {case.alert for case in CASES} == set(alerts())


def test_rules_are_what_prometheus_reads(tmp_path: Path) -> None:
    """Its own check of the file."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": rule_groups()}))
    told = subprocess.run(
        [program("promtool"), "check", "rules", "rules.yaml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
