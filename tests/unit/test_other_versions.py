"""What another version wrote is read: more fields, fewer fields, other keys."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from growbin.adapters.rabbitmq.job_event import BadEvent, decode_event, encode_event
from growbin.adapters.redis.stored_values import parse_entry, read_answer
from growbin.analysis import parse_answer
from growbin.errors import JobFailed
from growbin.job import Job, LogEntry, ModelAnswer, Result, Upload
from growbin.usage import Usage

JOB_ID = uuid4()
JOB = Job(
    job_id=JOB_ID,
    key=f"incoming/{JOB_ID}.png",
    etag="e1",
    length=1000,
    content_type="image/png",
    owner="a" * 64,
    accepted_at_ms=1_700_000_000_000,
    deadline_ms=1_700_000_300_000,
)


def event(**data: Any) -> bytes:
    """The event of JOB with other data; None takes a field out."""
    whole = json.loads(encode_event(JOB))
    changed = whole["data"] | data
    whole["data"] = {name: value for name, value in changed.items() if value is not None}
    return json.dumps(whole | {"another_version_wrote_this": 1}).encode()


def test_event_with_unknown_fields_is_the_same_job() -> None:
    """A field that a newer gateway added is ignored, at both levels."""
    assert decode_event(event(address_v6_hash="b" * 64, hints={"flash": True})) == JOB


def test_event_without_what_is_optional_gets_defaults() -> None:
    """An older or leaner writer leaves out what has a default."""
    job = decode_event(event(content_type=None, locale=None, run=None, address_hash=None))
    assert (job.content_type, job.locale, job.run, job.address_hash) == ("image/jpeg", "ko", 1, None)


@pytest.mark.parametrize(
    ("key", "public_key", "public_type"),
    [
        (f"incoming/{JOB_ID}", f"{JOB_ID}.jpg", "image/jpeg"),
        (f"incoming/{JOB_ID}.jpg", f"{JOB_ID}.jpg", "image/jpeg"),
        (f"incoming/{JOB_ID}.png", f"{JOB_ID}.png", "image/png"),
        (f"incoming/{JOB_ID}.webp", f"{JOB_ID}.webp", "image/webp"),
    ],
)
def test_both_shapes_of_a_key_are_read(key: str, public_key: str, public_type: str) -> None:
    """A key with an extension keeps the public name and type that were promised; one without means JPEG."""
    job = decode_event(event(key=key))
    assert (job.public_key, job.public_type) == (public_key, public_type)


def test_type_that_only_a_newer_gateway_takes_is_no_bad_event() -> None:
    """Whether a photo can be decoded is found out from its bytes."""
    assert decode_event(event(content_type="image/heic")).content_type == "image/heic"


@pytest.mark.parametrize(
    "data",
    [
        {"accepted_at_ms": 10**17},
        {"deadline_ms": 2**53},
        {"deadline_ms": -1},
        {"run": 2**40},
        {"etag": "a\r\nHost: elsewhere"},
        {"owner": "\ud800"},
        {"question": "\ud800"},
        {"key": f"incoming/{JOB_ID}/../{JOB_ID}.jpg"},
    ],
)
def test_event_that_could_not_be_worked_on_is_a_bad_event(data: dict[str, Any]) -> None:
    """What would break a later step is refused when it is read, with the job's id."""
    with pytest.raises(BadEvent) as refused:
        decode_event(event(**data))
    assert refused.value.job_id == JOB_ID


def test_record_with_unknown_fields_is_read() -> None:
    """The record of a ticket may have been written by a newer gateway."""
    record = Upload(
        job_id=JOB_ID,
        owner="a" * 64,
        key=f"incoming/{JOB_ID}",
        image_url="http://cdn.test/x.jpg",
        created_at_ms=1,
        ticket_expires_at_ms=2,
    )
    newer = json.loads(record.model_dump_json()) | {"address_hash_v6": "b", "declared_type": "image/heic"}
    assert Upload.model_validate(newer) == record.model_copy(update={"declared_type": "image/heic"})


