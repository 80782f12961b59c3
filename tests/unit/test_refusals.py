"""Whose refusal it is, row by row: what real servers say, and whom it concerns."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, get_args

import pytest

from growbin.adapters.model.bounded_client import MOST_BODY_BYTES
from growbin.adapters.model.refusals import (
    LONGEST_RETRY_AFTER_SECONDS,
    TABLE,
    Refusal,
    Trouble,
    Whom,
    refusal_of,
    retry_after_seconds,
    trouble,
)
from growbin.errors import JobFailed, Throttled, Unavailable

JOB, EVERYBODY, EITHER, BUSY, AWAY = Whom.JOB, Whom.EVERYBODY, Whom.EITHER, Whom.BUSY, Whom.AWAY


def openai_says(message: str, code: str | None = None, kind: str = "invalid_request_error") -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


def says(body: Any) -> bytes:
    return json.dumps(body).encode()


HTML = b"<html><body>Blocked. Your image, your API key and your max_tokens look bad.</body></html>"
EXTRA_FIELD = {"type": "extra_forbidden", "msg": "Extra inputs are not permitted", "input": 1500}

# As servers word it (status, body), whom it concerns, and the parameter that can be done without.
CASES: tuple[tuple[str, int, bytes, Whom, str | None], ...] = (
    ("bad key", 401, openai_says("Incorrect API key provided: sk-x.", "invalid_api_key"), EVERYBODY, None),
    ("key in html", 401, HTML, EVERYBODY, None),
    ("proxy wants a password", 407, b"", EVERYBODY, None),
    (
        "bad key as 400",
        400,
        says(
            [
                {
                    "error": {
                        "code": 400,
                        "message": "API key not valid. Please pass a valid API key.",
                        "status": "INVALID_ARGUMENT",
                    }
                }
            ]
        ),
        EVERYBODY,
        None,
    ),
    (
        "no balance",
        402,
        says({"error": {"message": "This request requires more credits, or fewer max_tokens.", "code": 402}}),
        EVERYBODY,
        None,
    ),
    ("no balance, in html", 402, HTML, EVERYBODY, None),
    (
        "quota",
        429,
        openai_says(
            "You exceeded your current quota, please check your plan and billing details.",
            "insufficient_quota",
        ),
        EVERYBODY,
        None,
    ),
    ("quota by type", 429, openai_says("no", None, "insufficient_quota"), EVERYBODY, None),
    (
        "balance as 429",
        429,
        says(
            {
                "error": {
                    "message": "Your account is suspended, please check your plan and billing",
                    "type": "exceeded_current_quota_error",
                }
            }
        ),
        EVERYBODY,
        None,
    ),
    (
        "balance as 400",
        400,
        says(
            {
                "type": "error",
                "error": {"type": "invalid_request_error", "message": "Your credit balance is too low"},
            }
        ),
        EVERYBODY,
        None,
    ),
    (
        "balance as 403",
        403,
        says({"error": "Your newly created team doesn't have any credits yet."}),
        EVERYBODY,
        None,
    ),
    (
        "rate worded as quota",
        429,
        says(
            [
                {
                    "error": {
                        "code": 429,
                        "message": "You exceeded your current quota, check billing. Please retry in 34.07s.",
                        "status": "RESOURCE_EXHAUSTED",
                    }
                }
            ]
        ),
        BUSY,
        None,
    ),
    ("rate", 429, openai_says("Rate limit reached", "rate_limit_exceeded", "tokens"), BUSY, None),
    ("rate without words", 429, b"", BUSY, None),
    ("rate in html", 429, HTML, BUSY, None),
    (
        "country",
        403,
        openai_says("Country not supported", "unsupported_country_region_territory"),
        EVERYBODY,
        None,
    ),
    (
        "place",
        400,
        says({"error": {"message": "User location is not supported for the API use."}}),
        EVERYBODY,
        None,
    ),
    ("moved", 301, b"", EVERYBODY, None),
    ("login page", 302, HTML, EVERYBODY, None),
    (
        "context",
        400,
        openai_says(
            "'max_tokens' is too large: 1500. This model's maximum context length is 2048 tokens", None
        ),
        EITHER,
        None,
    ),
    ("context by code", 400, openai_says("Too long", "context_length_exceeded"), EITHER, None),
    (
        "cap by name",
        400,
        openai_says(
            "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            "unsupported_parameter",
        ),
        EVERYBODY,
        "cap",
    ),
    (
        "cap as a validator has it",
        422,
        says(
            {
                "object": "error",
                "message": {"detail": [{**EXTRA_FIELD, "loc": ["body", "max_completion_tokens"]}]},
            }
        ),
        EVERYBODY,
        "cap",
    ),
    ("cap too large", 400, openai_says("max_tokens is too large: 26500.", "invalid_value"), EVERYBODY, "cap"),
    (
        "format",
        400,
        openai_says("'response_format.type' must be 'json_object' or 'text'"),
        EVERYBODY,
        "format",
    ),
    (
        "format of a model",
        400,
        openai_says(
            "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model."
        ),
        EVERYBODY,
        "format",
    ),
    (
        "grammar",
        400,
        says({"error": {"code": 400, "message": "Failed to parse grammar", "type": "invalid_request_error"}}),
        EVERYBODY,
        "format",
    ),
    (
        "effort",
        400,
        openai_says("Unrecognized request argument supplied: reasoning_effort"),
        EVERYBODY,
        "effort",
    ),
    ("detail", 400, openai_says("'messages.1' : property 'detail' is unsupported"), EVERYBODY, "detail"),
    (
        "detail as a validator has it",
        422,
        says({"detail": [{**EXTRA_FIELD, "loc": ["body", "messages", 1, "image_url", "detail"]}]}),
        EVERYBODY,
        "detail",
    ),
    (
        "blind",
        404,
        says({"error": {"message": "No endpoints found that support image input", "code": 404}}),
        EVERYBODY,
        None,
    ),
    (
        "blind as 500",
        500,
        says(
            {
                "error": {
                    "code": 500,
                    "message": "image input is not supported - hint: you may need the mmproj",
                }
            }
        ),
        EVERYBODY,
        None,
    ),
    (
        "blind as 400",
        400,
        openai_says("Invalid content type. image_url is only supported by certain models."),
        EVERYBODY,
        None,
    ),
    (
        "blind by its type",
        422,
        says({"detail": "messages[1]: unknown variant `image_url`, expected `text`"}),
        EVERYBODY,
        None,
    ),
    ("unknown model", 404, openai_says("The model `x` does not exist", "model_not_found"), EVERYBODY, None),
    (
        "unknown model as 400",
        400,
        says({"error": {"message": "x/y is not a valid model ID", "code": 400}}),
        EVERYBODY,
        None,
    ),
    (
        "unknown model, in a text",
        400,
        says({"error": "model 'x' not found, try pulling it first"}),
        EVERYBODY,
        None,
    ),
    (
        "unknown field",
        400,
        openai_says("Unknown parameter: 'messages[0].name'.", "unknown_parameter"),
        EVERYBODY,
        None,
    ),
    ("wrong address", 404, HTML, EVERYBODY, None),
    ("wrong method", 405, b"Method Not Allowed", EVERYBODY, None),
    (
        "flagged input",
        403,
        says(
            {
                "error": {
                    "message": "Your chosen model requires moderation and your input was flagged",
                    "code": 403,
                    "metadata": {"flagged_input": "api key"},
                }
            }
        ),
        JOB,
        None,
    ),
    (
        "content policy",
        400,
        says(
            {
                "error": {
                    "message": "filtered due to the prompt triggering our content management policy",
                    "code": "content_filter",
                }
            }
        ),
        JOB,
        None,
    ),
    ("not lawful", 451, openai_says("Refused by policy", "policy_violation"), JOB, None),
    ("image", 400, openai_says("You uploaded an unsupported image.", "invalid_image_format"), JOB, None),
    (
        "image that does not load",
        400,
        says({"error": {"code": 400, "message": "Failed to load image or audio file"}}),
        JOB,
        None,
    ),
    ("image, in a plain text", 422, b"cannot identify image file", JOB, None),
    ("large", 413, b"", JOB, None),
    ("large, in html", 413, HTML, JOB, None),
    (
        "loading",
        503,
        says({"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}),
        BUSY,
        None,
    ),
    (
        "overloaded",
        529,
        says({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
        BUSY,
        None,
    ),
    ("maintenance page", 503, HTML, BUSY, None),
    ("too early", 425, b"", BUSY, None),
    ("nobody behind the proxy", 522, HTML, AWAY, None),
    ("bad request", 400, b"", EITHER, None),
    ("bad request, in html", 400, HTML, EITHER, None),
    ("firewall", 403, HTML, EITHER, None),
    ("unprocessable", 422, says({"detail": "no"}), EITHER, None),
    ("teapot", 418, b"I'm a teapot", EITHER, None),
    ("nested too deep", 400, b"[" * 5000 + b"]" * 5000, EITHER, None),
    ("no text", 400, b"\xff\xfe\xfd", EITHER, None),
    ("long as a film", 400, b"image " * MOST_BODY_BYTES, EITHER, None),
    ("quotes us", 400, says({"error": {"message": "no", "input": "image max_tokens api key"}}), EITHER, None),
)
PERHAPS_PAID: tuple[tuple[str, int, bytes], ...] = (
    ("failed", 500, openai_says("The server had an error", "server_error", "server_error")),
    ("bad gateway", 502, HTML),
    ("gateway timed out", 504, HTML),
    ("proxy timed out", 524, HTML),
    ("request timed out", 408, b""),
    ("conflict", 409, b""),
    ("client closed", 499, b""),
    ("of no class", 600, b""),
)
TROUBLES: dict[Trouble, tuple[Whom, str]] = {
    "unsendable": (EVERYBODY, "no"),
    "never sent": (AWAY, "no"),
    "cut": (AWAY, "perhaps"),
    "timed out": (AWAY, "perhaps"),
}


@pytest.mark.parametrize(
    ("status", "body", "whom", "parameter"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_refusal_before_work_began_is_not_paid_and_concerns_who_it_says(
    status: int, body: bytes, whom: Whom, parameter: str | None
) -> None:
    """By status and words: this job, everybody, just now, or only a probe can tell."""
    row = refusal_of(status, body, {}).row
    assert (row.whom, row.paid, row.parameter) == (whom, "no", parameter)


@pytest.mark.parametrize(
    ("status", "body"), [case[1:] for case in PERHAPS_PAID], ids=[case[0] for case in PERHAPS_PAID]
)
def test_failure_half_way_is_perhaps_paid(status: int, body: bytes) -> None:
    """Nobody can tell whether the model had answered."""
    refusal = refusal_of(status, body, {"retry-after": "3"})
    error = refusal.error()
    assert (refusal.row.whom, refusal.row.paid) == (AWAY, "perhaps")
    assert type(error) is Unavailable
    assert error.retry_after_seconds == 3


@pytest.mark.parametrize("kind", get_args(Trouble))
def test_call_without_a_status_is_paid_only_where_it_was_sent(kind: Trouble) -> None:
    """What never left us cost nothing; what was cut or timed out may have."""
    refusal = trouble(kind)
    assert (refusal.row.whom, refusal.row.paid) == TROUBLES[kind]
    assert isinstance(refusal.error(), Throttled) == (refusal.row.paid == "no")


def test_each_row_of_the_table_is_tried() -> None:
    """A row that no case comes to is either dead or a guess."""
    tried = [refusal_of(status, body, {}).row for _, status, body, _, _ in CASES]
    tried += [refusal_of(status, body, {}).row for _, status, body in PERHAPS_PAID]
    tried += [trouble(kind).row for kind in TROUBLES]
    assert [row for row in TABLE if row not in tried] == []


@pytest.mark.parametrize(
    ("whom", "broken", "doubtful", "away"),
    [
        (EVERYBODY, True, False, False),
        (EITHER, True, True, False),
        (BUSY, False, False, False),
        (AWAY, False, False, True),
    ],
)
def test_unpaid_refusal_throttles(whom: Whom, broken: bool, doubtful: bool, away: bool) -> None:
    """The consumer learns what to do next: wait for a person, ask the probe, slow down, or wait."""
    row = next(row for row in TABLE if (row.whom, row.paid) == (whom, "no"))
    error = Refusal(row, "why", 7).error()
    assert isinstance(error, Throttled)
    assert (error.broken, error.doubtful, error.away) == (broken, doubtful, away)
    assert (error.reason, error.retry_after_seconds) == ("why", 7)


def test_refusal_of_this_photo_fails_its_job() -> None:
    """And no other."""
    error = refusal_of(400, openai_says("no", "invalid_image"), {}).error()
    assert isinstance(error, JobFailed)
    assert str(error) == "model_refused: 400 invalid_image: the photo is refused"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            openai_says("Incorrect key: sk-SECRET", "invalid_api_key"),
            "401 invalid_api_key: the key is refused",
        ),
        (openai_says("no", "no such sk-SECRET"), "401: the key is refused"),
        (openai_says("no", None, "auth\n\x1b[31m<b>"), "401 auth31mb: the key is refused"),
        (says({"error": {"message": "no", "code": 401}}), "401: the key is refused"),
        (b"sk-SECRET", "401: the key is refused"),
        (says(["sk-SECRET"]), "401: the key is refused"),
    ],
)
def test_reason_says_status_code_and_meaning_and_never_the_key(body: bytes, reason: str) -> None:
    """One plain sentence for the log, whatever the server says."""
    assert refusal_of(401, body, {}, secret="sk-SECRET").reason == reason


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"retry-after": "7"}, 7, 7),
        ({"retry-after": "0.5"}, 0.5, 0.5),
        ({"retry-after": " 7 "}, 7, 7),
        ({"retry-after": "0"}, 0, 0),
        ({"retry-after": "-3"}, 0, 0),
        ({"retry-after": str(365 * 86_400)}, LONGEST_RETRY_AFTER_SECONDS, LONGEST_RETRY_AFTER_SECONDS),
        ({"retry-after-ms": "900"}, 0.9, 0.9),
        ({"retry-after-ms": "900", "retry-after": "1"}, 0.9, 0.9),
        ({"retry-after-ms": "soon", "retry-after": "1"}, 1, 1),
        ({"retry-after-ms": "1e9"}, LONGEST_RETRY_AFTER_SECONDS, LONGEST_RETRY_AFTER_SECONDS),
    ],
)
def test_time_to_wait_is_read_in_all_its_forms(headers: dict[str, str], least: float, most: float) -> None:
    """Seconds, fractions, milliseconds; never below none or beyond a job's life."""
    seconds = retry_after_seconds(headers)
    assert seconds is not None
    assert least <= seconds <= most


