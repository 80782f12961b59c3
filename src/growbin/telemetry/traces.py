"""The trace that a request belongs to, bound to every log line and handed on."""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar

import structlog

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_trace: ContextVar[tuple[str, str]] = ContextVar("trace")  # trace id, flags


def bind_request(request_id: str, traceparent: str | None) -> None:
    """Join the caller's W3C trace, or begin one; every log line from here on names it."""
    joins = traceparent is not None and _TRACEPARENT.fullmatch(traceparent)
    trace_id, flags = (
        (traceparent[3:35], traceparent[-2:]) if joins and traceparent else (secrets.token_hex(16), "00")
    )
    _trace.set((trace_id, flags))
    structlog.contextvars.bind_contextvars(request_id=request_id, trace_id=trace_id)


def traceparent() -> str:
    """The header value for what we send on: the same trace, a new span."""
    trace_id, flags = _trace.get((secrets.token_hex(16), "00"))
    return f"00-{trace_id}-{secrets.token_hex(8)}-{flags}"
