"""Checkov's opinion, and where ours differs."""

from __future__ import annotations

import json
from pathlib import Path

from tests.deploy.checkers import run_checker

# Each suppression with its reason.
SUPPRESSED = {
    "CKV_K8S_15": "an exact version never changes, so a node that has it need not pull it again",
    "CKV_K8S_35": "settings are read from the environment, by every process in one way; never from files",
    "CKV_K8S_43": "nobody here has pulled these images: a digest would be invented (production pins its own)",
}
# Only where the parts are other people's images, whose data belong to a low user id.
SUPPRESSED_LOCAL = {"CKV_K8S_40": "RabbitMQ, Valkey, SeaweedFS and nginx run as their images' own users"}


def scan(file: Path, framework: str, suppressed: dict[str, str]) -> list[str]:
    """What Checkov holds against a file, a line each; it must have found something to look at."""
    run = run_checker(
        "checkov",
        *("--file", str(file), "--framework", framework, "--output", "json", "--quiet", "--compact"),
        *("--skip-download", "--skip-check", ",".join(suppressed)),
    )
    said = json.loads(run.stdout)
    assert said["summary"]["passed"] > 0, run.stdout + run.stderr
    failed = said["results"]["failed_checks"]
    return [f"{found['check_id']} {found['resource']}: {found['check_name']}" for found in failed]
