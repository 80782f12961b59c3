"""What models accept: the catalogue, and calls to servers that behave as the models do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, get_args

import aiohttp
import pytest
from prometheus_client import REGISTRY

from growbin.adapters.model.analyst import OpenAIAnalyst
from growbin.adapters.model.request import MOST_ANSWER_TOKENS, MOST_REASONING_TOKENS
from growbin.analysis import parse_answer
from growbin.capabilities import (
    CALL_SETTINGS,
    CallWishes,
    Effort,
    EffortRefused,
    capabilities_of,
    thresholds_of,
)
from growbin.config import load_settings
from growbin.errors import JobFailed
from growbin.job import CleanPhoto, ModelAnswer
from growbin.taxonomy import Material
from growbin.usage import Usage, load_prices
from tests.model_personalities import (
    ANSWER_TOKENS,
    GPT_4O,
    INPUT_TOKENS,
    LUNA,
    Personality,
    PersonalityServer,
)

PHOTO = CleanPhoto(b"\xff\xd8\xff photo", "image/jpeg", 4, 3)
EFFORTS: tuple[Effort, ...] = get_args(Effort)
EMBEDDED = "growbin-embedded"
ALL_EFFORTS = ("none", "low", "medium", "high", "xhigh", "max")


def counted() -> dict[str, float]:
    """The tokens counted until now."""
    kinds = ("input", "output", "reasoning")
    values = {kind: REGISTRY.get_sample_value("growbin_model_tokens_total", {"kind": kind}) for kind in kinds}
    return {kind: value for kind, value in values.items() if value is not None}


def counted_since(before: dict[str, float]) -> dict[str, float]:
    return {kind: value - before[kind] for kind, value in counted().items()}


async def ask(server: PersonalityServer, wishes: CallWishes | None = None) -> ModelAnswer:
    name = server.personality.model
    async with OpenAIAnalyst.open(
        api_key="sk-x", base_url=server.url, model=name, wishes=wishes, timeout_seconds=5
    ) as analyst:
        return await analyst.ask(PHOTO, None, "ko")


# --- the catalogue ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "efforts"),
    [
        ("gpt-6-luna", ALL_EFFORTS),
        ("openai/gpt-6-luna", ALL_EFFORTS),
        ("gpt-5.1-2025-11-13", ("none", "low", "medium", "high")),
        ("gpt-5", ("minimal", "low", "medium", "high")),
        ("gpt-5-mini-2025-08-07", ("minimal", "low", "medium", "high")),
        ("gpt-5-pro-2025-10-06", ("high",)),
        ("o4-mini", ("low", "medium", "high")),
        ("gpt-4o", ()),
        ("gpt-4o-2024-08-06", ()),
        ("gpt-4o-mini", ()),
        ("openai/gpt-4o", ()),
        ("openai/gpt-4o:extended", ()),
        ("ft:gpt-4o-2024-08-06:org::id", ()),
        ("gpt-4.1-nano", ()),
        (EMBEDDED, ()),
        ("gpt-5.4", None),
        ("gpt-5-chat-latest", None),  # refuses what gpt-5 accepts
        ("gpt-5.1-chat-latest", None),
        ("gpt-5-codex", None),
        ("gpt-50", None),
        ("gpt-4", None),
        ("o3000", None),
        ("scripted-model", None),
        ("my-gpt-4o", None),
        ("", None),
    ],
)
def test_model_is_known_by_its_name_or_the_beginning_of_it(
    model: str, efforts: tuple[str, ...] | None
) -> None:
    """Snapshots and provider prefixes belong to their model; a name that is only alike does not."""
    assert capabilities_of(model).efforts == efforts


def test_longest_fitting_name_wins() -> None:
    """A row for a variant stands above the row for its family, wherever it stands in the file."""
    names = [name for row in catalogue() for name in row["names"]]
    for name in names:
        assert name in capabilities_of(f"{name}-2027-01-01").names


def test_each_row_names_its_source_and_efforts_from_the_least() -> None:
    """Where it was seen, and when; the first effort is the one that is sent by default."""
    for row in catalogue():
        assert "seen 2026-11-26" in row["source"] or row["names"] == [EMBEDDED]
        ranks = [EFFORTS.index(effort) for effort in row["efforts"]]
        assert ranks == sorted(set(ranks))


@pytest.mark.parametrize(
    ("answered", "configured", "thresholds"),
    [
        (EMBEDDED, "gpt-5", EMBEDDED),
        ("gpt-5-2025-08-07", EMBEDDED, "gpt-5"),
        ("a-name-of-its-own", EMBEDDED, EMBEDDED),
        ("unknown", EMBEDDED, EMBEDDED),
        ("unknown", "scripted-model", "scripted-model"),
    ],
)
def test_thresholds_are_those_of_the_model_that_answered(
    answered: str, configured: str, thresholds: str
) -> None:
    """A kept answer may be another model's; where its name tells nothing, the configured one is meant."""
    assert capabilities_of(EMBEDDED).certainty != capabilities_of("gpt-5").certainty
    found = thresholds_of(answered, configured=configured, sure_threshold=None)
    assert found == capabilities_of(thresholds).certainty


