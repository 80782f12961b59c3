"""Whose refusal is it, and was anything paid? One table: the first row that fits decides.

The words are looked for in what the server says in so many words (code, type, parameter, message), never in
a page of HTML, which a firewall wrote, and never in what it quotes of our request.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Literal, NamedTuple

from growbin.adapters.model.bounded_client import MOST_BODY_BYTES
from growbin.errors import GrowbinError, JobFailed, Throttled, Unavailable
from growbin.telemetry import metrics

LONGEST_RETRY_AFTER_SECONDS = 300.0  # a job's life; "come back tomorrow" is worth another look before
_LONGEST_WORDS = 4_000  # characters of an error that are looked at
_LONGEST_CODE = 60
_SHORTEST_QUOTE = 6  # characters; to take out a letter or two would spoil the server's own words


class Whom(StrEnum):
    """Whom a refusal concerns; as metrics name it."""

    JOB = "job"
    EVERYBODY = "everybody"
    EITHER = "either"  # this job or everybody: only a probe can tell
    BUSY = "busy"  # just now
    AWAY = "away"  # just now


# What went wrong before there was a status.
Trouble = Literal["unsendable", "never sent", "cut", "timed out"]
# What we ask for beside the photo, and can do without.
Parameter = Literal["cap", "format", "detail", "effort"]


class Row(NamedTuple):
    of: frozenset[int | str]
    words: str  # any of these; an empty one fits whatever is said
    whom: Whom
    paid: Literal["no", "perhaps"]
    why: str
    parameter: Parameter | None = None


def _of(*kinds: int | Trouble | range) -> frozenset[int | str]:
    return frozenset(one for kind in kinds for one in (kind if isinstance(kind, range) else (kind,)))


_REQUEST = _of(400, 422)
_NO = _of(400, 403, 422)
_JOB, _ALL, _EITHER, _BUSY, _AWAY = Whom.JOB, Whom.EVERYBODY, Whom.EITHER, Whom.BUSY, Whom.AWAY

# fmt: off
TABLE: tuple[Row, ...] = (
    # --- before there was a status
    Row(_of("unsendable"), "", _ALL, "no", "it cannot be sent: see OPENAI_API_KEY and OPENAI_BASE_URL"),
    Row(_of("never sent"), "", _AWAY, "no", "nobody answers there"),
    Row(_of("cut"), "", _AWAY, "perhaps", "the connection was cut"),
    Row(_of("timed out"), "", _AWAY, "perhaps", "timed out"),

    # --- key, balance, address: whatever the photo is
    Row(_of(401, 407), "", _ALL, "no", "the key is refused"),
    Row(_NO, r"api.?key|unauthorized|unauthenticated|authentication", _ALL, "no", "the key is refused"),
    Row(_of(402), "", _ALL, "no", "the balance is used up"),
    Row(_of(429), r"insufficient_quota", _ALL, "no", "the quota is used up"),
    # Gemini words its rate as a quota to be looked up under billing, and says when to come again.
    Row(_of(429), r"(retry|try again) in|per.?(second|minute)|rate.?limit", _BUSY, "no", "too many calls"),
    Row(_of(429) | _NO, r"insufficient.{0,20}(quota|balance|credit|funds)|exceeded_current_quota|billing"
        r"|credit balance|spending limit|(any|available|more) credits|arrearage",
        _ALL, "no", "the balance is used up"),
    Row(_of(429), "", _BUSY, "no", "too many calls"),
    Row(_NO, r"unsupported_country|location is not supported", _ALL, "no", "it may not be used from here"),
    Row(_of(range(300, 400)), "", _ALL, "no", "OPENAI_BASE_URL leads elsewhere"),

    # --- a parameter of ours: the same for every photo. The adapter can do without most
    Row(_REQUEST, r"context.?(length|window)|maximum context", _EITHER, "no", "more than the model can read"),
    Row(_REQUEST, r"max_(completion_|output_)?tokens", _ALL, "no",
        "the cap is refused: see OPENAI_TOKEN_PARAMETER and OPENAI_MAX_TOKENS", "cap"),
    Row(_REQUEST, r"response_format|json_(schema|object)|guided_json|grammar|structured.?output|json.?mode",
        _ALL, "no", "the response format is refused: see OPENAI_RESPONSE_FORMAT", "format"),
    Row(_REQUEST, r"reasoning[_. ]?effort|'reasoning'", _ALL, "no",
        "the effort is refused: see OPENAI_REASONING_EFFORT", "effort"),
    Row(_REQUEST, r"image_url\W{1,3}detail|['\"`]detail['\"`]|image.detail", _ALL, "no",
        "the detail is refused: see OPENAI_IMAGE_DETAIL", "detail"),
    Row(_of(400, 404, 422, 500, 501), r"(image|vision|multi-?modal).{0,40} (is|are) not supported"
        r"|not support.{0,20}(image|vision|picture)|support image input|not a (multi-?modal|vision)"
        r"|image_url is only supported|unknown variant `?image_url|at most 0 image",
        _ALL, "no", "the model sees no pictures: see OPENAI_MODEL"),
    Row(_NO, r"model_not_found|(unknown|invalid|unsupported|no such) model|not a valid model"
        r"|model.{0,120} (does not exist|not found|is not available|decommissioned|deprecated)",
        _ALL, "no", "the model is unknown: see OPENAI_MODEL"),
    Row(_REQUEST, r"un(supported|known|recognized)[_ ](parameter|request argument|field|value)"
        r"|extra_forbidden|extra inputs|additional propert",
        _ALL, "no", "something that every call has is refused"),
    Row(_of(404, 405, 406, 410, 411, 414, 415, 421, 426, 431), "", _ALL, "no",
        "model or address are unknown: see OPENAI_MODEL and OPENAI_BASE_URL"),

    # --- the photo, or what is asked about it
    Row(_NO | _of(451), r"content.?(policy|filter|management)|policy.?violation|moderation|flagged|safety"
        r"|prohibited|responsible.?ai|inappropriate|sensitive|data_inspection",
        _JOB, "no", "the content is refused"),
    Row(_REQUEST, r"image|picture|photo|base64|media.?type|mime|pixel", _JOB, "no", "the photo is refused"),
    Row(_of(413), "", _JOB, "no", "the photo is too large for it"),

    # --- just now
    Row(_of(425, 503, 529), "", _BUSY, "no", "overloaded, or loading"),
    Row(_of(521, 522, 523, 525, 526, 530), "", _AWAY, "no", "a proxy found nobody behind it"),
    Row(_of(408, 409, 499), "", _AWAY, "perhaps", "given up half-way"),
    Row(_of(range(500, 600)), "", _AWAY, "perhaps", "the server failed"),

    # --- a firewall because of one question, or a right that is missing: only a probe can tell
    Row(_of(range(400, 500)), "", _EITHER, "no", "refused without a reason that we know"),
)
# fmt: on
_ANYTHING_ELSE = Row(frozenset(), "", _AWAY, "perhaps", "an answer that HTTP does not know")


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the table says, with what the server said."""

    row: Row
    reason: str
    retry_after_seconds: float | None = None

    def error(self) -> GrowbinError:
        """As today's consumer knows it; counted."""
        whom, wait = self.row.whom, self.retry_after_seconds
        metrics.model_refusals.labels(whom=whom).inc()
        if self.row.paid == "perhaps":
            return Unavailable("model", self.reason, retry_after_seconds=wait)
        if whom is Whom.JOB:
            failed = JobFailed("model_refused", self.reason)
            failed.was_paid = False
            return failed
        return Throttled(
            self.reason,
            retry_after_seconds=wait,
            broken=whom in (Whom.EVERYBODY, Whom.EITHER),
            doubtful=whom is Whom.EITHER,
            away=whom is Whom.AWAY,
        )


