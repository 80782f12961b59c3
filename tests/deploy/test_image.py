"""The Dockerfile: linted, hash-checked, lean; and what it builds runs from a tree that it cannot write."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.deploy.checkers import run_checker
from tests.deploy.image import DOCKERFILE, Image, Stage, confined, stages
from tests.deploy.manifests import ROOT
from tests.deploy.policy import EXACT_VERSION
from tests.deploy.scanner import scan

SHIPPED = ("run", "growbin", "growbin-model")


def weak_installs(build: list[Stage]) -> list[str]:
    """Packages that would be installed without a hash, or compiled. Our own wheel has been built here."""
    commands = [command for stage in build for words in stage.of_kind("RUN") for command in words.split("&&")]
    return [
        command
        for command in commands
        if " install " in command and "/wheels/" not in command
        if "--require-hashes" not in command or "--only-binary :all:" not in command
    ]


def test_dockerfile_passes_the_linter_and_the_scanner() -> None:
    """Nothing but what the Dockerfile itself gives a reason for."""
    run = run_checker("hadolint", str(DOCKERFILE))
    assert (run.stdout, run.returncode) == ("", 0)
    assert scan(DOCKERFILE, "dockerfile", {}) == []


def test_packages_are_installed_by_hash_only() -> None:
    """No stage installs a package whose hash is not locked; one that does would be found."""
    assert weak_installs([stages()["build"], stages()["build-model"]]) == []
    planted = Stage("", [("RUN", "python -m pip install --only-binary :all: aiohttp")])
    assert weak_installs([planted]) != []


def test_shipped_stages_hold_no_build_tools() -> None:
    """Besides certificates nothing is installed where growbin runs, pip is gone, and nobody is root."""
    commands = [words for name in SHIPPED for words in stages()[name].of_kind("RUN")]
    installs = re.findall(r"install (?:--\S+ )*([^&]+)", " && ".join(commands).replace("uninstall", "remove"))
    assert [words.strip() for words in installs] == ["ca-certificates"]
    assert any("pip uninstall --yes pip" in words for words in commands)
    assert stages()["run"].of_kind("USER") == ["10001:10001"]


def test_base_images_have_exact_versions() -> None:
    """Each stage begins with another stage or with one version of Python."""
    bases = {stage.base for stage in stages().values()} - stages().keys()
    assert len(bases) == 1
    name, _, tag = bases.pop().partition(":")
    assert (name, bool(EXACT_VERSION.match(tag))) == ("python", True)


def test_build_context_holds_what_is_copied() -> None:
    """.dockerignore lets through exactly the files that the Dockerfile copies."""
    let_through = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    copied = {
        name
        for stage in stages().values()
        for words in stage.of_kind("COPY")
        if not words.startswith("--from")
        for name in words.split()[:-1]
    }
    assert let_through == copied


def test_model_image_adds_to_the_same_packages() -> None:
    """Its lock has every package of the other in the same version, so nothing is replaced."""

    def locked(name: str) -> set[str]:
        return set(re.findall(r"^\S+==\S+", (ROOT / "requirements" / name).read_text(), re.MULTILINE))

    assert locked("run.txt") < locked("model.txt")


@pytest.mark.parametrize("command", ["gateway", "consumer", "doctor", "dead-letters", "analyze"])
def test_image_has_the_command(image: Image, command: str, tmp_path: Path) -> None:
    """Each command that the image is for starts, from read-only files, with nothing but its environment."""
    run = subprocess.run(
        image.command(command, "--help"),
        env=image.environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert f"growbin {command}" in run.stdout


def test_image_cannot_be_written_by_what_runs_in_it(image: Image, tmp_path: Path) -> None:
    """Not even bytecode; the locked packages are all there is, and pip is not among them."""
    attempt = "import importlib.util as i, sys; print(i.find_spec('pip')); open(sys.prefix + '/new', 'w')"
    program = [*confined(), str(image.root / "bin" / "python"), "-c", attempt]
    run = subprocess.run(program, env=image.environment(), cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout == "None\n"
    assert "PermissionError" in run.stderr
