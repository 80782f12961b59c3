"""Logs: one shape, no secret."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest
import structlog
from aiohttp import ClientConnectionResetError

from growbin.telemetry import traces
from growbin.telemetry.logs import REDACTED, configure_logs, redact


@pytest.fixture(autouse=True)
def clean_logs() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, events = root.handlers[:], root.level, structlog.get_config()
    yield
    structlog.configure(**events)
    structlog.contextvars.clear_contextvars()
    root.handlers[:], root.level = handlers, level


def lines(captured: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in captured.readouterr().err.splitlines()]


@pytest.mark.parametrize(
    "secret",
    [
        "https://bucket.test/k?X-Amz-Credential=AKIA1&X-Amz-Signature=deadbeef",
        "amqp://growbin:hunter2@localhost:5672/",
        "Authorization: Bearer abc.def",
        "Cookie: growbin_session=abcdef",
        "sk-proj-0123456789",
    ],
)
def test_secret_in_a_text_is_cut_out(secret: str) -> None:
    """By its pattern, wherever it stands, also deep inside."""
    said = json.dumps(redact({"reason": [f"it said {secret} and more"]}))
    assert REDACTED in said
    for part in ("AKIA1", "deadbeef", "hunter2", "abc.def", "abcdef", "0123456789"):
        assert part not in said
    assert "and more" in said


def test_signature_is_redacted_without_its_address() -> None:
    """A path with its query, as servers log it."""
    assert redact("GET /p?X-Amz-Signature=abc&x=1") == f"GET /p?X-Amz-Signature={REDACTED}&x=1"


def test_secret_field_is_redacted_by_its_name() -> None:
    """Names that end in a secret's word; counts of tokens stay readable."""
    fields = {
        "token": "a",
        "cdn_reader_secret": "b",
        "Set-Cookie": "c",
        "X-Amz-Signature": "d",
        "input_tokens": 5,
    }
    assert redact(fields) == {**dict.fromkeys(fields, REDACTED), "input_tokens": 5}


def test_json_lines_carry_their_context(capsys: pytest.CaptureFixture[str]) -> None:
    """Request and job stand on every line without being passed along; a break stays in its line."""
    configure_logs("info", "json")
    with traces.request("request-1", None, None, "GET /"):
        structlog.get_logger().info("job_submitted", length=3, note="a\nb", token="secret")
        structlog.get_logger().debug("too_quiet")
    [line] = lines(capsys)
    assert line["event"] == "job_submitted"
    assert (line["request_id"], line["length"], line["token"]) == ("request-1", 3, REDACTED)
    assert line["level"] == "info"
    assert str(line["timestamp"]).endswith("Z")


def test_line_is_the_same_text_as_ever(capsys: pytest.CaptureFixture[str]) -> None:
    """Who reads lines by position or by text finds them: what is told, the event, its context, level, time;
    letters stay letters, and what JSON has no word for is told by its repr."""
    configure_logs("info", "json")
    log = structlog.get_logger()
    with structlog.contextvars.bound_contextvars(job_id="j1"):
        log.info("job_begun", attempt=1, what={"name": "페트병"}, at=PurePosixPath("/p"), none=None)
        log.error("job_failed", exc_info=ZeroDivisionError("bug"))
    begun, failed = capsys.readouterr().err.splitlines()
    time = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z"
    told = (
        '{"attempt": 1, "what": {"name": "페트병"}, "at": "PurePosixPath(\'/p\')", "none": null, '
        '"event": "job_begun", "job_id": "j1", "level": "info", "timestamp": "'
    )
    assert re.fullmatch(re.escape(told) + time + '"}', begun)
    assert re.fullmatch(
        r'\{"event": "job_failed", "job_id": "j1", "level": "error", "timestamp": "'
        + time
        + r'", "exception": "ZeroDivisionError: bug"\}',
        failed,
    )


@pytest.mark.parametrize(
    "secret", ["x-AMZ-signature=deadbeef", "bearer abc.def", "a://b:hunter2@c", "(sk-01234567)"]
)
def test_secret_is_cut_out_of_a_line_however_it_is_written(
    secret: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a field and below one, in the event itself, in a traceback."""
    configure_logs("info", "json")
    structlog.get_logger().error(secret, reason=secret, said=[{"by": secret}], exc_info=ValueError(secret))
    said = capsys.readouterr().err
    assert said.count(REDACTED) == 4
    for part in ("deadbeef", "abc.def", "hunter2", "01234567"):
        assert part not in said


def test_libraries_speak_in_the_same_shape(capsys: pytest.CaptureFixture[str]) -> None:
    """Their warnings become lines of ours, their chatter is left out, their secrets too."""
    configure_logs("debug", "json")
    logging.getLogger("aiormq").info("chatter")
    logging.getLogger("aiormq").warning("lost %s", "amqp://growbin:hunter2@localhost/")
    [line] = lines(capsys)
    assert line["logger"] == "aiormq"
    assert line["event"] == f"lost amqp://growbin:{REDACTED}@localhost/"


def test_traceback_is_told_without_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    """Where it happened, not what was in hand."""
    configure_logs("info", "json")
    photo = "in-hand-only"
    try:
        raise ValueError(len(photo))
    except ValueError:
        structlog.get_logger().exception("request_failed")
    said = capsys.readouterr().err
    assert "ValueError" in said
    assert '"in-hand-only"' not in said.replace("\\", "").replace('photo = "in-hand-only"', "")


def test_console_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """One readable line, redacted as well."""
    configure_logs("info", "console")
    structlog.get_logger().info("gateway_started", token="secret")
    said = capsys.readouterr().err
    assert "gateway_started" in said
    assert "secret" not in said


def test_connection_cut_under_the_http_client_is_no_bug_in_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What a request already told where it was made does not come again as a stranger's traceback."""
    configure_logs("info", "json")
    for error in (ClientConnectionResetError("cut"), ZeroDivisionError("bug")):
        try:
            raise error
        except (ClientConnectionResetError, ZeroDivisionError):
            logging.getLogger("asyncio").exception("Task exception was never retrieved")
    [line] = lines(capsys)
    assert "ZeroDivisionError" in str(line["exception"])
