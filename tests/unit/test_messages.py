"""The words for stages, failures and problems."""

import json
import re
from importlib.resources import files
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from growbin.job import Locale, Stage
from growbin.messages import Messages, failure, problem_title, problem_words, stage_message

LOCALES: tuple[Locale, ...] = get_args(Locale)
MESSAGES_TEXT = files("growbin").joinpath("data/messages.json").read_text(encoding="utf-8")

RETRYABLE = {
    "photo_missing": True,
    "photo_changed": True,
    "photo_too_large": False,
    "unsupported_photo": False,
    "photo_too_complex": False,
    "photo_unreadable": False,
    "model_refused": False,
    "model_answer_invalid": True,
    "temporarily_unavailable": True,
    "crashed": False,
    "internal": True,
    "dead_lettered": True,
    "bad_event": True,
}
PROBLEMS = [
    "upload_missing",
    "upload_expired",
    "photo_too_large",
    "unsupported_photo",
    "not_found",
    "unavailable",
    "backlog_full",
    "bad_request",
    "too_many_streams",
    "idempotency_key_reused",
    "forbidden_origin",
    "method_not_allowed",
    "length_required",
    "session_unknown",
    "too_many_requests",
    "too_many_unfinished",
    "bad_parameter",
    "not_done",
    "unsupported_encoding",
    "head_too_large",
    "head_too_slow",
    "too_many_connections",
]


def test_any_stage_has_its_own_words_in_both_languages() -> None:
    """No two stages read the same, so the person waiting sees the job move."""
    for locale in LOCALES:
        assert len({stage_message(stage, locale) for stage in Stage}) == len(Stage)


@pytest.mark.parametrize(("code", "retryable"), RETRYABLE.items())
def test_failure_code_has_its_own_words_and_says_whether_to_retry(code: str, retryable: bool) -> None:
    """Each failure tells what to do now, and whether the same photo may be sent again."""
    for locale in LOCALES:
        assert code == "internal" or failure(code, locale).detail != failure("internal", locale).detail
    assert failure(code, "ko").detail != failure(code, "en").detail
    assert failure(code, "en").retryable is retryable


def test_unknown_codes_read_as_internal() -> None:
    """A code that nobody gave words never leaves the client with nothing to show."""
    assert failure("moon_phase", "ko").detail == failure("internal", "ko").detail
    assert failure("moon_phase", "ko").retryable is failure("internal", "ko").retryable
    assert problem_title("moon_phase") == problem_title("internal")


def test_problem_codes_have_distinct_short_titles() -> None:
    """A title fits one line, starts with a capital and does not end like a sentence."""
    titles = [problem_title(code) for code in PROBLEMS]
    assert len({*titles, problem_title("internal")}) == len(PROBLEMS) + 1
    assert all(title[0].isupper() and len(title) <= 60 and not title.endswith(".") for title in titles)


def test_problems_speak_korean_to_who_reads_it() -> None:
    """Each code has a Korean title and sentence of its own; where the sentence alone would say too little,
    that of the refusal stands in it."""
    words = {code: problem_words(code, "Do `this`.", "ko") for code in [*PROBLEMS, "internal"]}
    assert all(
        re.search("[가-힣]", word.title) and re.search("[가-힣]", word.detail) for word in words.values()
    )
    assert len({word.title for word in words.values()}) == len(words)
    assert words["bad_request"].detail.endswith("Do `this`.")
    assert "{" not in "".join(word.detail for word in words.values())
    assert problem_words("not_found", "Do `this`.", "en").detail == "Do `this`."
    assert problem_words("moon_phase", "Do `this`.", "ko").detail == "Do `this`."


def test_messages_data_has_no_key_twice() -> None:
    """JSON keeps the last of two equal keys in silence; the data has none."""

    def without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
        assert len(dict(pairs)) == len(pairs), pairs
        return dict(pairs)

    json.loads(MESSAGES_TEXT, object_pairs_hook=without_repetition)


@pytest.mark.parametrize(
    ("section", "key", "value", "complaint"),
    [
        ("stages", "queued", {"ko": "기다려요."}, "queued"),
        ("stages", "dreaming", {"ko": "꿈꿔요.", "en": "Dreaming."}, "dreaming"),
        ("stages", "queued", None, "stages without words"),
        ("failures", "internal", None, "internal"),
        ("failures", "crashed", {"retryable": "perhaps", "detail": {"ko": "가", "en": "a"}}, "retryable"),
        ("problems", "not_found", " ", "not_found"),
    ],
)
def test_messages_data_with_a_mistake_is_refused(section: str, key: str, value: Any, complaint: str) -> None:
    """A missing language, an unknown stage or an empty text stops the load and is named."""
    data: dict[str, dict[str, Any]] = json.loads(MESSAGES_TEXT)
    if value is None:
        del data[section][key]
    else:
        data[section][key] = value
    with pytest.raises(ValidationError, match=complaint):
        Messages.model_validate_json(json.dumps(data))
