"""The programs that look at deploy/terraform. A missing one fails its test with one sentence."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
TERRAFORM = ROOT / "deploy" / "terraform"
# Nothing is fetched, neither news of Terraform nor a user's settings.
OFFLINE = {"CHECKPOINT_DISABLE": "1", "TF_CLI_CONFIG_FILE": os.devnull, "TF_IN_AUTOMATION": "1"}
LIMIT_SECONDS = 100


def program(name: str, advice: str, path: str | None = None) -> str:
    found = shutil.which(name, path=path)
    if found is None:
        pytest.fail(f"{name} is not on the PATH: {advice}, then run make deploy-check again.", pytrace=False)
    return found


def terraform(*arguments: str, folder: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    name = program("terraform", "install Terraform 1.10 or newer")
    return _run([name, *arguments], folder, text, os.environ | OFFLINE)


def deploy_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The interpreter that has the scanner, the HCL parser and the provider's schema."""
    path = Path(os.environ.get("DEPLOY_PYTHON") or ROOT / ".venv-deploy" / "bin" / "python")
    if not path.is_file():
        pytest.fail(
            f"{path} is missing: run make deploy-check, which makes it, or set DEPLOY_PYTHON.", pytrace=False
        )
    return _run([str(path), *arguments], ROOT, "", os.environ | OFFLINE)


def node(script: Path, text: str) -> Any:
    name = program("node", "install Node.js")
    done = _run([name, str(script)], ROOT, text, dict(os.environ))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _run(
    command: list[str], folder: Path, text: str, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        input=text,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )


def findings(*folders: Path) -> dict[str, list[str]]:
    """What the schema and our own rules say of each folder."""
    done = deploy_python("-m", "tests.deploy.terraform_findings", *map(str, folders))
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def scan(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What checkov found: `failed_checks`, `skipped_checks`, …"""
    done = deploy_python(
        *("-m", "checkov.main", "--framework", "terraform", "--skip-download", "--compact"),
        *("--output", "json", "--directory", str(folder)),
    )
    assert done.stdout, done.stderr
    results: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)["results"]
    return results


def planted(folder: Path, file: str, right: str, wrong: str, *, of: Path = TERRAFORM) -> Path:
    """A copy with one mistake in it."""
    shutil.copytree(of, folder, ignore=shutil.ignore_patterns(".*", "*.tfstate*"))
    text = (folder / file).read_text()
    assert text.count(right) == 1, f"{file} holds {right!r} {text.count(right)} times"
    (folder / file).write_text(text.replace(right, wrong))
    return folder


def readme_values() -> str:
    """The values of the README's example."""
    (found,) = re.findall(
        r"<<'END'\n(bucket_name.*?)\nEND\n", (TERRAFORM / "README.md").read_text(), re.DOTALL
    )
    return str(found)
