"""What is sent while a job runs, as /asyncapi.json describes it, held against what is sent."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from growbin.adapters.rabbitmq.job_event import BODY_MAX_BYTES, EVENT_MEDIA_TYPE, encode_event
from growbin.config import Settings
from growbin.gateway import asyncapi
from growbin.gateway.app import CALLS
from growbin.job import Stage
from growbin.messages import failure
from tests.unit.gateway_node import Client, Node

FILE = Path(__file__).parents[2] / "docs" / "asyncapi.json"
DOCUMENT = asyncapi.describe()


def held(name: str, part: str = "payload") -> Any:
    """What checks that something is such a message's."""
    schema = {**DOCUMENT["components"]["messages"][name][part], "components": DOCUMENT["components"]}
    return jsonschema_rs.validator_for(schema)


async def events_of(client: Client, path: str) -> list[dict[str, str]]:
    """The fields of each event of a stream that ends."""
    text = await (await client.get(path)).text()
    blocks = [block for block in text.split("\n\n") if "event: " in block]
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]


async def test_description_is_the_one_in_docs(client: Client) -> None:
    """docs/asyncapi.json is what the gateway serves: after a change, save the new /asyncapi.json there."""
    served = await (await client.get("/asyncapi.json")).json()
    assert served == json.loads(FILE.read_text())


def test_each_reference_leads_somewhere() -> None:
    """Channels, operations, messages and schemas agree."""
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(DOCUMENT)):
        found: Any = DOCUMENT
        for step in reference.split("/"):
            found = found[step]
        assert found
    told = {name for channel in DOCUMENT["channels"].values() for name in channel["messages"]}
    assert told == set(DOCUMENT["components"]["messages"])


def test_streams_are_those_of_the_table_of_calls() -> None:
    """Each stream has its channel; the queue's name is the default of its setting."""
    addresses = {channel["address"] for channel in DOCUMENT["channels"].values()}
    streams = {call.path for call in CALLS if call.streams}
    assert addresses == streams | {Settings.model_fields["queue_name"].default}


@pytest.mark.parametrize("end", ["failed", "cancelled", "expired"])
async def test_events_of_a_stream_are_as_described(node: Node, client: Client, end: str) -> None:
    """Names, fields and data, from the first stage to the end; also those of one who was told of history
    that is gone."""
    job = await node.submitted(client)
    started = await node.progress.begin(job, alone=False, call_id="call")
    assert not isinstance(started, str)
    await node.progress.announce(job, started.attempt, Stage.FETCHING)
    if end == "failed":
        await node.progress.finish(job, started.attempt, failure("photo_missing", "ko"))
    elif end == "cancelled":
        await node.progress.cancel(job.job_id)
    else:
        node.clock.advance(3600)
    path = f"/api/v1/waste/jobs/{job.job_id}/events"
    whole, torn = await events_of(client, path), await events_of(client, f"{path}?last_event_id=0.7.nobody")
    assert [event["event"] for event in whole][-1] == end
    assert torn[0]["event"] == "reset"
    for event in whole + torn:
        held(event["event"], "headers").validate(event)
        held(event["event"]).validate(json.loads(event["data"]))
        if event["event"] != "reset":
            others = {"progress", "done", "failed", "cancelled", "expired"} - {event["event"]}
            assert not any(held(other).is_valid(json.loads(event["data"])) for other in others)


async def test_event_in_the_queue_is_as_described(node: Node, client: Client) -> None:
    """What the gateway publishes, whole and no larger than it says."""
    body = encode_event(await node.submitted(client))
    held("uploadCompleted").validate(json.loads(body))
    assert len(body) <= BODY_MAX_BYTES
    assert DOCUMENT["components"]["messages"]["uploadCompleted"]["contentType"] == EVENT_MEDIA_TYPE
