"""A stranger's job stream in a few words: how a job is made, where its stream is, how its end is told."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

GROWBIN = Path(__file__).parent / "growbin.toml"


class BadDescription(Exception):
    """Says what is wrong with it, or what the service answered that it does not foresee."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Call(_Strict):
    """One HTTP request. `{name}` stands for what an earlier answer called so (`{a[b]}` for b within a)."""

    request: str  # "POST /jobs", or with a whole address
    body: Any = None  # sent as JSON
    file: Path | None = None  # sent as it is; seen from the description's folder
    headers: dict[str, str] = {}


class StreamDescription(_Strict):
    path: str
    ends: tuple[str, ...]  # each is the last event of a job's story
    stage: str | None = None  # the field that says which stage an event tells; else the event's name does
    stages: tuple[str, ...] = ()  # what a good job goes through, first to last
    progress: str | None = None  # the field that never falls
    reset: str | None = None  # the event that says "what you heard is void, this is the present"
    beside: tuple[str, ...] = ()  # events that are no part of the story
    last_id_parameter: str | None = None  # in the query, for clients that cannot set the header
    heartbeat_seconds: float = 15  # the longest silence that is allowed
    patience_seconds: float = 30  # the longest time from a job's start to its end


class Description(_Strict):
    name: str
    stream: StreamDescription
    session: tuple[Call, ...] = ()  # makes a new person
    headers: dict[str, str] = {}  # that every request of this person carries
    create: tuple[Call, ...]  # makes a job
    start: tuple[Call, ...] = ()  # sets it going, where it does not go by itself
    cancel: tuple[Call, ...] = ()
    restart: tuple[str, ...] = ()  # a command that takes the service down and brings it back

    @classmethod
    def read(cls, path: Path) -> Description:
        try:
            described = cls.model_validate(tomllib.loads(path.read_text()))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise BadDescription(f"{path}: {error}") from None
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, it['loc']))}: {it['msg']}" for it in error.errors())
            raise BadDescription(f"{path}: {wrong}") from None
        return described.model_copy(
            update={
                part: tuple(_seen_from(path.parent, call) for call in getattr(described, part))
                for part in ("session", "create", "start", "cancel")
            }
        )


def _seen_from(folder: Path, call: Call) -> Call:
    return call.model_copy(update={"file": folder / call.file}) if call.file else call
