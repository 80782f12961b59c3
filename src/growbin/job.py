"""The nouns. Each is written once: the job event is the RabbitMQ body, the progress event is
the Redis payload and the SSE data, the result is what the client gets.

Times that travel are RFC 3339 UTC text; times that are compared are integer milliseconds of
Redis' clock (`*_ms`). Sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from growbin.taxonomy import Category, Condition, Material
from growbin.usage import Usage

Locale = Literal["ko", "en"]
# Why it is not certain what the photo shows. `unknown`: well to be seen, and yet it cannot be told.
DoubtReason = Literal["several", "dark", "blurred", "far", "unknown", "not_waste"]
Certainty = Literal["sure", "probable", "unsure"]
AnsweredBy = Literal["model", "kept", "fallback"]  # kept: paid for by an earlier job of the same owner
ContentType = Literal["image/jpeg", "image/png", "image/webp", "image/heic"]

EXTENSIONS: dict[ContentType, str] = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp"}

# Another version may have written what travels or is stored: a type or key that we would not write is read.
MediaType = Annotated[str, StringConstraints(pattern=r"^[\w.+-]+/[\w.+-]+$", max_length=100)]
UploadKey = Annotated[str, StringConstraints(pattern=r"^incoming/[0-9a-f-]{36}(\.(jpg|png|webp))?$")]
ETag = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,200}$")]
Owner = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]  # SHA-256 of the session token, hex
# Milliseconds since 1970, until the year 6429: dates and Lua's numbers go no further.
Moment = Annotated[int, Field(ge=0, lt=2**47)]

SESSION_SECONDS = 7 * 24 * 3600  # after its last call; the list of its jobs lives as long
RECENT_JOBS = 100  # of a session: so many stand in its list
# A job is due only once its deadline's millisecond has passed on Redis' clock: a timer fires a little later.
EXPIRY_MARGIN_SECONDS = 0.05

# The id of a log entry, `epoch.seq.nonce`.
ENTRY_ID = r"[0-9a-f]{1,32}\.[0-9]{1,9}\.[0-9a-z]{1,32}"


class Stage(StrEnum):
    """Where a job is. The order of the first five is the order of the story."""

    AWAITING_UPLOAD = "awaiting_upload"
    QUEUED = "queued"
    FETCHING = "fetching"
    ANALYSING = "analysing"
    ADVISING = "advising"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL_STAGES

    @property
    def rank(self) -> int:
        """Position in the story; every terminal stage shares the last place."""
        return min(list(Stage).index(self), 5)


TERMINAL_STAGES = frozenset({Stage.DONE, Stage.FAILED, Stage.CANCELLED, Stage.EXPIRED})

# Percent shown when the stage begins. A terminal stage other than `done` keeps what was reached.
STAGE_PROGRESS: dict[Stage, int] = {
    Stage.AWAITING_UPLOAD: 0,
    Stage.QUEUED: 10,
    Stage.FETCHING: 25,
    Stage.ANALYSING: 45,
    Stage.ADVISING: 90,
    Stage.DONE: 100,
    Stage.FAILED: 0,
    Stage.CANCELLED: 0,
    Stage.EXPIRED: 0,
}


class Noun(BaseModel):
    """Base of the nouns that travel or are stored: immutable. A field that a newer version added is
    ignored; a field that is new here needs a default, since an older version does not write it."""

    model_config = ConfigDict(frozen=True, extra="ignore")


# --- upload and job ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredUpload:
    """What lies in S3 under an upload's key: its ETag, length, declared type and first bytes."""

    etag: str
    length: int
    content_type: str
    head: bytes


