"""growbin as anybody starts it, put through the rules as anybody's stream is: by one command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.system import free_port
from tests.load_profile import ONE_ADDRESS
from tests.processes import Stack, command

pytestmark = pytest.mark.own_service

HEARTBEAT_SECONDS = 1


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, str]]:
    """All of it, with one short wait, and who is killed is started again; beside it its address."""
    port = free_port()
    running = Stack(
        tmp_path_factory.mktemp("reference"),
        command("stack", "--port", str(port)),
        STREAM_HEARTBEAT_SECONDS=str(HEARTBEAT_SECONDS),
        **ONE_ADDRESS,
    )
    try:
        running.wait_until_ready()
        yield running, f"http://127.0.0.1:{port}"
    finally:
        running.stop_in_a_hurry()


def judged(*arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "tests.stream_conformance", *arguments]
    return subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=110)


def test_reference_keeps_every_rule(stack: tuple[Stack, str], tmp_path: Path) -> None:
    """None is broken and none is left untried, not even a gateway's death in mid-job."""
    running, url = stack
    own = Path(__file__).parent / "growbin.toml"
    description = tmp_path / "growbin.toml"
    photo = (own.parent / "../../examples/coffee-cup.jpg").resolve()
    text = own.read_text().replace("../../examples/coffee-cup.jpg", str(photo))
    description.write_text(f"{text}heartbeat_seconds = {HEARTBEAT_SECONDS}\n")
    kill = f"kill -9 {running.pids['gateway']}"
    outcome = judged(url, "--description", str(description), "--restart", kill, "--json")
    print(outcome.stdout, outcome.stderr)
    assert outcome.returncode == 0
    assert {verdict["outcome"] for verdict in json.loads(outcome.stdout)} == {"kept"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["http://127.0.0.1:1"], "cannot be asked"),
        (["http://127.0.0.1:1", "--rule", "no such"], "no such rule: no such; there are: kept from caches"),
        (["http://127.0.0.1:1", "--description", "no.toml"], "no.toml"),
    ],
    ids=["nobody there", "unknown rule", "no description"],
)
def test_what_cannot_be_judged_is_no_verdict(arguments: list[str], told: str) -> None:
    """Exit status 2 and one sentence, never a table of broken rules."""
    outcome = judged(*arguments)
    assert outcome.returncode == 2
    assert told in outcome.stderr
    assert outcome.stdout == ""


def test_description_that_does_not_fit_is_told(stack: tuple[Stack, str], tmp_path: Path) -> None:
    """What a call was answered, or which word nobody knows, instead of a verdict."""
    _, url = stack
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(
        'name = "wrong"\n[[create]]\nrequest = "POST /nowhere"\n[stream]\npath = "/{id}"\nends = ["done"]\n'
    )
    outcome = judged(url, "--description", str(wrong))
    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert "POST" in outcome.stderr
    assert "404" in outcome.stderr
    wrong.write_text(wrong.read_text() + 'endings = ["done"]\n')
    outcome = judged(url, "--description", str(wrong))
    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert "stream.endings: Extra inputs are not permitted" in outcome.stderr