@pytest.mark.parametrize("sure", [0.0, 0.3, 0.95])
def test_threshold_that_is_set_overrides_the_models_own(sure: float) -> None:
    """Then nothing from there on is only probable."""
    own = thresholds_of("gpt-5", configured="gpt-5", sure_threshold=None)
    found = thresholds_of("gpt-5", configured="gpt-5", sure_threshold=sure)
    assert (found.sure, found.probable) == (sure, min(own.probable, sure))


def catalogue() -> list[dict[str, Any]]:
    data = json.loads(files("growbin").joinpath("data/models.json").read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = data["models"]
    return rows


@pytest.mark.parametrize(
    ("model", "wanted", "sent"),
    [
        ("gpt-6-luna", None, "none"),
        ("gpt-6-luna", "max", "max"),
        ("gpt-5", None, "minimal"),
        ("o3", None, "low"),
        ("gpt-4o", None, None),
        ("gpt-4o", "none", None),
        ("scripted-model", None, None),
        ("scripted-model", "none", "none"),
        ("scripted-model", "minimal", "minimal"),
    ],
)
def test_effort_is_the_wanted_one_or_the_least(
    model: str, wanted: Effort | None, sent: Effort | None
) -> None:
    """Unset means as little thinking as can be had; what a model does not take is left out."""
    assert capabilities_of(model).effort(model, wanted) == sent


@pytest.mark.parametrize(
    ("model", "wanted", "words"),
    [
        ("gpt-6-luna", "minimal", "it accepts none, low, medium, high, xhigh, max"),
        ("gpt-5", "none", "it accepts minimal, low, medium, high"),
        ("gpt-4o", "low", "gpt-4o does not reason"),
    ],
)
def test_effort_that_a_known_model_refuses_is_named_with_what_it_accepts(
    model: str, wanted: Effort, words: str
) -> None:
    """One sentence, with the model, the variable, and the way out."""
    with pytest.raises(EffortRefused) as refusal:
        capabilities_of(model).effort(model, wanted)
    assert words in str(refusal.value)
    assert model in str(refusal.value)
    assert "OPENAI_REASONING_EFFORT" in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "value", "wishes"),
    [
        ("OPENAI_REASONING_EFFORT", "low", CallWishes(effort="low")),
        ("OPENAI_TOKEN_PARAMETER", "max_tokens", CallWishes(cap_parameter="max_tokens")),
        ("OPENAI_MAX_TOKENS", "4000", CallWishes(most_tokens=4000)),
        ("OPENAI_RESPONSE_FORMAT", "json_object", CallWishes(response_format="json_object")),
        ("OPENAI_IMAGE_DETAIL", "auto", CallWishes(detail="auto")),
    ],
)
def test_each_setting_of_a_call_becomes_its_wish(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, wishes: CallWishes
) -> None:
    """Nothing else of the call is changed by it; unset and empty are the same."""
    for each in CALL_SETTINGS:
        monkeypatch.setenv(each, value if each == name else "")
    assert load_settings().call_wishes == wishes


# --- calls ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("personality", [LUNA, GPT_4O], ids=lambda personality: personality.model)
async def test_call_without_an_effort_set_pays_for_the_answer_alone(personality: Personality) -> None:
    """Whether the model reasons by default or not at all: one call, one answer, no thinking billed."""
    before = counted()
    async with personality.serving() as server:
        answer = await ask(server)
    assert parse_answer(answer).items[0].material is Material.CLEAR_PET
    usage = Usage(input_tokens=INPUT_TOKENS, output_tokens=ANSWER_TOKENS)
    price = load_prices().of(personality.model)
    assert price is not None
    assert answer.usage == usage.model_copy(update={"cost_usd": float(price.cost_usd(usage))})
    [body] = server.bodies
    assert body["max_completion_tokens"] == MOST_ANSWER_TOKENS
    assert "max_tokens" not in body
    assert body.get("reasoning_effort") == ("none" if personality is LUNA else None)
    assert counted_since(before) == {"input": INPUT_TOKENS, "output": ANSWER_TOKENS, "reasoning": 0}


@pytest.mark.parametrize("effort", ALL_EFFORTS)
async def test_thinking_leaves_room_for_the_answer_and_is_counted(effort: Effort) -> None:
    """Reasoning is a part of the output and of the cap: the answer still comes whole."""
    thought = LUNA.thinks_tokens[effort]
    before = counted()
    async with LUNA.serving() as server:
        answer = await ask(server, CallWishes(effort))
    assert parse_answer(answer).items
    assert answer.usage.output_tokens == thought + ANSWER_TOKENS
    [body] = server.bodies
    room = 0 if effort == "none" else MOST_REASONING_TOKENS
    assert (body["reasoning_effort"], body["max_completion_tokens"]) == (effort, MOST_ANSWER_TOKENS + room)
    assert counted_since(before) == {
        "input": INPUT_TOKENS,
        "output": thought + ANSWER_TOKENS,
        "reasoning": thought,
    }


