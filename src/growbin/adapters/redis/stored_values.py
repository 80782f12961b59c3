"""What lies in Redis, read as far as it goes: another version may have written it."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, Self
from uuid import UUID

import structlog
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import from_json

from growbin.job import (
    ENTRY_ID,
    TERMINAL_STAGES,
    JobState,
    Locale,
    LogEntry,
    ModelAnswer,
    Moment,
    Owner,
    Stage,
    Upload,
    rfc3339,
)
from growbin.messages import failure, stage_message
from growbin.ports import EndedJob, PartAway

log = structlog.get_logger()

_EVENTS = "|".join(["progress", *sorted(TERMINAL_STAGES)])
_ENTRY = re.compile(rf"({ENTRY_ID}) ({_EVENTS}) (\{{.*\}})", re.DOTALL)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", re.ASCII)
UNREADABLE_ID = "0.1.unreadable"  # in no log

_compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def parse_entry(text: str) -> LogEntry | None:
    """`"<id> <event> <data>"`, as the script writes it; None for anything else."""
    found = _ENTRY.fullmatch(text)
    return LogEntry(found[1], found[2], found[3]) if found else None


def parse_object(text: str) -> dict[str, Any]:
    """The fields of a JSON object that have a value; none for anything else. A null is as good as nothing:
    where it could mean more, it is the default."""
    try:
        value = from_json(text)
    except ValueError:  # also half characters, and what is nested too deep
        return {}
    return {name: item for name, item in value.items() if item is not None} if isinstance(value, dict) else {}


def read_record(job_id: UUID, text: str | None) -> Upload | None:
    """The record of an upload; what cannot be read is as if it had gone."""
    if not text:
        return None
    try:
        upload = Upload.model_validate(parse_object(text))
    except ValidationError as error:
        log.warning("record_unreadable", job_id=str(job_id), problems=error.error_count())
        return None
    return upload if upload.job_id == job_id else None


def read_answer(text: str) -> ModelAnswer:
    """A kept answer. It was paid for: whatever else is odd, its text is used. Without a text it becomes an
    empty one, which fails its job as any answer without sense does, and is not asked for again."""
    fields = parse_object(text)
    try:
        return ModelAnswer.model_validate(fields)
    except ValidationError as error:
        log.warning("answer_unreadable", problems=error.error_count())
        said = fields.get("text")
        return ModelAnswer(text=said if isinstance(said, str) else "")


def read_snapshot(snapshot: str, now_ms: int) -> JobState | None:
    """The state from the snapshot, of which the script hands out only what can be read."""
    if not snapshot:
        return None
    known = json.loads(snapshot)
    names = ("job_id", "seq", "stage", "progress", "message", "attempt", "updated_at")
    data = _compact({name: known[name] for name in names})
    left_seconds = (known["deadline_ms"] - now_ms) / 1000
    return JobState(
        LogEntry(known["id"], "progress", data),
        known["run"],
        known["owner"],
        known["image_url"],
        left_seconds,
        known["locale"],
        is_accepted=known.get("accepted") is True,
    )


LONGEST_LIFE_MS = 999_999_999  # the script says no more


class Snapshot(BaseModel):
    """A snapshot as this version writes it, of a job that has not ended."""

    model_config = ConfigDict(strict=True)

    id: Annotated[str, StringConstraints(pattern=rf"^{ENTRY_ID}$")]
    job_id: str
    run: Annotated[int, Field(ge=1, lt=10**9)]
    seq: Annotated[int, Field(ge=1, lt=10**9)]
    stage: Literal["awaiting_upload", "queued", "fetching", "analysing", "advising"]
    progress: Annotated[int, Field(ge=0, le=100)]
    attempt: Annotated[int, Field(ge=1, lt=10**9)]
    message: str
    updated_at: str
    owner: Owner
    image_url: str
    locale: Locale
    deadline_ms: Moment
    life_ms: int = LONGEST_LIFE_MS


def is_snapshot(job_id: str, text: str, now_ms: int) -> bool:
    """Whether it may be read as it lies there; else the script has to say what can be read of it, or what
    becomes of a job that is due, or whose deadline a jump of the clock has moved away."""
    try:
        found = Snapshot.model_validate_json(text)
    except ValidationError:
        return False
    left_ms = found.deadline_ms - now_ms
    is_within_life = left_ms <= found.life_ms or found.life_ms == LONGEST_LIFE_MS
    return found.job_id == job_id and left_ms > 0 and is_within_life


class EndEvent(BaseModel):
    """What a reader must find in a terminal event, which is handed on as it was written: a newer version's
    client may know more of it than we do."""

    job_id: UUID
    stage: Stage
    updated_at: str = ""
    result: dict[str, Any] | None = None
    failure: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _says_what_it_ended_with(self) -> Self:
        if not self.stage.is_terminal:
            raise ValueError("not an end")
        if (self.stage is Stage.DONE) != (self.result is not None):
            raise ValueError("done goes with a result")
        if self.stage is Stage.FAILED and self.failure is None:
            raise ValueError("failed goes with a failure")
        return self


class Tombstone(BaseModel):
    """What is left of an erased job."""

    stage: Literal["deleted"]


class StoredEnd(BaseModel):
    """`job:{id}:result`, as this version and its neighbours write it."""

    id: Annotated[str, StringConstraints(pattern=rf"^{ENTRY_ID}$")]
    run: int = Field(default=1, ge=1)
    owner: Owner
    image_url: str = ""
    deadline_ms: int = Field(default=0, ge=0, lt=2**47)
    data: EndEvent | Tombstone


class OwnedEnd(BaseModel):
    """The least that proves whose it is."""

    owner: Owner
    stage: str = ""


def read_end(job_id: UUID, result: str, now_ms: int) -> JobState:
    """The state from a stored end. One that cannot be read is an end all the same: its client hears of a bug
    of ours, and its owner, if that can be read, may delete it. Nothing is written over it."""
    known = parse_object(result)
    try:
        end = StoredEnd.model_validate(known)
    except ValidationError as error:
        log.warning("result_unreadable", job_id=str(job_id), problems=error.error_count())
        return _unreadable_end(job_id, known, now_ms)
    data = _compact(known["data"])
    entry = LogEntry(end.id, end.data.stage, data)
    return JobState(entry, end.run, end.owner, end.image_url, (end.deadline_ms - now_ms) / 1000)


def read_outage(part: str, text: str) -> PartAway | None:
    """Since when a part is away; where it cannot be read nobody is told."""
    since = parse_object(text).get("since")
    return PartAway(part, since) if isinstance(since, str) and _MOMENT.fullmatch(since) else None


def read_ended(job_id: str, result: str) -> EndedJob | None:
    """How a stored end reads to an operator; None for a tombstone, or where it cannot be read."""
    try:
        end = StoredEnd.model_validate(parse_object(result))
    except ValidationError:
        return None
    if isinstance(end.data, Tombstone):
        return None
    outcome = str((end.data.failure or {}).get("code") or end.data.stage)
    return EndedJob(end.data.job_id, outcome, end.data.updated_at) if str(end.data.job_id) == job_id else None


def _unreadable_end(job_id: UUID, known: dict[str, Any], now_ms: int) -> JobState:
    try:
        owned = OwnedEnd.model_validate(known)
    except ValidationError:
        owned = OwnedEnd.model_construct(owner="", stage="")  # nobody's
    if owned.stage == "deleted":
        return JobState(LogEntry("0.0.0", "deleted", '{"stage":"deleted"}'), 1, owned.owner, "", 0)
    event = {
        "job_id": str(job_id),
        "seq": 1,
        "stage": Stage.FAILED,
        "progress": 0,
        "message": stage_message(Stage.FAILED, "ko"),
        "attempt": 1,
        "updated_at": rfc3339(now_ms),
        "failure": failure("internal", "ko").model_dump(),
    }
    data = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    return JobState(LogEntry(UNREADABLE_ID, "failed", data), 1, owned.owner, "", 0, is_readable=False)
