"""The browser is found under each of its usual names, by make as by the tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import ADVICE, NAMES, browser_path

ROOT = Path(__file__).parents[2]


def put(program: Path) -> Path:
    """Something that may be run."""
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("name", ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"])
def test_browser_of_any_name_is_enough_for_make(name: str, tmp_path: Path) -> None:
    """One browser on the PATH, whatever it is called, and make neither installs another nor complains."""
    put(tmp_path / name)
    for needed in ("make", "id"):
        program = shutil.which(needed)
        assert program is not None, needed
        (tmp_path / needed).symlink_to(program)
    run = subprocess.run(
        [tmp_path / "make", "--silent", "chromium", f"PYTHON={sys.executable}"],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_browser_of_macos_is_found_where_it_lies(tmp_path: Path) -> None:
    """It is not on the PATH there, but has one place."""
    assert {Path(name).name for name in NAMES if name.startswith("/Applications/")} == {
        *("Chromium", "Google Chrome")
    }
    program = put(tmp_path / "Google Chrome.app" / "Contents" / "MacOS" / "Google Chrome")
    assert browser_path([str(program)]) == str(program)


def test_missing_browser_is_told_in_one_sentence() -> None:
    """What to install, and from where."""
    with pytest.raises(LookupError, match="install the package chromium") as told:
        browser_path(["no-such-browser"])
    assert str(told.value) == ADVICE
    assert ADVICE.count(". ") == 0
