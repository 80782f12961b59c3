"""Logs: how they are set up.

A log line is an event `noun_verbed` with fields; `request_id`, `trace_id` and `job_id` join it by
themselves from the context. No secret leaves: fields are redacted by name, texts by pattern.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

import structlog
from aiohttp import ClientConnectionResetError
from aiohttp.http_exceptions import HttpProcessingError
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["json", "console"]

REDACTED = "[redacted]"

# `input_tokens` is a count and stays readable: only a name that ends in the singular is a secret.
_SECRET_NAME = re.compile(
    r"(^|[_-])(token|cookie|secret|signature|authorization|password|api_key|credentials?)$", re.IGNORECASE
)
_SECRET_TEXTS = (
    (
        re.compile(r"(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s\"']+", re.IGNORECASE),
        rf"\1{REDACTED}",
    ),
    (re.compile(r"(Bearer\s+)[\w.~+/=-]+", re.IGNORECASE), rf"\1{REDACTED}"),
    (re.compile(r"(growbin_session=)[^;\s\"']+"), rf"\1{REDACTED}"),
    (re.compile(r"(://[^:/@\s]*:)[^@/\s]+(?=@)"), rf"\1{REDACTED}"),
    (re.compile(r"\bsk-[\w-]{8,}"), REDACTED),
)


_NUMBERS = {int, float, bool, type(None)}
_encode = json.JSONEncoder(ensure_ascii=False, default=repr).encode


@lru_cache(maxsize=4096)
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def redact(value: object) -> object:
    """`value` without secrets, at any depth."""
    if isinstance(value, str):
        # Most texts hold none of these words: what is in them is found sooner than with five patterns.
        words = value.lower()
        if not (
            "://" in words
            or "sk-" in words
            or "bearer" in words
            or "x-amz-" in words
            or "growbin_session=" in words
        ):
            return value
        for pattern, replacement in _SECRET_TEXTS:
            value = pattern.sub(replacement, value)
        return value
    if isinstance(value, dict):
        return {name: REDACTED if _is_secret(str(name)) else redact(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return value


def _is_not_bad_http(record: logging.LogRecord) -> bool:
    """Malformed requests are answered with 400; a line for each would let strangers fill the log."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def _is_not_cut_connection(record: logging.LogRecord) -> bool:
    """The HTTP client leaves a writer's task behind when a connection is cut under it; the request itself
    raises its own error, which is handled where it was made."""
    return not (record.exc_info and isinstance(record.exc_info[1], ClientConnectionResetError))


def _redact_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {
        name: REDACTED if _is_secret(name) else value if type(value) in _NUMBERS else redact(value)
        for name, value in event.items()
    }


def _complete(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """With level, time and traceback, and without secrets. One step instead of four: between two lines all
    else runs, so that a line costs what it takes to fetch its code, ten times of what its work takes."""
    event["level"] = method
    event["timestamp"] = datetime.now(UTC).isoformat().removesuffix("+00:00") + "Z"
    if "exc_info" in event:
        # As text, without local variables: those hold tokens and photos.
        event = structlog.processors.format_exc_info(logger, method, event)
    return _redact_event(logger, method, event)


def _as_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return _encode(event)


def configure_logs(level: str, log_format: LogFormat) -> None:
    """Write our events and the libraries' to stderr, one line each, in one shape."""
    shared: list[Processor] = [structlog.contextvars.merge_contextvars, _complete]
    renderer: Processor = (
        _as_json
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    )
    writer = structlog.WriteLogger(sys.stderr)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda: writer,
        cache_logger_on_first_use=True,
    )
    libraries = logging.StreamHandler(sys.stderr)
    libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _redact_event, renderer],
        )
    )
    # One line of ours (`broker_connection_failed`, `broker_connection_lost`) says what these say in forty.
    for name in ("aiormq.connection", "aio_pika"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("aiohttp.server").addFilter(_is_not_bad_http)
    logging.getLogger("asyncio").addFilter(_is_not_cut_connection)
    # Libraries tell their inner life at info; only what needs attention is kept.
    logging.basicConfig(
        handlers=[libraries], level=max(logging.WARNING, getattr(logging, level.upper())), force=True
    )
