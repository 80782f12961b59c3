"""What is sent while a job runs, described: an AsyncAPI 3 document of the progress streams, and of the event
in the queue between gateway and consumer. Pure."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from growbin.gateway.answers import Notice
from growbin.job import TERMINAL_STAGES, Job, ProgressEvent, Stage

QUEUE = "growbin.jobs"  # unless QUEUE_NAME says otherwise
# What the `data` of an event has to have besides, by the event's name.
TOLD: dict[str, tuple[str, str | None]] = {
    "progress": ("The job has come to a stage; within one attempt each comes once and in order.", None),
    "done": ("The end: `result` holds the advice.", "result"),
    "failed": ("The end: `failure` says why, and whether another try is worth while.", "failure"),
    "cancelled": ("The end: its owner has cancelled it.", None),
    "expired": ("The end: its time is over.", None),
    "reset": (
        "What came before is history. `data` is the job as it is now, and the story goes on here.",
        None,
    ),
}


def describe() -> dict[str, Any]:
    """The AsyncAPI document."""
    _, schemas = models_json_schema(
        [(Notice, "serialization"), (ProgressEvent, "serialization"), (Job, "validation")],
        ref_template="#/components/schemas/{model}",
    )
    messages = {name: _event(name) for name in TOLD} | {"notice": _notice(), "uploadCompleted": _job_event()}
    streamed = [*TOLD, "notice"]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "growbin",
            "version": "1",
            "description": "What is sent while a photo is looked at. The calls: /openapi.json.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "jobEvents": {
                "address": "/api/v1/waste/jobs/{job_id}/events",
                "title": "One job's progress, as server-sent events",
                "description": "Ends with the job. A reconnect names the last id seen (`Last-Event-ID`, "
                "or `last_event_id` in the query) and gets what it missed; 204 when that was the end.",
                "parameters": {"job_id": {"description": "the job's id, a UUID"}},
                "messages": _named(streamed),
            },
            "sessionEvents": {
                "address": "/api/v1/waste/events",
                "title": "The progress of all the session's unfinished jobs; new ones join",
                "description": "Every promise holds for each job. It stays open after their ends, and "
                "closes a minute after the last.",
                "messages": _named(streamed),
            },
            "jobs": {
                "address": QUEUE,
                "title": "The accepted jobs, from a gateway to a consumer",
                "description": "The setting QUEUE_NAME is its name. Persistent, mandatory, confirmed; "
                "delivered at least once.",
                "messages": _named(["uploadCompleted"]),
                "bindings": {
                    "amqp": {
                        "is": "queue",
                        "queue": {"name": QUEUE, "durable": True, "exclusive": False, "autoDelete": False},
                        "bindingVersion": "0.3.0",
                    }
                },
            },
        },
        "operations": {
            "tellJob": _operation("send", "jobEvents", "A client asks for the stream by GET"),
            "tellSession": _operation("send", "sessionEvents", "A client asks for the stream by GET"),
            "publishJob": _operation(
                "send", "jobs", "The gateway, before it answers upload-complete with 202"
            ),
            "takeJob": _operation("receive", "jobs", "A consumer"),
        },
        "components": {"messages": messages, "schemas": schemas["$defs"]},
    }


def _named(names: list[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}


def _operation(action: str, channel: str, summary: str) -> dict[str, Any]:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "summary": summary}


def _event(name: str) -> dict[str, Any]:
    """Its headers are the fields of the server-sent event; its payload is the JSON of `data`."""
    summary, needed = TOLD[name]
    stages = [stage for stage in Stage if (stage in TERMINAL_STAGES) == (name in TERMINAL_STAGES)]
    wanted: dict[str, Any] = {}
    if name in TERMINAL_STAGES:
        wanted["properties"] = {"stage": {"const": name}}
    elif name != "reset":
        wanted["properties"] = {"stage": {"enum": stages}}
    if needed:
        wanted |= {"required": [needed], "properties": wanted["properties"] | {needed: {"type": "object"}}}
    payload = {"$ref": "#/components/schemas/ProgressEvent"}
    fields = {
        "id": {"type": "string", "description": "opaque: hand it back as it is"},
        "event": {"const": name},
    }
    return {
        "name": name,
        "summary": summary,
        "headers": {"type": "object", "required": ["id", "event"], "properties": fields},
        "payload": {"allOf": [payload, wanted]} if wanted else payload,
    }


def _notice() -> dict[str, Any]:
    return {
        "name": "notice",
        "summary": "A part is away, told once for each outage; or a place in line has fallen. It has no id.",
        "headers": {"type": "object", "required": ["event"], "properties": {"event": {"const": "notice"}}},
        "payload": {"$ref": "#/components/schemas/Notice"},
    }


def _job_event() -> dict[str, Any]:
    text = {"type": "string"}
    envelope = {
        "specversion": {"const": "1.0"},
        "id": {**text, "description": "the job and its run"},
        "source": {**text, "format": "uri-reference"},
        "type": {"const": "app.growbin.waste.upload-completed.v1"},
        "subject": {**text, "format": "uuid", "description": "the job"},
        "time": {**text, "format": "date-time"},
        "datacontenttype": {"const": "application/json"},
        "data": {"$ref": "#/components/schemas/Job"},
    }
    return {
        "name": "uploadCompleted",
        "summary": "A job was accepted: a CloudEvent 1.0 in structured JSON, at most 4 KB",
        "contentType": "application/cloudevents+json",
        "payload": {"type": "object", "required": list(envelope), "properties": envelope},
        "bindings": {"amqp": {"messageType": "uploadCompleted", "bindingVersion": "0.3.0"}},
    }
