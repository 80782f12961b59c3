"""The job event on the wire: a CloudEvent 1.0 in structured JSON is the RabbitMQ body."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from uuid import UUID

from aio_pika.abc import AbstractIncomingMessage
from pydantic import BaseModel, ValidationError

from growbin.job import Job, rfc3339
from growbin.ports import Letter, Obituary

EVENT_TYPE = "app.growbin.waste.upload-completed.v1"
EVENT_MEDIA_TYPE = "application/cloudevents+json"
BODY_MAX_BYTES = 4096


class BadEvent(Exception):
    """A body that is no job event; `job_id` when at least that could be read."""

    def __init__(self, reason: str, job_id: UUID | None) -> None:
        super().__init__(reason)
        self.job_id = job_id


def encode_event(job: Job) -> bytes:
    """The RabbitMQ body: a CloudEvent 1.0 in structured JSON, at most 4 KB."""
    event = {
        "specversion": "1.0",
        "id": f"{job.job_id}.{job.run}",
        "source": "/growbin/gateway",
        "type": EVENT_TYPE,
        "subject": str(job.job_id),
        "time": rfc3339(job.accepted_at_ms),
        "datacontenttype": "application/json",
        "data": job.model_dump(mode="json", exclude_none=True),
    }
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()


def decode_event(body: bytes) -> Job:
    """The job in a body. Raises BadEvent."""
    if len(body) > BODY_MAX_BYTES:
        raise BadEvent(f"{len(body)} bytes are more than {BODY_MAX_BYTES}", None)
    try:
        event: Any = json.loads(body)
    except (ValueError, RecursionError) as error:  # also bad UTF-8; nested deeper than the parser goes
        raise BadEvent(f"not JSON: {error}", None) from error
    data = event.get("data") if isinstance(event, dict) else None
    try:
        job_id = UUID(str(data["job_id"])) if isinstance(data, dict) else None
    except (KeyError, ValueError):
        job_id = None
    if not isinstance(data, dict) or event.get("type") != EVENT_TYPE:
        raise BadEvent("not an upload-completed event of version 1", job_id)
    try:
        # A null is as good as nothing. From JSON, pydantic refuses half characters, which nobody can encode.
        given = {name: value for name, value in data.items() if value is not None}
        return Job.model_validate_json(json.dumps(given))
    except ValidationError as error:
        fields = ", ".join(str(problem["loc"]) for problem in error.errors())
        raise BadEvent(f"bad fields: {fields}", job_id) from error


def read_obituary(message: AbstractIncomingMessage) -> Obituary:
    """A dead letter as the broker gives it: its job if the body still is one, and why it died."""
    deaths = message.headers.get("x-death")
    first: Any = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
    reason, died_at = str(first.get("reason", "unknown")), first.get("time")
    moment = died_at.isoformat() if isinstance(died_at, datetime) else None
    try:
        job = decode_event(message.body)
    except BadEvent as error:
        return Obituary(error.job_id, None, reason, moment)
    return Obituary(job.job_id, job, reason, moment)


def encode_letter(obituary: Obituary, code: str, body: bytes) -> bytes:
    """What is kept for people: which job died of what, and nothing that it held. A body that names no job is
    kept as it came: whose it was cannot be told."""
    if obituary.job_id is None:
        return body
    letter = {
        "job_id": str(obituary.job_id),
        "run": obituary.job.run if obituary.job else None,
        "reason": obituary.reason,
        "code": code,
        "died_at": obituary.died_at,
    }
    return json.dumps(letter, separators=(",", ":")).encode()


class _Letter(BaseModel):
    job_id: UUID
    reason: str = "unknown"
    code: str | None = None
    died_at: str | None = None


def read_letter(message: AbstractIncomingMessage) -> Letter:
    """A letter of ours; else a dead letter that an earlier version parked as it was, or a body kept."""
    try:
        letter = _Letter.model_validate_json(message.body)
    except ValidationError:
        dead = read_obituary(message)
        return Letter(dead.job_id, dead.reason, None, dead.died_at, message.body)
    return Letter(letter.job_id, letter.reason, letter.code, letter.died_at, message.body)
