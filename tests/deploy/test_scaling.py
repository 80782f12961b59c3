"""What the autoscaler of the consumers counts: its query, answered by Prometheus' own program."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.deploy.manifests import Document, rendered

QUEUE = '{namespace="growbin",queue="growbin.jobs",pod="rabbitmq-0"}'
OTHER_QUEUE = '{namespace="growbin",queue="growbin.jobs.letters",pod="rabbitmq-0"}'
OTHER_NAMESPACE = '{namespace="staging",queue="growbin.jobs",pod="rabbitmq-0"}'


@dataclass(frozen=True)
class Load:
    """What is in the queue, ready and unacknowledged; the consumers, and how many have a breaker open."""

    name: str
    jobs: int | None
    consumers: int
    away: int
    counted: int | None  # None: nothing can be said, so that the fallback decides


# 24 jobs are one consumer.
LOADS = [
    Load("nothing to do", jobs=0, consumers=3, away=0, counted=0),
    Load("more than two take", jobs=49, consumers=2, away=0, counted=49),
    Load("a burst", jobs=2400, consumers=2, away=0, counted=2400),
    Load("a burst while the model is away", jobs=2400, consumers=3, away=3, counted=3 * 24),
    Load("little while the model is away", jobs=5, consumers=3, away=3, counted=5),
    Load("a node without a way out", jobs=2400, consumers=4, away=1, counted=2400),
    Load("no consumer there", jobs=240, consumers=0, away=0, counted=240),
    Load("RabbitMQ away", jobs=None, consumers=3, away=0, counted=None),
    Load("RabbitMQ and the model away", jobs=None, consumers=3, away=3, counted=None),
]


def trigger() -> Document:
    scaler = rendered("overlays/production").named("ScaledObject", "consumer")
    assert scaler is not None
    [only] = scaler["spec"]["triggers"]
    return dict(only["metadata"])


def series(load: Load) -> list[dict[str, str]]:
    """As they are scraped: each node's own queues, and each consumer's breakers."""
    values = {f"rabbitmq_queue_messages{OTHER_QUEUE}": 7, f"rabbitmq_queue_messages{OTHER_NAMESPACE}": 999}
    if load.jobs is not None:
        values[f"rabbitmq_queue_messages{QUEUE}"] = load.jobs
    for number in range(load.consumers):
        for part in ("model", "photos", "s3"):
            labels = f'{{namespace="growbin",pod="consumer-{number}",part="{part}"}}'
            values[f"growbin_part_away{labels}"] = int(part == "model" and number < load.away)
    return [{"series": name, "values": f"{value}x4"} for name, value in values.items()]


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
def test_autoscaler_counts_as_much_work_as_more_consumers_help_with(load: Load, tmp_path: Path) -> None:
    """All that is in the queue; but while a part is away no more than the consumers there can hold."""
    said = trigger()
    assert int(said["threshold"]) == 24
    found = [] if load.counted is None else [{"labels": "{}", "value": load.counted}]
    asked = {"expr": said["query"], "eval_time": "30s", "exp_samples": found}
    test = {"interval": "15s", "input_series": series(load), "promql_expr_test": [asked]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"evaluation_interval": "15s", "tests": [test]}))
    program = shutil.which("promtool")
    assert program is not None, "promtool is not installed: run `make prometheus`, which installs it."
    run = subprocess.run(
        [program, "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