class Upload(Noun):
    """The record of a job from its ticket on (`job:{id}`, 24 h)."""

    job_id: UUID
    owner: Owner
    key: UploadKey
    image_url: str
    content_type: MediaType = "image/jpeg"
    declared_type: MediaType | None = None
    declared_length: int | None = None
    question: Annotated[str, StringConstraints(max_length=500)] | None = None
    locale: Locale = "ko"
    address_hash: Annotated[str, StringConstraints(max_length=200)] | None = None
    created_at_ms: Moment
    ticket_expires_at_ms: Moment
    # Set by the first publish that is confirmed.
    etag: ETag | None = None
    length: Annotated[int, Field(gt=0)] | None = None
    accepted_at_ms: Moment | None = None
    deadline_ms: Moment | None = None
    published: bool = False

    @model_validator(mode="after")
    def _what_was_published_is_whole(self) -> Self:
        """So that its job event can always be made again."""
        if self.published and None in (self.etag, self.length, self.accepted_at_ms, self.deadline_ms):
            raise ValueError("published, but not stamped")
        return self


class Job(Noun):
    """The job event: the `data` of the CloudEvent that is the RabbitMQ body. Holds no URL to read."""

    job_id: UUID
    run: int = Field(default=1, ge=1, lt=10**9)
    key: UploadKey
    etag: ETag
    length: int = Field(gt=0)
    content_type: MediaType = "image/jpeg"
    question: Annotated[str, StringConstraints(max_length=500)] | None = None
    locale: Locale = "ko"
    owner: Owner
    address_hash: Annotated[str, StringConstraints(max_length=200)] | None = None
    accepted_at_ms: Moment
    deadline_ms: Moment

    @property
    def public_key(self) -> str:
        """Where the clean copy lies: `{job_id}.{ext}`; a JPEG where the upload's key promises no type."""
        name = self.key.removeprefix("incoming/")
        return name if "." in name else f"{name}.jpg"

    @property
    def public_type(self) -> ContentType:
        """The clean copy's type: its address was promised with the ticket, before the photo was seen."""
        extension = self.public_key.rpartition(".")[2]
        return next(content_type for content_type, known in EXTENSIONS.items() if known == extension)


def job_of(accepted: Upload) -> Job:
    return Job.model_validate(accepted.model_dump(include=set(Job.model_fields)))


# --- the photo ---------------------------------------------------------------------------------

# Opens `incoming/`, where raw photos lie, at the CDN: with the secret that the consumer has.
READER_HEADER = "X-Growbin-Reader"


@dataclass(frozen=True, slots=True)
class FetchedPhoto:
    """The raw bytes and how they came."""

    data: bytes
    source: Literal["cdn", "s3"]
    cache: Literal["hit", "miss"] | None


@dataclass(frozen=True, slots=True)
class CleanPhoto:
    """The photo after hygiene: upright, bounded, without any metadata."""

    data: bytes
    content_type: ContentType
    width: int
    height: int


# --- analysis and advice -----------------------------------------------------------------------

LONGEST_NAME, LONGEST_REPLY = 120, 600  # characters
ShortText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST_NAME)]
FreeText = Annotated[str, StringConstraints(strip_whitespace=True, max_length=LONGEST_REPLY)]
MOST_ITEMS, MOST_CHOICES = 10, 4  # so many choices fit a phone beside the sentence that asks


class Sorting(Noun):
    """Where something goes, and what it is made of where that matters."""

    category: Category
    material: Material | None


class Finding(Noun):
    """One item the model saw."""

    name: ShortText
    category: Category
    material: Material | None
    confidence: float = Field(ge=0, le=1)
    condition: list[Condition] = []


class Analysis(Noun):
    """The model's structured answer; `items` best first. This is the schema the model is given."""

    items: Annotated[list[Finding], Field(max_length=MOST_ITEMS)]
    answer: FreeText | None = None  # to the user's question, at most three sentences
    doubt: DoubtReason | None = None
    choices: Annotated[list[Sorting], Field(max_length=MOST_CHOICES)] = []  # what it most likely is instead


class ModelAnswer(Noun):
    """The raw model answer as it is stored (`job:{id}:answer`): text, unparsed, and what it cost."""

    text: str
    model: str = "unknown"
    usage: Usage = Usage()
    analyse_ms: int = 0
    answered_by: AnsweredBy = "model"


