"""Traces: which one work belongs to, what is recorded of it, and what is not."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from growbin.errors import JobFailed
from growbin.telemetry import traces
from growbin.telemetry.span_recorder import SpanRecorder
from tests.unit.gateway_node import Client, Node, problem

CALLER = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


class Recorded:
    """What a recorder has kept."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.recorder = SpanRecorder(self._exporter, "growbin-test")

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        self.recorder._processor.force_flush()
        return {span.name: span for span in self._exporter.get_finished_spans()}


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    kept = Recorded()
    traces.record_with(kept.recorder)
    yield kept
    traces.record_with(None)
    kept.recorder.close()


def trace_id_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def is_child(child: ReadableSpan, parent: ReadableSpan) -> bool:
    assert parent.context is not None
    return child.parent is not None and child.parent.span_id == parent.context.span_id


def named_in_logs() -> object:
    return structlog.contextvars.get_contextvars().get("trace_id")


# --- which trace --------------------------------------------------------------------------------


def test_call_joins_its_callers_trace_else_its_jobs_else_begins_one() -> None:
    """Whether recorded or not; nonsense is nobody's trace."""
    job_id = uuid4()
    with traces.request("r", CALLER, job_id, "GET /"):
        assert traces.traceparent()[:36] == CALLER[:36]
        assert traces.traceparent()[36:52] != CALLER[36:52]
        assert traces.traceparent()[-2:] == "01"
        assert named_in_logs() == "ab" * 16
    for odd in (None, "", "00-" + "0" * 32 + "-" + "cd" * 8 + "-01", CALLER + "x"):
        with traces.request("r", odd, job_id, "GET /"):
            assert named_in_logs() == traces.trace_id() == job_id.hex
        with traces.request("r", odd, None, "GET /"):
            assert traces.trace_id() not in ("", "ab" * 16, job_id.hex)
    assert (traces.trace_id(), named_in_logs()) == ("", None)


def test_what_is_done_about_a_job_is_in_its_trace_wherever_it_came_from() -> None:
    """Below the message that brought it, if that is of the job's trace; else below its root."""
    job_id = uuid4()
    sent = f"00-{job_id.hex}-{'12' * 8}-00"
    for header in (sent, CALLER, None, 7):
        with traces.about(job_id, "work", "consumer", header):
            assert named_in_logs() == traces.trace_id() == job_id.hex
            assert traces.parsed(traces.traceparent()) is not None


async def test_log_lines_of_a_task_that_outlives_its_delivery_name_its_trace() -> None:
    """A job goes on when its channel is lost."""
    job_id = uuid4()
    is_over = asyncio.Event()

    async def work() -> object:
        await is_over.wait()
        return named_in_logs()

    with traces.about(job_id, "work", "consumer"):
        task = asyncio.create_task(work())
    is_over.set()
    assert await task == job_id.hex


# --- what is recorded ---------------------------------------------------------------------------


def test_everything_about_a_job_hangs_below_one_root(recorded: Recorded) -> None:
    """The call that made it, its delivery, the retry's, and a redrive from another process."""
    job_id = uuid4()
    with (
        traces.request("r", None, job_id, "POST /upload-complete"),
        traces.job(job_id),
        traces.span("send", "producer"),
    ):
        first = traces.traceparent()
    with traces.about(job_id, "first start", "consumer", first), traces.span("send again", "producer"):
        second = traces.traceparent()
    with traces.about(job_id, "second start", "consumer", second):
        pass
    with traces.about(job_id, "redrive", "internal"):
        pass
    spans = recorded.spans
    assert {trace_id_of(span) for span in spans.values()} == {job_id.hex}
    assert spans["job"].parent is None
    for name in ("POST /upload-complete", "send", "redrive"):
        assert is_child(spans[name], spans["job"]), name
    assert is_child(spans["first start"], spans["send"])
    assert is_child(spans["send again"], spans["first start"])
    assert is_child(spans["second start"], spans["send again"])


def test_caller_with_a_trace_of_its_own_is_linked_to_the_jobs(recorded: Recorded) -> None:
    """Its call stays in its trace, and the job's root names it."""
    job_id = uuid4()
    with traces.request("r", CALLER, job_id, "POST /upload-complete"), traces.job(job_id):
        pass
    spans = recorded.spans
    assert trace_id_of(spans["POST /upload-complete"]) == "ab" * 16
    assert trace_id_of(spans["job"]) == job_id.hex
    (link,) = spans["job"].links
    assert f"{link.context.trace_id:032x}" == "ab" * 16


def test_caller_who_wants_no_record_has_none(recorded: Recorded) -> None:
    """Of its call; the job's trace is ours."""
    job_id = uuid4()
    with traces.request("r", CALLER[:-2] + "00", job_id, "POST /upload-complete"), traces.job(job_id):
        pass
    assert set(recorded.spans) == {"job"}


def test_error_is_told_by_its_kind_and_its_words_are_not(recorded: Recorded) -> None:
    """They may quote a key or a person."""
    for name, error in (("ours", JobFailed("model_refused", "sk-secret")), ("bug", ValueError("sk-secret"))):
        with pytest.raises(type(error), match="sk-secret"), traces.about(uuid4(), name, "internal"):
            raise error
    spans = recorded.spans
    assert (spans["ours"].attributes or {})["error.type"] == "model_refused"
    assert (spans["bug"].attributes or {})["error.type"] == "ValueError"
    assert not any(span.status.is_ok for span in spans.values())
    assert "sk-secret" not in "".join(span.to_json() for span in spans.values())


def test_step_that_belongs_to_no_trace_is_not_recorded(recorded: Recorded) -> None:
    """A probe, a look of the eraser: each would be a trace of its own."""
    with traces.span("redis read", "client") as span:
        span.set("a", 1)
    assert recorded.spans == {}


def test_unrecorded_step_is_nothing_at_all() -> None:
    """Without the extra no object is made for it."""
    with traces.about(uuid4(), "work", "consumer"):
        before = traces.traceparent()
        assert traces.span("redis read", "client") is traces.span("send", "producer")
        with traces.span("send", "producer") as span:
            span.set("a", 1)
            assert traces.traceparent() == before


# --- in the gateway -----------------------------------------------------------------------------


async def test_problem_names_the_trace_that_its_log_lines_name(node: Node, client: Client) -> None:
    """Of a job's calls that is the job's id."""
    job_id = UUID("00000000-0000-4000-8000-000000000001")
    told = await problem(await client.post(f"/upload-complete/{job_id}"), 404, "not_found")
    assert told["trace_id"] == job_id.hex
    other = await client.get("/nowhere", headers={"traceparent": CALLER})
    assert (await problem(other, 404, "not_found"))["trace_id"] == "ab" * 16


# --- where it goes ------------------------------------------------------------------------------


def test_collector_without_the_extra_stops_the_start_with_a_sentence() -> None:
    """It says what to install."""
    without = "sys.modules['opentelemetry'] = None; from growbin.cli import main; sys.exit(main(['gateway']))"
    told = subprocess.run(
        [sys.executable, "-c", f"import sys; {without}"],
        env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 1
    assert told.stderr.splitlines()[-1].endswith("run `pip install 'growbin[tracing]'`, or unset it.")
