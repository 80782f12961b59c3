"""A server that refuses a parameter of ours by name is asked again at once without it, and from then on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from growbin.adapters.model.analyst import OpenAIAnalyst
from growbin.adapters.model.request import MOST_ANSWER_TOKENS, MOST_REASONING_TOKENS
from growbin.analysis import parse_answer
from growbin.capabilities import CallWishes
from growbin.errors import JobFailed, Throttled
from growbin.job import CleanPhoto
from growbin.taxonomy import Material
from tests.loopback import served
from tests.model_personalities import ANSWER

PHOTO = CleanPhoto(b"\xff\xd8\xff photo", "image/jpeg", 4, 3)
FENCED = f"```json\n{ANSWER}\n```"  # as a model writes without a response format

Body = dict[str, Any]
Refusal = tuple[int, Any] | None
Judge = Callable[[Body], Refusal]


class PickyServer:
    """Refuses what its judges do; a 200 otherwise."""

    def __init__(self, *judges: Judge) -> None:
        self.judges = judges
        self.bodies: list[Body] = []

    @property
    def sent(self) -> list[dict[str, Any]]:
        """Of each call what may be left out."""
        return [
            {
                "cap": next((name for name in ("max_completion_tokens", "max_tokens") if name in body), None),
                "format": body.get("response_format", {}).get("type"),
                "detail": body["messages"][1]["content"][-1]["image_url"].get("detail"),
                "effort": body.get("reasoning_effort"),
            }
            for body in self.bodies
        ]

    async def serve(self, request: web.BaseRequest) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        for judge in self.judges:
            if refusal := judge(body):
                return web.json_response(refusal[1], status=refusal[0])
        choice = {"message": {"content": FENCED}, "finish_reason": "stop"}
        return web.json_response({"model": "picky", "choices": [choice]})


@asynccontextmanager
async def analyst_of(server: PickyServer, wishes: CallWishes | None = None) -> AsyncIterator[OpenAIAnalyst]:
    async with (
        served(server.serve) as url,
        OpenAIAnalyst.open(
            api_key="sk-x", base_url=f"{url}/v1", model="picky", wishes=wishes, timeout_seconds=5
        ) as analyst,
    ):
        yield analyst


async def answered(analyst: OpenAIAnalyst, question: str | None = None) -> bool:
    answer = await analyst.ask(PHOTO, question, "ko")
    return parse_answer(answer).items[0].material is Material.CLEAR_PET


def error(message: str) -> Any:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


def no_completion_cap(body: Body) -> Refusal:
    problem = {"type": "extra_forbidden", "loc": ["body", "max_completion_tokens"], "input": 1500}
    return (422, {"message": {"detail": [problem]}}) if "max_completion_tokens" in body else None


def no_max_tokens(body: Body) -> Refusal:
    return (400, error("Unsupported parameter: 'max_tokens'")) if "max_tokens" in body else None


def no_schema(body: Body) -> Refusal:
    is_schema = body.get("response_format", {}).get("type") == "json_schema"
    return (400, error("'response_format.type' must be 'json_object' or 'text'")) if is_schema else None


def no_object(body: Body) -> Refusal:
    is_object = body.get("response_format", {}).get("type") == "json_object"
    return (400, error("'response_format.type' must be 'json_schema' or 'text'")) if is_object else None


def no_format(body: Body) -> Refusal:
    return (422, error("Unknown field: response_format")) if "response_format" in body else None


def no_detail(body: Body) -> Refusal:
    has_detail = "detail" in body["messages"][1]["content"][-1]["image_url"]
    return (400, error("'messages.1' : property 'detail' is unsupported")) if has_detail else None


def no_effort(body: Body) -> Refusal:
    return (400, error("reasoning_effort is not supported")) if "reasoning_effort" in body else None


WANTED = {"cap": "max_completion_tokens", "format": "json_schema", "detail": "low", "effort": None}


@pytest.mark.parametrize(
    ("judges", "wishes", "steps"),
    [
        ([no_completion_cap], CallWishes(), [{"cap": "max_tokens"}]),
        ([no_max_tokens], CallWishes(cap_parameter="max_tokens"), [{"cap": "max_completion_tokens"}]),
        ([no_schema], CallWishes(), [{"format": "json_object"}]),
        ([no_schema, no_object], CallWishes(), [{"format": "json_object"}, {"format": None}]),
        ([no_object], CallWishes(response_format="json_object"), [{"format": "json_schema"}]),
        ([no_detail], CallWishes(), [{"detail": None}]),
        ([no_effort], CallWishes(effort="low"), [{"effort": None}]),
        (
            [no_completion_cap, no_format, no_detail, no_effort],
            CallWishes(effort="high", detail="high"),
            [
                {"cap": "max_tokens"},
                {"format": "json_object"},
                {"format": None},
                {"detail": None},
                {"effort": None},
            ],
        ),
    ],
    ids=["cap", "other cap", "schema", "schema and object", "object", "detail", "effort", "all"],
)
async def test_refused_parameter_is_left_out_at_once_and_for_good(
    judges: list[Judge], wishes: CallWishes, steps: list[dict[str, Any]]
) -> None:
    """The same job is answered; the next call begins with what went through; one warning says so."""
    server = PickyServer(*judges)
    with capture_logs() as logs:
        async with analyst_of(server, wishes) as analyst:
            assert await answered(analyst)
            assert await answered(analyst)
    first = server.sent[0]
    assert server.sent == [
        *(first | before_and(steps, number) for number in range(len(steps) + 1)),
        server.sent[-1],
    ]
    assert server.sent[-1] == server.sent[-2]
    [told] = [line for line in logs if line["event"] == "model_parameter_refused"]
    assert told["log_level"] == "warning"


def before_and(steps: list[dict[str, Any]], number: int) -> dict[str, Any]:
    """All that was changed by then."""
    return {name: value for step in steps[:number] for name, value in step.items()}


async def test_calls_at_once_warn_once() -> None:
    """Each learns by itself; the operator is told once."""
    server = PickyServer(no_schema)
    with capture_logs() as logs:
        async with analyst_of(server) as analyst:
            assert all(await asyncio.gather(*(answered(analyst) for _ in range(8))))
    assert len([line for line in logs if line["event"] == "model_parameter_refused"]) == 1


@pytest.mark.parametrize(
    ("judges", "calls", "setting"),
    [
        ([no_completion_cap, no_max_tokens], 2, "OPENAI_MAX_TOKENS"),
        ([lambda _: (400, error("Bad reasoning_effort"))], 1, "OPENAI_REASONING_EFFORT"),
        ([lambda _: (400, error("Bad response_format"))], 3, "OPENAI_RESPONSE_FORMAT"),
        ([lambda _: (422, error("Bad 'detail'"))], 2, "OPENAI_IMAGE_DETAIL"),
    ],
    ids=["cap", "effort that was not sent", "format", "detail"],
)
async def test_parameter_that_nothing_is_left_of_is_for_a_person(
    judges: list[Judge], calls: int, setting: str
) -> None:
    """It is refused for every photo: nobody's job fails, and the operator reads which setting it is."""
    server = PickyServer(*judges)
    async with analyst_of(server) as analyst:
        with pytest.raises(Throttled) as raised:
            await analyst.ask(PHOTO, None, "ko")
    assert (raised.value.broken, raised.value.doubtful) == (True, False)
    assert setting in raised.value.reason
    assert len(server.bodies) == calls


