"""Metrics that are true while something is wrong, and whose label sets nobody outside can add to."""

from __future__ import annotations

import asyncio
import math
import re
import time
from contextlib import suppress
from importlib import import_module

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import REGISTRY, generate_latest

from growbin.adapters.model.refusals import refusal_of, trouble
from growbin.adapters.photos import photo_source
from growbin.consumer.handle_job import handle_job
from growbin.errors import JobFailed, Unavailable
from growbin.gateway.app import CALLS, STATUSES
from growbin.messages import failure_codes
from growbin.probes import build_probes
from growbin.telemetry import event_loop, metrics
from growbin.telemetry.event_loop import measured_lag
from growbin.telemetry.exposition import exposition
from tests.loopback import served
from tests.unit.gateway_node import Client
from tests.unit.test_consumer import Bench, job
from tests.unit.test_photo_source import ETAG, KEY, PHOTO, Store, photo_answer, source


def value(name: str, **labels: str) -> float:
    """Raises AssertionError for what is not there yet."""
    found = REGISTRY.get_sample_value(name, labels)
    assert found is not None, f"{name} {labels}"
    return found


def label_sets() -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name.startswith("growbin_")
    }


# --- there from the start


def test_every_end_and_every_answer_reads_zero_before_it_happens() -> None:
    """A rate over what appears with its first event would miss that event."""
    import_module("growbin.adapters.redis.progress_log")  # who writes ends declares them
    for outcome in ("done", "cancelled", "expired", "not_uploaded", *failure_codes()):
        assert value("growbin_jobs_ended_total", outcome=outcome) >= 0
    for call in CALLS:
        for status in ("503", "other", *map(str, call.answers)):
            assert value("growbin_requests_total", method=call.method, route=call.path, status=status) >= 0


async def test_strangers_add_no_label_set(client: Client) -> None:
    """Odd methods, addresses and ids fall together, and no answer is lost from the count."""
    before = label_sets()
    unknown = value("growbin_requests_total", method="any", route="none", status="404")
    for number in range(3):
        await client.get(f"/nowhere/{number}")
        await client.request(f"ODD{number}", "/api/v1/waste/jobs")
        await client.get(f"/api/v1/waste/jobs/{number}")
        await client.post(f"/upload-complete/{number}")
    await client.get("/app.js")
    assert label_sets() == before
    assert value("growbin_requests_total", method="any", route="none", status="404") == unknown + 3
    assert ("POST", "/upload-complete/{job_id}") in STATUSES


async def test_refusal_of_upload_complete_counts_by_its_code_or_as_other(client: Client) -> None:
    """Whatever another module may refuse it for adds no label set."""
    names = ("not_found", "other")
    before = [value("growbin_uploads_total", outcome=name) for name in names]
    path = "/upload-complete/00000000-0000-4000-8000-000000000000"
    await client.post(path)
    await client.post(path, headers={"Authorization": "Bearer unknown"})
    after = [value("growbin_uploads_total", outcome=name) for name in names]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1]


def shown(text: bytes) -> list[str]:
    """Without what changes by being looked at."""
    return [
        line
        for line in text.decode().splitlines(keepends=True)
        if not re.match(r"(# \w+ )?(process|python_gc)_", line)
    ]


def test_exposition_is_the_librarys_own() -> None:
    """Byte for byte: at first, with other values, with a new label set, and when one has gone."""
    metrics.present(metrics.jobs_ended, ("done",))
    assert shown(exposition()) == shown(generate_latest())
    metrics.jobs_ended.labels(outcome="done").inc()
    metrics.stage_seconds.labels(stage="fetch").observe(0.3)
    metrics.oldest_waiting_seconds.set(math.nan)
    metrics.redis_used_bytes.labels(role="jobs").set(123456789012)
    assert shown(exposition()) == shown(generate_latest())
    metrics.part_well.labels(part='odd "one"\\\n{x} 1').set(1)
    metrics.part_well.labels(part="s3").set(0)
    assert shown(exposition()) == shown(generate_latest())
    metrics.part_well.remove("s3")
    metrics.part_well.labels(part="other").set(1)
    assert shown(exposition()) == shown(generate_latest())
    metrics.part_well.clear()
    assert shown(exposition()) == shown(generate_latest())


def test_label_set_that_is_kept_at_hand_is_the_one_that_is_shown() -> None:
    """However it is named; a wrong name is still refused."""
    before = value("growbin_answers_total", by="kept")
    metrics.answers.labels(by="kept").inc()
    metrics.answers.labels("kept").inc()
    assert value("growbin_answers_total", by="kept") == before + 2
    with pytest.raises(ValueError, match="label"):
        metrics.answers.labels(whom="kept")


# --- true during a fault


