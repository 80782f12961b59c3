"""An OpenTelemetry collector that keeps what it is sent: OTLP over HTTP, as its protocol says."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from tests.loopback import served


@dataclass(frozen=True)
class Span:
    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    began_ns: int
    ended_ns: int
    attributes: dict[str, object]


@dataclass
class Collector:
    url: str = ""
    spans: list[Span] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator[Collector]:
        collector = cls()
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/traces", collector._take)
        async with served(app) as url:
            collector.url = url
            yield collector

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.bodies.append(body)
        self.spans += _spans(ExportTraceServiceRequest.FromString(body))
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )

    def tree(self, trace_id: str) -> str:
        """The trace as a person reads it: who, what, how long, and what is worth telling of it."""
        spans = sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda it: it.began_ns)
        known = {span.span_id for span in spans}

        def lines(parent_id: str, depth: int) -> Iterator[str]:
            for span in spans:
                if span.parent_id == parent_id:
                    yield _line(span, depth)
                    yield from lines(span.span_id, depth + 1)

        for orphan in (span for span in spans if span.parent_id and span.parent_id not in known):
            raise AssertionError(f"{orphan.name} hangs in the air")
        return "\n".join(lines("", 0))


def _line(span: Span, depth: int) -> str:
    told = [
        f"{name}={span.attributes[name]}"
        for name in ("error.type", "growbin.run", "gen_ai.response.model", "gen_ai.usage.output_tokens")
        if name in span.attributes
    ]
    milliseconds = (span.ended_ns - span.began_ns) / 1e6
    what = f"{'  ' * depth}{span.name}"
    who = span.service.removeprefix("growbin-")
    return f"{who:<9} {what:<62} {milliseconds:6.0f} ms  {' '.join(told)}".rstrip()


def _spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in request.resource_spans:
        service = str(_attributes(resource.resource.attributes)["service.name"])
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    service,
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    _attributes(span.attributes),
                )


def _attributes(told: object) -> dict[str, object]:
    found = {}
    for one in told:  # type: ignore[attr-defined]  # protobuf's repeated field
        assert isinstance(one, KeyValue)
        kind = one.value.WhichOneof("value")
        found[one.key] = getattr(one.value, kind) if kind else None
    return found