async def test_unknown_model_is_sent_an_effort_only_when_it_is_set() -> None:
    """Compatible servers refuse fields that they do not know; who sets one knows better."""
    unknown = Personality("scripted-model", thinks_tokens={"minimal": 100}, own_effort="minimal")
    async with unknown.serving() as server:
        await ask(server)
        await ask(server, CallWishes(effort="minimal"))
        await ask(server, CallWishes(effort="max"))  # refused by name: asked again without
    sent = [body.get("reasoning_effort", "absent") for body in server.bodies]
    assert sent == ["absent", "minimal", "max", "absent"]
    assert server.bodies[1]["max_completion_tokens"] == MOST_ANSWER_TOKENS + MOST_REASONING_TOKENS


async def test_thinking_that_ate_the_answer_is_counted_all_the_same() -> None:
    """An answer cut short fails the job, but it was paid for."""
    endless = Personality("scripted-model", thinks_tokens={"low": 10**6}, own_effort="low")
    before = counted()
    async with endless.serving() as server:
        with pytest.raises(JobFailed, match="OPENAI_MAX_TOKENS"):
            await ask(server)
    assert counted_since(before)["reasoning"] == MOST_ANSWER_TOKENS


async def test_cap_goes_by_the_name_that_is_set() -> None:
    """A setting may say `max_tokens`, and how many; then the other one is not sent."""
    async with GPT_4O.serving() as server:
        await ask(server, CallWishes(cap_parameter="max_tokens", most_tokens=777))
    assert server.bodies[0]["max_tokens"] == 777
    assert "max_completion_tokens" not in server.bodies[0]


# --- odd counts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OddCounts(Personality):
    """Tells `details` of its output."""

    details: object = None

    def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        answer = super().answer(body)
        answer["usage"]["completion_tokens_details"] = self.details
        return answer


@pytest.mark.parametrize(
    ("details", "reasoning"),
    [
        (None, 0),
        ({}, 0),
        ([], 0),
        ("many", 0),
        (7, 0),
        ({"reasoning_tokens": None}, 0),
        ({"reasoning_tokens": 12.0}, 12),
        ({"reasoning_tokens": "12"}, 12),
        ({"reasoning_tokens": "many"}, 0),
        ({"reasoning_tokens": -5}, 0),
        ({"reasoning_tokens": [12]}, 0),
        ({"reasoning_tokens": {"total": 12}}, 0),
        ({"reasoning_tokens": float("nan")}, 0),
        ({"reasoning_tokens": float("inf")}, 0),
        ({"reasoning_tokens": 10**400}, 0),
    ],
)
async def test_odd_detail_of_the_bill_loses_no_answer(details: object, reasoning: int) -> None:
    """What was paid for is kept, whatever shape the count of reasoning has."""
    before = counted()
    async with OddCounts("gpt-6-luna", LUNA.thinks_tokens, details=details).serving() as server:
        answer = await ask(server)
    assert parse_answer(answer).items
    assert counted_since(before)["reasoning"] == reasoning


# --- the personalities themselves -------------------------------------------------------------------


async def reply(personality: Personality, **fields: object) -> dict[str, Any]:
    """The error or completion that a call with these fields gets; the adapter would not send them."""
    schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    asked = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": schema}}
    body = {"model": personality.model, "messages": [], "response_format": asked, **fields}
    async with (
        personality.serving() as server,
        aiohttp.ClientSession() as session,
        session.post(f"{server.url}/chat/completions", json=body) as answer,
    ):
        told: dict[str, Any] = await answer.json()
    return told.get("error") or told


@pytest.mark.parametrize(
    ("personality", "fields", "parameter", "code"),
    [
        (LUNA, {"max_tokens": 9}, "max_tokens", "unsupported_parameter"),
        (LUNA, {"reasoning_effort": "minimal"}, "reasoning_effort", "unsupported_value"),
        (LUNA, {"reasoning_effort": None}, "reasoning_effort", "unsupported_value"),
        (GPT_4O, {"reasoning_effort": "none"}, "reasoning_effort", "unsupported_parameter"),
    ],
)
async def test_personality_refuses_what_its_model_refuses(
    personality: Personality, fields: dict[str, object], parameter: str, code: str
) -> None:
    """So a call that goes through here would go through there."""
    error = await reply(personality, **fields)
    assert (error["param"], error["code"]) == (parameter, code)


async def test_personality_that_reasons_spends_a_short_cap_on_thinking() -> None:
    """Without the effort field it thinks, bills it, and has nothing left for the answer."""
    answer = await reply(LUNA, max_completion_tokens=MOST_ANSWER_TOKENS)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["message"]["content"] == ""
    assert answer["usage"]["completion_tokens"] == MOST_ANSWER_TOKENS
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == MOST_ANSWER_TOKENS