def refusal_of(
    status: int, body: bytes, headers: Mapping[str, str], *, secret: str = "", question: str | None = None
) -> Refusal:
    """What an answer other than 2xx means. `headers` are looked up in lower case; `secret` is what the
    reason must not hold, `question` a stranger's words, which may be quoted and decide nothing."""
    code, words = _said(body)
    if question and len(question) >= _SHORTEST_QUOTE:
        words = words.replace(question, " ").replace(json.dumps(question, ensure_ascii=False)[1:-1], " ")
    code = "" if secret and code_of(secret) in code else code
    row = row_of(status, words)
    reason = f"{status} {code}: {row.why}" if code else f"{status}: {row.why}"
    return Refusal(row, reason, retry_after_seconds(headers))


def trouble(kind: Trouble) -> Refusal:
    """What a call means that got no status."""
    row = row_of(kind, "")
    return Refusal(row, row.why)


def row_of(kind: int | Trouble, words: str) -> Row:
    for row in TABLE:
        if kind in row.of and re.search(row.words, words, re.IGNORECASE):
            return row
    return _ANYTHING_ELSE


def code_of(told: object) -> str:
    """A code as it may stand in a log: a server can put anything there."""
    return re.sub(r"[^\w.-]", "", str(told))[:_LONGEST_CODE] if isinstance(told, str | int) else ""


# --- what the server says ---------------------------------------------------------------------------

_SPOKEN = ("code", "type", "param", "status", "message", "msg", "detail", "error", "loc", "errors", "reason")


def _said(body: bytes) -> tuple[str, str]:
    """Its code, and all its words. `{"error": {...}}` is OpenAI's; others have a list around it, a text in
    its place, or a validator's list of problems."""
    text = body.decode(errors="replace") if len(body) <= MOST_BODY_BYTES else ""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return "", "" if "<" in text else text[:_LONGEST_WORDS]
    try:
        words = " ".join(_spoken(told))[:_LONGEST_WORDS]
    except RecursionError:
        words = ""
    told = told[0] if isinstance(told, list) and told else told
    error = told.get("error", told) if isinstance(told, dict) else None
    if not isinstance(error, dict):
        return "", words
    named = [one for one in (error.get("code"), error.get("type")) if isinstance(one, str) and one]
    return code_of(named[0]) if named else "", words


def _spoken(told: object) -> Iterator[str]:
    """All texts under the names that servers speak by; not `input` and the like, which quote us."""
    if isinstance(told, str):
        yield told
    elif isinstance(told, list):
        # A validator's place, as in ["body", "image_url", "detail"], reads like a path.
        if all(isinstance(one, str | int) for one in told):
            yield ".".join(map(str, told))
        else:
            for one in told:
                yield from _spoken(one)
    elif isinstance(told, dict):
        for name in _SPOKEN:
            yield from _spoken(told.get(name))


# --- when to come again -----------------------------------------------------------------------------


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """What the server asks for: `retry-after-ms`, else Retry-After in seconds or as an HTTP date (RFC 9110
    section 10.2.3). None for anything else."""
    milliseconds = _number(headers.get("retry-after-ms"))
    asked = milliseconds / 1000 if milliseconds is not None else _seconds(headers.get("retry-after"))
    return None if asked is None else min(max(asked, 0.0), LONGEST_RETRY_AFTER_SECONDS)


def _seconds(header: str | None) -> float | None:
    seconds = _number(header)
    if seconds is not None or not header:
        return seconds
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    # A date without a zone is in GMT, as all dates of HTTP are.
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - datetime.now(UTC)).total_seconds()


def _number(header: str | None) -> float | None:
    try:
        number = float(header or "nan")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
