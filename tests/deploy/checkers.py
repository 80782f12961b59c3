"""The programs of .venv-deploy and of npm, which answer about files."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.deploy.manifests import ROOT, Manifests

TOOLS = ROOT / ".venv-deploy" / "bin"
SCHEMAS = Path(__file__).parent / "schemas"


def run_checker(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One of .venv-deploy's programs; what it found is in its output and exit code."""
    assert (TOOLS / name).exists(), f"{name} is not installed: run `make deploy-check`, which installs it."
    return subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, cwd=ROOT)


def checked_resources(manifests: Manifests) -> dict[str, Any]:
    """What validate.mjs says of the custom resources: {wrong, unchecked}."""
    assert (SCHEMAS / "node_modules").exists(), "run `make deploy-check`, which installs the schemas."
    run = subprocess.run(
        ["node", "validate.mjs"],
        input=json.dumps(manifests.documents),
        capture_output=True,
        text=True,
        cwd=SCHEMAS,
    )
    assert run.returncode == 0, run.stderr
    return dict(json.loads(run.stdout))