async def test_wait_in_the_queue_is_told_when_the_job_begins_and_once() -> None:
    """While the model hangs, the wait before it is known; a second start waited for something else."""
    bench = Bench()
    bench.outside.model_gate = asyncio.Event()
    bench.outside.model_errors = [Unavailable("model", "500")]
    count, first = value("growbin_queue_wait_seconds_count"), value("growbin_job_starts_total", start="first")
    again = value("growbin_job_starts_total", start="again")
    event = job()
    handling = asyncio.create_task(handle_job(event, bench.consumer))
    while not bench.outside.model_calls:
        await asyncio.sleep(0.01)
    assert value("growbin_queue_wait_seconds_count") == count + 1
    bench.outside.model_gate.set()
    await handling
    await handle_job(event, bench.consumer)
    assert value("growbin_queue_wait_seconds_count") == count + 1
    assert value("growbin_job_starts_total", start="first") == first + 1
    assert value("growbin_job_starts_total", start="again") == again + 1


async def test_stages_tell_their_time_though_the_job_fails() -> None:
    """What was done before it failed took its time."""
    bench = Bench()
    bench.outside.model_errors = [JobFailed("model_refused")]
    fetched = value("growbin_stage_seconds_count", stage="fetch")
    analysed = value("growbin_stage_seconds_count", stage="analyse")
    await handle_job(job(), bench.consumer)
    assert value("growbin_stage_seconds_count", stage="fetch") == fetched + 1
    assert value("growbin_stage_seconds_count", stage="analyse") == analysed


async def test_photo_is_counted_where_it_was_read_and_a_read_that_failed_as_such(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By source and cache, with time and size; also those of jobs that come to nothing."""
    for name in ("SHORTEST_PATIENCE_SECONDS", "MOST_PATIENCE_SECONDS"):
        monkeypatch.setattr(photo_source, name, 30)

    def counts() -> list[float]:
        return [
            value("growbin_photos_fetched_total", source="cdn", cache="hit"),
            value("growbin_photos_fetched_total", source="s3", cache="none"),
            value("growbin_photo_fetch_seconds_count", source="cdn"),
            value("growbin_photo_fetch_seconds_count", source="s3"),
            value("growbin_photo_reads_failed_total", source="cdn"),
            value("growbin_photo_reads_failed_total", source="s3"),
            value("growbin_photo_bytes_count"),
        ]

    async def fetch(store: Store, status: int = 200) -> list[float]:
        async def serve(_request: web.BaseRequest) -> web.Response:
            return photo_answer(status=status, headers={"X-Cache": "HIT"})

        before = counts()
        async with served(serve) as url, source(url, store) as photos:
            with suppress(Unavailable):
                await photos.fetch(KEY, ETAG, len(PHOTO))
        return [after - one for after, one in zip(counts(), before, strict=True)]

    assert await fetch(Store()) == [1, 0, 1, 0, 0, 0, 1]
    assert await fetch(Store(), 500) == [0, 1, 0, 1, 1, 0, 1]
    assert await fetch(Store(Unavailable("s3", "away")), 500) == [0, 0, 0, 0, 1, 1, 0]


@pytest.mark.parametrize(
    ("status", "whom"), [(401, "everybody"), (413, "job"), (429, "busy"), (500, "away"), (403, "either")]
)
def test_refusal_of_the_model_is_counted_by_whom_it_concerns(status: int, whom: str) -> None:
    """Once, when it becomes an error."""
    before = value("growbin_model_refusals_total", whom=whom)
    refusal_of(status, b"", {}).error()
    assert value("growbin_model_refusals_total", whom=whom) == before + 1
    trouble("timed out").error()
    assert value("growbin_model_refusals_total", whom="away") >= 1


async def test_event_loop_that_was_held_up_tells_how_long() -> None:
    """Who computes keeps all others waiting. One look a second at most."""

    def late() -> float:
        return looks() - value("growbin_event_loop_lag_seconds_bucket", le="0.25")

    before, looked, began = late(), looks(), time.perf_counter()
    async with measured_lag():
        await asyncio.sleep(0.1)
        until = time.perf_counter() + 1.2
        while time.perf_counter() < until:  # nobody else gets a turn
            pass
        await asyncio.sleep(0.1)
    assert late() > before
    assert looks() - looked <= time.perf_counter() - began


async def test_event_loop_is_looked_at_again_and_again_and_then_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While it is measured."""
    monkeypatch.setattr(event_loop, "LOOK_SECONDS", 0.005)
    before = looks()
    async with measured_lag():
        while looks() < before + 3:
            await asyncio.sleep(0.005)
    seen = looks()
    await asyncio.sleep(0.05)
    assert looks() == seen


def looks() -> float:
    return value("growbin_event_loop_lag_seconds_count")


async def test_scrape_tells_which_parts_are_well_and_asks_for_what_is_true_now() -> None:
    """Each check as /readyz shows it; a broken one is not well."""
    asked = []

    async def yes() -> bool:
        return True

    async def broken() -> bool:
        raise Unavailable("redis", "away")

    async def measure() -> None:
        asked.append("now")

    app = build_probes({"redis": broken}, shown={"rabbitmq": yes}, measure=measure)
    async with TestClient(TestServer(app)) as client:
        text = await (await client.get("/metrics")).text()
    assert 'growbin_part_well{part="redis"} 0.0' in text
    assert 'growbin_part_well{part="rabbitmq"} 1.0' in text
    assert asked == ["now"]
    metrics.part_well.clear()
