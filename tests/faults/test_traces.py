"""One job, one trace: through every process, every retry, and a redrive."""

from __future__ import annotations

import json
from collections import Counter

from tests.faults.cluster import Cluster, Servers
from tests.faults.collector import Collector
from tests.faults.commands import said_by
from tests.faults.model import MODEL_NAME, SERVER_ERROR
from tests.faults.steps import eventually
from tests.faults.test_redrive import begin_again

STARTS = 3


def told_of(log: str, trace_id: str) -> list[tuple[str, str]]:
    """When and what: what `grep` of the trace's id finds."""
    lines = [json.loads(line) for line in log.splitlines() if trace_id in line and line.startswith("{")]
    return [(line["timestamp"], line["event"]) for line in lines]


async def test_job_retried_twice_and_driven_again_is_one_trace(servers: Servers) -> None:
    """From upload-complete to the stream, over four deliveries and a command: one tree without a loose end,
    the model's part told as others tell it, and nothing secret. Its id finds the story in the logs."""
    async with (
        Collector.running() as collector,
        Cluster.running(
            servers,
            MAX_STARTS=str(STARTS),
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_BSP_SCHEDULE_DELAY="500",
        ) as cluster,
    ):
        (gateway,), (consumer,) = cluster.gateways, cluster.consumers
        cluster.model.script("unlucky", *[SERVER_ERROR] * STARTS)
        job = await cluster.client.submit("unlucky")
        job.is_innocent = False
        cluster.client.watch(job)
        assert (await cluster.client.seen(job)).code == "failed: temporarily_unavailable"
        status, said = await said_by(cluster, "redrive", "--job", job.job_id)
        assert status == 0, said
        stream = begin_again(cluster, job)

        async def is_done() -> bool:
            return len(stream.events) > 1 and stream.end is not None

        await eventually(is_done, "the new run's end")
        assert stream.events[-1].code == "done"
        await cluster.prove()
        await gateway.stop()
        await consumer.stop()  # each sends what it has left

        trace_id = job.job_id.replace("-", "")
        tree = collector.tree(trace_id)
        print(tree)
        mine = [span for span in collector.spans if span.trace_id == trace_id]
        names = Counter(span.name for span in mine)
        assert [span.name for span in mine if not span.parent_id] == ["job"]
        assert names["work on a job"] == names[f"chat {MODEL_NAME}"] == STARTS + 1
        assert names["send"] == STARTS + 1
        assert names["redrive"] == 1
        for name in ("read photo from cdn", "clean photo", "show photo", "redis begin", "redis append"):
            assert names[name], name
        assert names["POST /upload-complete/{job_id}"] == 1
        assert names["GET /api/v1/waste/jobs/{job_id}/events"] >= 2
        assert {span.service for span in mine} == {"growbin-gateway", "growbin-consumer", "growbin-redrive"}
        asked = [span.attributes for span in mine if span.name == f"chat {MODEL_NAME}"]
        assert sum(it.get("gen_ai.usage.output_tokens") == 60 for it in asked) == 1
        assert sum(it.get("error.type") == "Unavailable" for it in asked) == STARTS
        assert {it["gen_ai.request.model"] for it in asked} == {MODEL_NAME}

        for secret, what in cluster.secrets.items():
            assert not any(secret.encode() in body for body in collector.bodies if secret), what
        assert not any(b"case:unlucky" in body for body in collector.bodies), "somebody's question"

        story = sorted(told_of(gateway.log + consumer.log + said, trace_id))
        events = [event for _, event in story]
        begun = [event for event in events if event in ("job_begun", "job_postponed", "job_ended")]
        assert begun == ["job_begun", "job_postponed"] * 2 + ["job_begun", "job_ended"] * 2
        assert events.index("job_submitted") < events.index("job_ended") < events.index("job_redriven")