async def test_refusal_that_quotes_a_question_changes_nothing_for_others() -> None:
    """Whoever asks about response_format may get himself refused, and nobody else a lesser call."""

    def quotes(body: Body) -> Refusal:
        said = json.dumps(body["messages"][1])
        return (400, error(f"Your image is refused: {said[:200]}")) if "Question" in said else None

    server = PickyServer(quotes)
    async with analyst_of(server) as analyst:
        with pytest.raises(JobFailed):
            await analyst.ask(PHOTO, "response_format max_tokens", "ko")
        assert await answered(analyst)
    assert server.sent == [WANTED, WANTED]


async def test_fallback_that_brought_no_answer_is_forgotten() -> None:
    """Only what has gone through is proved: the next call asks for all again."""
    answers: list[Refusal] = [(400, error("response_format?")), (503, error("Overloaded")), None]
    server = PickyServer(lambda _: answers.pop(0))
    async with analyst_of(server) as analyst:
        with pytest.raises(Throttled):
            await analyst.ask(PHOTO, None, "ko")
        assert await answered(analyst)
    assert server.sent == [WANTED, WANTED | {"format": "json_object"}, WANTED]


async def test_model_that_will_not_hear_of_an_effort_gets_room_to_think() -> None:
    """Nobody has told it to think less."""
    server = PickyServer(no_effort)
    async with analyst_of(server, CallWishes(effort="none")) as analyst:
        assert await answered(analyst)
    caps = [body["max_completion_tokens"] for body in server.bodies]
    assert caps == [MOST_ANSWER_TOKENS, MOST_ANSWER_TOKENS + MOST_REASONING_TOKENS]


@pytest.mark.parametrize(
    ("wishes", "sent"),
    [
        (CallWishes(cap_parameter="max_tokens"), {"cap": "max_tokens"}),
        (CallWishes(response_format="json_object"), {"format": "json_object"}),
        (CallWishes(response_format="none"), {"format": None}),
        (CallWishes(detail="auto"), {"detail": "auto"}),
        (CallWishes(detail="none"), {"detail": None}),
        (CallWishes(effort="low"), {"effort": "low"}),
    ],
)
async def test_what_is_set_is_sent(wishes: CallWishes, sent: dict[str, Any]) -> None:
    """A setting comes before the model's row."""
    server = PickyServer()
    async with analyst_of(server, wishes) as analyst:
        assert await answered(analyst)
    assert server.sent == [WANTED | sent]
