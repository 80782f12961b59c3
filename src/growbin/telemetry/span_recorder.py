"""Spans to an OpenTelemetry collector. Imported only where one is wanted: it is an extra."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from growbin.telemetry.traces import Attribute, Kind, Place

KINDS = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}

FINE, FAILED = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
SCOPE = InstrumentationScope("growbin")


class _Recorded:
    def __init__(self, place: Place) -> None:
        self.place = place
        self.attributes: dict[str, Attribute] = {}

    def set(self, name: str, value: Attribute | None) -> None:
        if value is not None:
            self.attributes[name] = value


class SpanRecorder:
    """Implements traces.Recorder. A span is made when it is over. The SDK's own begins at its beginning and
    costs three times as much, for it may be written by several threads and read before its end."""

    def __init__(self, exporter: SpanExporter, service: str) -> None:
        # Nothing of the environment but what stands here: it may hold anything.
        self._resource = Resource({"service.name": service, "service.namespace": "growbin"})
        self._processor = BatchSpanProcessor(exporter)

    @classmethod
    def to_collector(cls, endpoint: str, service: str) -> SpanRecorder:
        """`endpoint` is OTLP's over HTTP, without a path."""
        return cls(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=5), service)

    @contextmanager
    def recorded(
        self,
        name: str,
        kind: Kind,
        *,
        parent: Place | None = None,
        own: Place | None = None,
        link: Place | None = None,
    ) -> Iterator[_Recorded]:
        span = _Recorded(own or _below(parent))
        began, status = time.time_ns(), FINE
        try:
            yield span
        except Exception as error:
            # Its words may quote anybody; its kind quotes nobody.
            span.set("error.type", _kind_of(error))
            status = FAILED
            raise
        finally:
            self._processor.on_end(
                ReadableSpan(
                    name,
                    _context(span.place),
                    _context(parent) if parent else None,
                    self._resource,
                    span.attributes,
                    kind=KINDS[kind],
                    links=[Link(_context(link))] if link else (),
                    status=status,
                    start_time=began,
                    end_time=time.time_ns(),
                    instrumentation_scope=SCOPE,
                )
            )

    def close(self) -> None:
        """Send what is left."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]  # the SDK gives it no types


def _below(parent: Place | None) -> Place:
    """A new place; what a caller does not want to be recorded is not."""
    span_id = secrets.token_hex(8)
    if parent is None:
        return Place(secrets.token_hex(16), span_id, is_sampled=True)
    return Place(parent.trace_id, span_id, parent.is_sampled)


def _context(place: Place) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if place.is_sampled else TraceFlags.DEFAULT)
    return SpanContext(int(place.trace_id, 16), int(place.span_id, 16), is_remote=True, trace_flags=flags)


def _kind_of(error: Exception) -> str:
    is_ours = type(error).__module__ == "growbin.errors"
    return str(getattr(error, "code", "")) or type(error).__name__ if is_ours else type(error).__name__
