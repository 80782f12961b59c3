"""Server-sent events as bytes. Pure."""

from __future__ import annotations

import re

from growbin.job import LogEntry

HEARTBEAT = b":\n\n"

# The three line ends of the SSE format; no other character ends a line there.
_LINE_END = re.compile(r"\r\n|\r|\n")


def encode_event(entry: LogEntry) -> bytes:
    """One event block. Line breaks in the data become further `data:` lines and survive. What has no id (a
    notice) leaves the client's last id as it is."""
    data = _LINE_END.sub("\ndata: ", entry.data)
    event_id = f"id: {entry.id}\n" if entry.id else ""
    return f"{event_id}event: {entry.event}\ndata: {data}\n\n".encode()


def encode_retry(milliseconds: int) -> bytes:
    """How long the client waits before it reconnects."""
    return f"retry: {milliseconds}\n\n".encode()
