"""Spans to an OpenTelemetry collector. Imported only where one is wanted: it is an extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan

from growbin.telemetry.traces import Attribute, Kind, Place

KINDS = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}


class _GivenIds(RandomIdGenerator):
    """Random, unless the next span's are given."""

    given: Place | None = None

    def generate_trace_id(self) -> int:
        return int(self.given.trace_id, 16) if self.given else super().generate_trace_id()

    def generate_span_id(self) -> int:
        return int(self.given.span_id, 16) if self.given else super().generate_span_id()


class _Recorded:
    def __init__(self, span: OtelSpan) -> None:
        self._span = span
        context = span.get_span_context()
        self.place = Place(
            f"{context.trace_id:032x}", f"{context.span_id:016x}", is_sampled=context.trace_flags.sampled
        )

    def set(self, name: str, value: Attribute | None) -> None:
        if value is not None:
            self._span.set_attribute(name, value)


class SpanRecorder:
    """Implements traces.Recorder."""

    def __init__(self, exporter: SpanExporter, service: str) -> None:
        self._ids = _GivenIds()
        # Nothing of the environment but what stands here: it may hold anything.
        resource = Resource({"service.name": service, "service.namespace": "growbin"})
        self._provider = TracerProvider(resource=resource, id_generator=self._ids)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("growbin")

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
        self._ids.given = own
        try:
            span = self._tracer.start_span(
                name,
                context=set_span_in_context(NonRecordingSpan(_context(parent))) if parent else None,
                kind=KINDS[kind],
                links=[Link(_context(link))] if link else None,
            )
        finally:
            self._ids.given = None
        try:
            yield _Recorded(span)
        except Exception as error:
            # Its words may quote anybody; its kind quotes nobody.
            span.set_attribute("error.type", _kind_of(error))
            span.set_status(Status(StatusCode.ERROR))
            raise
        finally:
            span.end()

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def _context(place: Place) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if place.is_sampled else TraceFlags.DEFAULT)
    return SpanContext(int(place.trace_id, 16), int(place.span_id, 16), is_remote=True, trace_flags=flags)


def _kind_of(error: Exception) -> str:
    is_ours = type(error).__module__ == "growbin.errors"
    return str(getattr(error, "code", "")) or type(error).__name__ if is_ours else type(error).__name__
