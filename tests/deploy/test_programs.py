"""What `make deploy-check` cannot install itself, it asks for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.manifests import ROOT


@pytest.mark.parametrize("missing", ["kubectl", "terraform"])
def test_missing_program_is_told_in_one_sentence(missing: str, tmp_path: Path) -> None:
    """Without it nothing is checked, and the failure says what to install."""
    for name in {"make", "python3", "id", "kubectl", "terraform"} - {missing}:
        program = shutil.which(name)
        assert program is not None, f"{name} is not installed."
        (tmp_path / name).symlink_to(program)
    run = subprocess.run(
        [tmp_path / "make", "--silent", "deploy-programs"],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    told = next(line for line in run.stderr.splitlines() if "needs" in line)
    assert told.startswith(f"make deploy-check needs {missing} ")
