"""How commands find the stack that runs here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from growbin.config import find_stack_file, load_settings, server_address, use_stack_file

TOLD = """PORT=9000
REDIS_URL='redis://:s3cret@127.0.0.1:1234'
S3_BUCKET_NAME=growbin-photos
AWS_ACCESS_KEY_ID=stacks-own
OPENAI_MODEL='growbin embedded'
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder below that in which `growbin stack` was started; what the test changes is put back."""
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "stack.env").write_text(TOLD)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for line in TOLD.splitlines():
        monkeypatch.setenv(line.partition("=")[0], "")
    monkeypatch.setenv("GROWBIN_SERVER", "")
    return tmp_path


def test_commands_use_the_stack_that_runs_here(folder: Path) -> None:
    """Also from a folder below, and whatever the shell says of AWS and the model."""
    os.environ.update({"AWS_PROFILE": "mine", "OPENAI_MODEL": "other"})
    assert use_stack_file() == folder / "var" / "stack.env"
    settings = load_settings()
    assert settings.redis_url == "redis://:s3cret@127.0.0.1:1234"
    assert settings.openai_model == "growbin embedded"
    assert "AWS_PROFILE" not in os.environ


@pytest.mark.parametrize(
    ("value", "is_used"), [("redis://elsewhere:6379", False), ("redis://:s3cret@127.0.0.1:1234", True)]
)
def test_other_parts_in_the_environment_win(folder: Path, value: str, is_used: bool) -> None:
    """Who names a server means it: a redrive must not go elsewhere."""
    os.environ["REDIS_URL"] = value
    assert (use_stack_file() is not None) == is_used
    assert load_settings().redis_url == value


@pytest.mark.usefixtures("folder")
def test_client_asks_the_stack_that_runs_here() -> None:
    """Unless GROWBIN_SERVER names another gateway."""
    assert server_address() == "http://127.0.0.1:9000"
    os.environ["GROWBIN_SERVER"] = "https://growbin.example"
    assert server_address() == "https://growbin.example"


def test_without_a_stack_nothing_is_taken(folder: Path) -> None:
    """The client then asks the default port."""
    (folder / "var" / "stack.env").unlink()
    assert use_stack_file() is None
    assert server_address() == "http://127.0.0.1:8080"


def test_file_of_another_user_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may leave one in a folder that all share."""
    own_id = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: own_id + 1)
    assert find_stack_file() is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--version"], "growbin 0."), (["stack", "--port", "99999"], "'99999' is no port: 1 to 65535")],
)
def test_command_line_answers_in_a_sentence(arguments: list[str], words: str) -> None:
    """No traceback, whatever is asked."""
    ended = subprocess.run([sys.executable, "-m", "growbin", *arguments], capture_output=True, text=True)
    assert words in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