# What only a municipality's overlay tells; left out where there is none.
OnlyIfKnown = Annotated[str | None, Field(exclude_if=lambda told: told is None)]


class RuleReference(Noun):
    id: str
    title: str
    source: str
    as_of: str | None
    place: OnlyIfKnown = None  # its name


class Advice(Noun):
    """Which bin and how, for one finding. Looked up, never written by the model."""

    recyclable: bool
    bin: str
    steps: list[str]
    cautions: list[str]
    rule: RuleReference
    days: OnlyIfKnown = None  # when it is collected
    contact: OnlyIfKnown = None  # who answers questions


class AdvisedItem(Advice, Finding):
    """What the model saw, and the advice for it."""


class NamedThing(Noun):
    """What a person says it is."""

    name: str
    category: Category
    material: Material | None
    condition: list[Condition]


class NamedAdvice(Advice, NamedThing):
    """The advice for it: by rule alone, without a photo."""


class PhotoReport(Noun):
    source: Literal["cdn", "s3"]
    cache: Literal["hit", "miss"] | None
    bytes: int


class Timings(Noun):
    """Milliseconds."""

    queue: int
    fetch: int
    prepare: int
    analyse: int
    total: int


class Choice(Sorting):
    """What a person may say it is."""

    label: str


class AskBack(Noun):
    """Why the answer is in doubt, and what would help."""

    reason: DoubtReason
    text: str
    choices: list[Choice] = []


class Result(Noun):
    """What the client gets."""

    job_id: UUID
    image_url: str
    locale: Locale
    waste_type: str
    items: list[AdvisedItem]
    answer: str | None
    sure: bool
    certainty: Certainty | None = None  # an earlier version wrote none
    ask_back: AskBack | str | None  # an earlier version wrote a text; clients must take both
    model: str
    answered_by: AnsweredBy = "model"
    usage: Usage
    photo: PhotoReport
    timings_ms: Timings
    analysed_at: str


class Failure(Noun):
    code: str
    detail: str
    retryable: bool
    opens_at: OnlyIfKnown = None  # from when a spent budget has room again


# --- progress ----------------------------------------------------------------------------------


class ProgressEvent(Noun):
    """One line of a job's log: the Redis payload and the SSE data, byte for byte."""

    job_id: UUID
    seq: int
    stage: Stage
    progress: int = Field(ge=0, le=100)
    message: str
    attempt: int
    updated_at: str
    position: int | None = None  # in the queue, of a `queued` event when known,
    wait_seconds: int | None = None  # the estimated wait,
    turn: int | None = None  # and the broker's count when its turn comes
    max_attempts: int | None = None  # beside an `attempt` that is not the first
    result: Result | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A progress event as it lies in the log: `id` is what SSE clients hold, `data` is its JSON."""

    id: str
    event: str
    data: str

    @property
    def seq(self) -> int:
        return int(self.id.split(".")[1])

    @property
    def epoch(self) -> str:
        return self.id.split(".")[0]

    @property
    def ends(self) -> bool:
        return self.event in TERMINAL_STAGES


@dataclass(frozen=True, slots=True)
class JobState:
    """What is known of a job now: the latest entry (with `data` as JSON), owner, deadline."""

    entry: LogEntry
    run: int
    owner: str
    image_url: str
    left_seconds: float  # until the deadline, by Redis' clock
    locale: Locale = "ko"
    is_readable: bool = True  # False: it has ended, and how cannot be told
    is_accepted: bool = False  # awaiting its upload, as far as is written, its event may be in the queue

    @property
    def is_erased(self) -> bool:
        """Only a tombstone is left."""
        return self.entry.event == "deleted"


def rfc3339(milliseconds: int) -> str:
    """`1700000000123` -> `2023-11-14T22:13:20.123Z`."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{milliseconds % 1000:03d}Z"
