"""The trace that work belongs to: named by every log line, handed on with every message, recorded if wanted.

A job's trace has the job's id: so every start, retry and redrive of it, in whichever process, is in one, and
who has the one can look for the other. Its root is what accepted it; calls that name the job join it, unless
their caller brought one along. To record is the extra `growbin[tracing]`; without it a span costs nothing.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from uuid import UUID

import structlog

Attribute = str | int | float | bool
Kind = Literal["internal", "server", "client", "producer", "consumer"]

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Place:
    """A span, by its ids."""

    trace_id: str
    span_id: str
    is_sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.is_sampled else '00'}"


class Span(Protocol):
    @property
    def place(self) -> Place: ...

    def set(self, name: str, value: Attribute | None) -> None:
        """An attribute; None says nothing. No secret, no photo, nobody's words."""


class Recorder(Protocol):
    """What keeps spans."""

    def recorded(
        self,
        name: str,
        kind: Kind,
        *,
        parent: Place | None = None,
        own: Place | None = None,
        link: Place | None = None,
    ) -> AbstractContextManager[Span]:
        """A span while the block runs; an error that leaves it is told by its kind alone. `own`: its ids,
        where they are given; `link`: a span of another trace that led to it."""


class _Unrecorded:
    """Where nobody records: only its ids are true."""

    __slots__ = ("place",)

    def __init__(self, place: Place) -> None:
        self.place = place

    def set(self, name: str, value: Attribute | None) -> None:
        pass

    def __enter__(self) -> Span:
        return self

    def __exit__(self, *_error: object) -> None:
        pass


_here: ContextVar[Place | None] = ContextVar("place", default=None)
_recorder: Recorder | None = None
_NOTHING: AbstractContextManager[Span] = _Unrecorded(Place("0" * 32, "0" * 16, False))


def record_with(recorder: Recorder | None) -> None:
    """From here on."""
    global _recorder  # noqa: PLW0603  # a process has one, as it has one log
    _recorder = recorder


def trace_id() -> str:
    """The present one's; empty outside of any."""
    place = _here.get()
    return place.trace_id if place else ""


def traceparent() -> str:
    """The header for what we send on."""
    return str(_here.get() or Place(secrets.token_hex(16), secrets.token_hex(8), is_sampled=False))


def root_of(job_id: UUID) -> Place:
    """What all spans of a job descend from. Known to everybody, for it is made of the id."""
    return Place(job_id.hex, job_id.hex[:16], is_sampled=_recorder is not None)


def parsed(header: object) -> Place | None:
    """A W3C traceparent; None for anything else."""
    if not isinstance(header, str) or not _TRACEPARENT.fullmatch(header):
        return None
    return Place(header[3:35], header[36:52], is_sampled=bool(int(header[-2:], 16) & 1))


# --- spans --------------------------------------------------------------------------------------


def span(name: str, kind: Kind = "internal") -> AbstractContextManager[Span]:
    """A step of what happens here. Nothing where nothing is recorded, or that belongs to no trace."""
    parent = _here.get()
    if _recorder is None or parent is None:
        return _NOTHING
    return _entered(_recorder.recorded(name, kind, parent=parent))


def request(
    request_id: str, header: str | None, job_id: UUID | None, name: str
) -> AbstractContextManager[Span]:
    """A call: in its caller's trace, else in that of the job which it names, else in one of its own."""
    parent = parsed(header) or (root_of(job_id) if job_id else None)
    return _begun(name, "server", parent, request_id=request_id)


@contextmanager
def job(job_id: UUID) -> Iterator[Span]:
    """The root of a job's trace, around what accepts it."""
    caller = _here.get()
    link = caller if caller and caller.trace_id != job_id.hex else None
    with _begun("job", "internal", None, own=root_of(job_id), link=link) as it:
        yield it


@contextmanager
def about(job_id: UUID, name: str, kind: Kind, header: object = None) -> Iterator[Span]:
    """Something is done about a job: below `header`, or what happens here, if that is in the job's trace;
    else right below its root."""
    came_from = parsed(header) or _here.get()
    is_of_job = came_from is not None and came_from.trace_id == job_id.hex
    parent, link = (came_from, None) if is_of_job else (root_of(job_id), came_from)
    with _begun(name, kind, parent, link=link) as it:
        yield it


def _begun(
    name: str,
    kind: Kind,
    parent: Place | None,
    *,
    own: Place | None = None,
    link: Place | None = None,
    **told: str,
) -> AbstractContextManager[Span]:
    """A span whose trace each log line names meanwhile, recorded or not, with what is `told` besides."""
    if _recorder is not None:
        return _Told(_recorder.recorded(name, kind, parent=parent, own=own, link=link), told)
    trace_id = (own or parent).trace_id if own or parent else secrets.token_hex(16)  # type: ignore[union-attr]  # the condition says so
    is_sampled = parent.is_sampled if parent else False
    return _Told(_Unrecorded(own or Place(trace_id, secrets.token_hex(8), is_sampled)), told)


class _Told:
    """No generator, which takes three times the memory: each open stream holds one of these."""

    __slots__ = ("_span", "_told", "_undo")

    def __init__(self, span: AbstractContextManager[Span], told: dict[str, str]) -> None:
        self._span = span
        self._told = told
        self._undo: tuple[Token[Any], ...] = ()

    def __enter__(self) -> Span:
        it = self._span.__enter__()
        bound = structlog.contextvars.bind_contextvars(trace_id=it.place.trace_id, **self._told)
        self._undo = (_here.set(it.place), *bound.values())
        self._told.clear()
        return it

    def __exit__(self, *error: Any) -> bool | None:
        for token in self._undo:
            token.var.reset(token)
        return self._span.__exit__(*error)


@contextmanager
def _entered(begun: AbstractContextManager[Span]) -> Iterator[Span]:
    with begun as it:
        token = _here.set(it.place)
        try:
            yield it
        finally:
            _here.reset(token)