def test_null_is_as_good_as_a_missing_field() -> None:
    """Another version may write what it does not know as null."""
    whole = json.loads(encode_event(JOB))
    whole["data"] |= {"content_type": None, "locale": None, "run": None}
    job = decode_event(json.dumps(whole).encode())
    assert (job.content_type, job.locale, job.run) == ("image/jpeg", "ko", 1)


def test_record_that_was_published_without_its_stamps_is_none() -> None:
    """From a record that says published, the job event can always be made again."""
    with pytest.raises(ValueError, match="not stamped"):
        Upload(
            job_id=JOB_ID,
            owner="a" * 64,
            key=f"incoming/{JOB_ID}",
            image_url="",
            created_at_ms=1,
            ticket_expires_at_ms=2,
            published=True,
        )


def test_kept_answer_of_another_version_is_used() -> None:
    """It was paid for: unknown fields are ignored, missing ones have defaults."""
    assert read_answer('{"text":"{}","usage":{"thoughts":7},"finish":"stop"}') == ModelAnswer(
        text="{}", usage=Usage()
    )


@pytest.mark.parametrize(
    "odd", ['"usage":null', '"usage":7', '"model":null', '"usage":{"input_tokens":null}', '"analyse_ms":1.5']
)
def test_text_of_a_kept_answer_is_used_whatever_is_odd_beside_it(odd: str) -> None:
    """It was paid for."""
    assert read_answer(f'{{"text":"{{}}",{odd}}}').text == "{}"


@pytest.mark.parametrize("text", ["", "null", "{}", '{"text":null}', '{"text":7}', "\x00"])
def test_kept_answer_that_cannot_be_read_fails_the_job_and_is_not_paid_again(text: str) -> None:
    """It becomes an answer without sense, never no answer."""
    with pytest.raises(JobFailed, match="model_answer_invalid"):
        parse_answer(read_answer(text))


STORED_RESULT: dict[str, Any] = {
    "job_id": str(JOB_ID),
    "image_url": "",
    "locale": "en",
    "waste_type": "",
    "items": [],
    "answer": None,
    "sure": False,
    "ask_back": None,
    "model": "m",
    "usage": {"cached_tokens": 1},
    "photo": {"source": "cdn", "cache": None, "bytes": 1, "pixels": 2},
    "timings_ms": {"queue": 1, "fetch": 1, "prepare": 1, "analyse": 1, "total": 4},
    "analysed_at": "2026-01-01T00:00:00.000Z",
}


@pytest.mark.parametrize("ask_back", [None, "Closer, please.", {"reason": "far", "text": "Closer, please."}])
def test_doubt_is_read_as_text_and_as_object(ask_back: object) -> None:
    """`ask_back` was a text and became an object."""
    read = Result.model_validate(STORED_RESULT | {"ask_back": ask_back}).ask_back
    assert (read if read is None or isinstance(read, str) else read.text) in (None, "Closer, please.")


def test_result_without_a_certainty_is_read_and_gets_none() -> None:
    """An earlier version wrote only `sure`, and nobody guesses now what it would have been."""
    assert Result.model_validate(STORED_RESULT).certainty is None
    assert Result.model_validate(STORED_RESULT | {"certainty": "probable"}).certainty == "probable"


def test_analysis_of_an_earlier_version_is_read_without_a_doubt() -> None:
    """Kept answers, and models that follow an older schema, say nothing of it."""
    analysis = parse_answer(read_answer('{"text":"{\\"items\\":[],\\"answer\\":null}"}'))
    assert (analysis.doubt, analysis.choices) == (None, [])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "abc.1.def",
        "abc.1.def progress",
        "abc.1.def notice {}",
        "abc.x.def done {}",
        'abc.1.d done "',
    ],
)
def test_log_entry_of_another_shape_is_none(text: str) -> None:
    """What a stream could not go on from is not an entry."""
    assert parse_entry(text) is None


def test_log_entry_is_handed_on_as_it_was_written() -> None:
    """Whatever a newer version put into the data arrives."""
    assert parse_entry('abc.1.def done {"new": [1]}') == LogEntry("abc.1.def", "done", '{"new": [1]}')
