"""One photo without a job: the consumer's steps, and what their failures become."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from growbin.certainty import Thresholds
from growbin.consumer.one_photo import analyse_photo
from growbin.errors import JobFailed, Throttled
from growbin.job import CleanPhoto, ContentType, Locale, ModelAnswer
from growbin.measurements import PhotoAnswer
from growbin.rules.overlay import load_rulebook
from growbin.usage import Usage

USAGE = Usage(input_tokens=7, output_tokens=3)
THRESHOLDS = {"scripted": Thresholds(sure=0.5, probable=0.4)}  # by the model that answers


def item(category: str, material: str | None, confidence: float) -> dict[str, object]:
    return {
        "name": "thing",
        "category": category,
        "material": material,
        "confidence": confidence,
        "condition": [],
    }


class Cleaner:
    async def clean(self, data: bytes, target: ContentType, **_: object) -> CleanPhoto:
        if not data:
            raise JobFailed("photo_unreadable")
        return CleanPhoto(data, target, 1, 1)


@dataclass
class Analyst:
    text: str
    error: Exception | None = None

    async def ask(self, photo: CleanPhoto, question: str | None, locale: Locale) -> ModelAnswer:
        if self.error:
            raise self.error
        return ModelAnswer(text=self.text, model="scripted", usage=USAGE)


async def analyse(analyst: Analyst, data: bytes = b"photo") -> PhotoAnswer:
    return await analyse_photo(
        data,
        cleaner=Cleaner(),
        analyst=analyst,
        rules=load_rulebook(None),
        locale="en",
        thresholds_of=THRESHOLDS.__getitem__,
    )


async def test_first_item_is_the_most_confident() -> None:
    """Whatever order the model has."""
    items = [item("general", None, 0.3), item("recyclable", "glass", 0.6)]
    seen = await analyse(Analyst(json.dumps({"items": items, "answer": None})))
    assert seen.item is not None
    assert (seen.item.material, seen.is_sure, seen.failure) == ("glass", True, None)


async def test_doubt_of_the_model_is_not_sure() -> None:
    """The same function decides as for a job."""
    said = {"items": [item("recyclable", "glass", 0.9)], "answer": None}
    assert (await analyse(Analyst(json.dumps(said)))).is_sure
    assert not (await analyse(Analyst(json.dumps(said | {"doubt": "dark"})))).is_sure


async def test_nothing_seen_is_an_answer_that_is_not_sure() -> None:
    """As a job would end: done, with a question back."""
    seen = await analyse(Analyst('{"items": [], "answer": null}'))
    assert seen.item is not None
    assert (seen.item.category, seen.item.confidence, seen.is_sure) == ("unclassified", 0, False)


async def test_invalid_answer_is_a_failure_that_was_paid_for() -> None:
    """Its tokens count all the same."""
    seen = await analyse(Analyst("I see a bottle."))
    assert (seen.item, seen.failure) == (None, "model_answer_invalid")
    assert seen.answer is not None
    assert seen.answer.usage == USAGE


@pytest.mark.parametrize(
    ("data", "error", "code"),
    [
        (b"", None, "photo_unreadable"),
        (b"photo", JobFailed("model_refused"), "model_refused"),
        (b"photo", Throttled("403", broken=True, doubtful=True), "model_refused"),
    ],
)
async def test_photo_that_fails_is_told_by_its_code(data: bytes, error: Exception | None, code: str) -> None:
    """Neither has an answer."""
    seen = await analyse(Analyst("", error), data)
    assert (seen.failure, seen.item, seen.answer) == (code, None, None)


async def test_model_that_asks_for_patience_leaves_the_photo_without_an_answer() -> None:
    """Who asked decides how long to wait."""
    with pytest.raises(Throttled):
        await analyse(Analyst("", Throttled("429")))
