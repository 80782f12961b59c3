"""A start that cannot succeed ends at once, with one sentence that says what to change."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.e2e.system import System
from tests.load_profile import ONE_ADDRESS
from tests.processes import INHERITED, command, environment

# Where the parts are, and the keys to them.
PLACES = {
    *("PORT", "PROBE_PORT", "QUEUE_NAME", "RABBITMQ_URL", "RABBITMQ_MANAGEMENT_URL", "REDIS_URL"),
    *("S3_ENDPOINT_URL", "S3_BUCKET_NAME", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    *("CDN_BASE_URL", "CDN_READER_SECRET", "OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL"),
}


def failed_start(name: str, settings: dict[str, str]) -> str:
    """What a process that must not start says on stderr."""
    ended = subprocess.run(
        command(name), env=environment(settings), capture_output=True, text=True, timeout=60
    )
    assert ended.returncode not in (0, None)
    assert "Traceback" not in ended.stderr + ended.stdout
    return ended.stderr


@pytest.mark.parametrize("name", ["gateway", "consumer"])
def test_bad_setting_is_named(name: str) -> None:
    """One line names the variable, its value and what would be right."""
    said = failed_start(name, {"PORT": "abc"}).strip()
    assert len(said.splitlines()) == 1
    assert "PORT" in said
    assert "abc" in said
    assert "should be a valid integer" in said


@pytest.mark.parametrize("name", ["gateway", "consumer", "stack"])
def test_mistake_in_the_overlay_is_named_with_file_and_line(name: str, tmp_path: Path) -> None:
    """Before any part is tried."""
    overlay = tmp_path / "overlay.json"
    overlay.write_text(
        '{"place": {"ko": "보기시", "en": "Example City"},\n "colour": "green"}', encoding="utf-8"
    )
    said = failed_start(name, {"RULES_DIR": str(tmp_path)})
    assert f"{overlay}:2: colour: there is no such field" in said


def test_gateway_imports_nothing_of_a_consumers_work() -> None:
    """Neither model's client nor pictures, nor what S3's own client would bring along: all that would be CPU
    and memory of each gateway, for nothing."""
    heavy = {"openai", "PIL", "numpy", "onnxruntime", "s3transfer", "growbin.consumer", "growbin.photo"}
    code = f"import sys, growbin.wiring.gateway; print({heavy} & sys.modules.keys())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "set()"


@pytest.mark.parametrize("name", ["gateway", "consumer"])
def test_missing_bucket_is_named(parts: dict[str, str], name: str) -> None:
    """No job could ever succeed: that is said now, and not to the first person with a photo."""
    said = failed_start(name, parts | {"S3_BUCKET_NAME": "nope-of-ours"})
    assert "there is no bucket nope-of-ours" in said
    assert "S3_BUCKET_NAME" in said


def test_each_bad_setting_has_its_line() -> None:
    """Two mistakes are told together, so that they can be mended together."""
    said = failed_start("gateway", {"CDN_CACHE_TTL": "-1", "REDIS_URL": "http://redis"})
    assert "CDN_CACHE_TTL" in said
    assert "REDIS_URL" in said


def test_secrets_are_not_repeated() -> None:
    """A bad value is shown only where it is no secret."""
    said = failed_start("gateway", {"PORT": "abc", "OPENAI_API_KEY": "sk-very-secret"})
    assert "sk-very-secret" not in said


def test_consumer_without_a_model_says_what_to_set() -> None:
    """Neither key nor server: one line names both ways out."""
    said = failed_start("consumer", {"PROBE_PORT": "0"}).strip()
    assert len(said.splitlines()) == 1
    assert "set OPENAI_API_KEY, or OPENAI_BASE_URL" in said


def test_shared_system_has_the_default_limits(system: System) -> None:
    """Gateway and consumer are told where their parts are, and that all tests come from one address; beyond
    that the end-to-end tests see what anybody gets."""
    told: dict[str, set[str]] = {}
    for process in psutil.Process().children():
        variables = {name: value for name, value in process.environ().items() if value}  # empty is unset
        if variables.get("QUEUE_NAME") == system.settings["QUEUE_NAME"]:
            told[process.cmdline()[-1]] = variables.keys() - set(INHERITED) - PLACES - set(ONE_ADDRESS)
    assert told == {"gateway": set(), "consumer": set()}


@pytest.mark.parametrize(
    ("model", "effort", "accepted"),
    [("gpt-6-luna", "minimal", "none, low, medium, high, xhigh, max"), ("gpt-4o", "high", "does not reason")],
)
def test_effort_that_the_model_refuses_is_named(model: str, effort: str, accepted: str) -> None:
    """A consumer that every call would be refused to does not start; one line says what would be right."""
    chosen = {"OPENAI_API_KEY": "sk-x", "OPENAI_MODEL": model, "OPENAI_REASONING_EFFORT": effort}
    said = failed_start("consumer", {"PROBE_PORT": "0", **chosen}).strip()
    assert len(said.splitlines()) == 1
    assert model in said
    assert "OPENAI_REASONING_EFFORT" in said
    assert accepted in said


def test_effort_that_is_none_is_a_bad_setting() -> None:
    """A word that no model knows is named, with those that there are."""
    said = failed_start("consumer", {"OPENAI_API_KEY": "sk-x", "OPENAI_REASONING_EFFORT": "lots"}).strip()
    assert len(said.splitlines()) == 1
    assert "OPENAI_REASONING_EFFORT" in said
    assert "xhigh" in said


@pytest.mark.parametrize(
    ("name", "variable"), [("gateway", "PORT"), ("gateway", "PROBE_PORT"), ("consumer", "PROBE_PORT")]
)
def test_port_in_use_is_named(system: System, name: str, variable: str) -> None:
    """A process whose port is taken says which, and what to do about it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = failed_start(name, {**system.settings, "PORT": "0", "PROBE_PORT": "0", variable: port})
    last = said.strip().splitlines()[-1]
    assert port in last
    assert f"Stop what uses it, or set {variable}." in last