@pytest.mark.parametrize("question", ["max_tokens", 'my "api key"\nreasoning_effort'])
@pytest.mark.parametrize("quoted", ["{}", "Bad: {} in messages[1]"])
def test_question_that_is_quoted_decides_nothing(question: str, quoted: str) -> None:
    """Nobody stops the others by asking about our key or parameters."""
    for said in (question, json.dumps(question)[1:-1]):
        body = openai_says(quoted.format(said))
        assert refusal_of(400, body, {}).row.whom is EVERYBODY
        assert refusal_of(400, body, {}, question=question).row.whom is EITHER


def test_short_question_spoils_no_words() -> None:
    """Whoever asks "a" cannot hide a refusal that is everybody's."""
    assert refusal_of(400, openai_says("'max_tokens' is bad"), {}, question="a").row.whom is EVERYBODY


@pytest.mark.parametrize("zone", [" GMT", " -0000", ""])
@pytest.mark.parametrize(
    ("ahead_seconds", "least", "most"),
    [(60, 50, 60), (-60, 0, 0), (86_000, LONGEST_RETRY_AFTER_SECONDS, LONGEST_RETRY_AFTER_SECONDS)],
)
def test_date_to_come_again_is_a_time_to_wait(
    ahead_seconds: int, zone: str, least: float, most: float
) -> None:
    """Also one that has passed, is far away, or leaves out the zone, which is GMT."""
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead_seconds), usegmt=True)
    seconds = retry_after_seconds({"retry-after": date.replace(" GMT", zone)})
    assert seconds is not None
    assert least <= seconds <= most


@pytest.mark.parametrize(
    "header", ["soon", "nan", "inf", "1e999", "", "5, 5", "Mon, 99 Foo 2026 10:00:00 GMT", "\x00"]
)
def test_time_to_wait_that_is_none_is_not_guessed(header: str) -> None:
    """Who reads it has a pause of its own."""
    assert retry_after_seconds({"retry-after": header}) is None
    assert retry_after_seconds({}) is None
