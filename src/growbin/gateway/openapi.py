"""The API described: an OpenAPI 3.1 document from the table of calls. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from growbin.gateway.answers import Notice
from growbin.gateway.problems import Problem, codes_of
from growbin.gateway.sessions import COOKIE
from growbin.job import ProgressEvent
from growbin.messages import problem_words


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    place: str  # "header" or "query"
    description: str
    schema: Mapping[str, object] = field(default_factory=lambda: {"type": "string"})


@dataclass(frozen=True, slots=True)
class Call:
    """One row of the route table. `answers` says what comes back: a model, a stream, or only a status."""

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    summary: str
    answers: Mapping[int, type[BaseModel] | None]
    refusals: Sequence[int] = ()
    body: type[BaseModel] | None = None
    parameters: Sequence[Parameter] = ()
    streams: bool = False
    session: Literal["none", "optional", "needed"] = "needed"
    headers: Sequence[str] = ()  # of its answers, by their names in HEADERS


JOB_ID = {
    "name": "job_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "format": "uuid"},
}
EVERY_REFUSAL = (400, 408, 429, 431, 500, 503)  # of connections, heads and parts
HEADERS = {
    "Content-Language": "ko or en, as the words are",
    "ETag": "of this answer; sent back as If-None-Match it may spare the body",
    "Location": "the job",
    "Preference-Applied": "the wait that was taken, at most 60 s",
    "RateLimit": "what is left: calls `r`, full again in `t` seconds (draft-ietf-httpapi-ratelimit-headers)",
    "RateLimit-Policy": "of session and address: `q` calls in `w` seconds",
    "Retry-After": "seconds to wait before the call is repeated",
    "WWW-Authenticate": "Bearer",
    "X-Request-ID": "name it when you report something",
}
COUNTED = ("RateLimit", "RateLimit-Policy")
SESSIONS: list[dict[str, list[str]]] = [{"cookie": []}, {"bearer": []}]
PHOTO_MAX_BYTES = 10 * 2**20  # unless set otherwise
STREAM = (
    "Each event's `data` is one JSON text of the named schema. An event `notice` has no id: a part that the "
    "job needs is away, told once for each outage, or its place in line has fallen. Ignore events that you "
    "do not know."
)


def describe(calls: Sequence[Call], photo_max_bytes: int = PHOTO_MAX_BYTES) -> dict[str, Any]:
    """The OpenAPI document of `calls`."""
    answered = {model for call in calls for model in call.answers.values() if model}
    taken = {call.body for call in calls if call.body}
    _, schemas = models_json_schema(
        [(model, "serialization") for model in _by_name(answered | {Notice, Problem, ProgressEvent})]
        + [(model, "validation") for model in _by_name(taken)],
        ref_template="#/components/schemas/{model}",
    )
    wishes = schemas["$defs"].get("AnalyzeRequest", {"properties": {}})["properties"]
    for shape in wishes.get("content_length", {}).get("anyOf", ()):
        if shape["type"] == "integer":
            shape["maximum"] = photo_max_bytes
    paths: dict[str, dict[str, Any]] = {}
    for call in calls:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "growbin",
            "version": "1",
            "description": "A photo of waste in; which bin, and how, out.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "responses": {_refusal_name(status): _refusal(status) for status in _refusals(*calls)},
            "headers": {
                name: {"description": about, "schema": {"type": "string"}} for name, about in HEADERS.items()
            },
            "securitySchemes": {
                "cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
        "security": SESSIONS,
    }


def _by_name(models: set[type[BaseModel]]) -> list[type[BaseModel]]:
    return sorted(models, key=lambda model: model.__name__)


def _operation(call: Call) -> dict[str, Any]:
    parameters = [JOB_ID] if "{job_id}" in call.path else []
    for parameter in call.parameters:
        about = {"name": parameter.name, "in": parameter.place, "description": parameter.description}
        parameters.append({**about, "schema": parameter.schema})
    responses = {str(status): _answer(status, model, call) for status, model in call.answers.items()}
    for status in _refusals(call):
        responses[str(status)] = {"$ref": f"#/components/responses/{_refusal_name(status)}"}
    operation = {
        "operationId": call.handler.__name__,
        "summary": call.summary,
        "parameters": parameters,
        "responses": responses,
    }
    if call.session != "needed":
        operation["security"] = [{}, *SESSIONS] if call.session == "optional" else []
    if call.body:
        is_needed = any(field.is_required() for field in call.body.model_fields.values())
        content = {"application/json": _schema(call.body)}
        operation["requestBody"] = {"required": is_needed, "content": content}
    return {name: value for name, value in operation.items() if value or name == "security"}


# Python renamed these two: RFC 9110's words, whatever the interpreter.
PHRASES = {413: "Content Too Large", 422: "Unprocessable Content"}


def _refusals(*calls: Call) -> list[int]:
    return sorted({status for call in calls for status in (*call.refusals, *EVERY_REFUSAL)})


def _refusal_name(status: int) -> str:
    return f"Refused{status}"


def _refusal(status: int) -> dict[str, Any]:
    """A problem with one of the codes of this status; the examples are read by somebody Korean."""
    codes = codes_of(status)
    told = {"properties": {"status": {"const": status}, "code": {"enum": codes}}}
    examples = {}
    for code in codes:
        words = problem_words(code, "", "ko")
        problem = Problem(
            type=f"urn:growbin:problem:{code}",
            title=words.title,
            status=status,
            code=code,
            detail=words.detail.strip(),
            request_id="6f9619ff8b86d011b42d00c04fc964ff",
        )
        examples[code] = {"value": problem.model_dump()}
    content = {"schema": {"allOf": [_schema(Problem)["schema"], told]}, "examples": examples}
    headers = ["Content-Language"]
    headers += ["Retry-After"] if status in (408, 429, 503) else []
    headers += COUNTED if status == 429 else []
    headers += ["WWW-Authenticate"] if status == 401 else []
    return _response(status, {"application/problem+json": content}, headers)


def _answer(status: int, model: type[BaseModel] | None, call: Call) -> dict[str, Any]:
    if model is None:
        return _response(status, None, call.headers)
    if call.streams:
        about = {"type": "string", "description": STREAM}
        told = {"x-data": _schema(model)["schema"], "x-data-of-notice": _schema(Notice)["schema"]}
        return _response(status, {"text/event-stream": {"schema": about, **told}}, call.headers)
    return _response(status, {"application/json": _schema(model)}, call.headers)


def _response(status: int, content: Mapping[str, object] | None, headers: Sequence[str]) -> dict[str, Any]:
    described = {
        "description": PHRASES.get(status) or HTTPStatus(status).phrase,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-ID", *headers)},
    }
    return {**described, "content": content} if content else described


def _schema(model: type[BaseModel]) -> dict[str, dict[str, str]]:
    return {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
