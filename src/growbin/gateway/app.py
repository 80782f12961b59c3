"""The gateway's application: the table of calls, the middlewares around them, the page."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from growbin.gateway import asyncapi, openapi, reference
from growbin.gateway.advice import LONGEST_NAME, find_advice
from growbin.gateway.answers import CancelAsked, JobList, JobView, RuleAdvice, Submitted
from growbin.gateway.context import GATEWAY, Gateway
from growbin.gateway.events import stream_job, stream_session
from growbin.gateway.feedback import Feedback, give_feedback
from growbin.gateway.headers import guard_headers
from growbin.gateway.jobs import (
    LONGEST_LIST,
    LONGEST_WAIT_SECONDS,
    cancel_job,
    delete_job,
    list_jobs,
    read_job,
)
from growbin.gateway.live_stream import PULSE, Pulse
from growbin.gateway.openapi import COUNTED, Call, Parameter
from growbin.gateway.origins import add_cors_headers, guard_origin, origin_asked
from growbin.gateway.problems import REQUEST_ID, answer_problems
from growbin.gateway.rates import LEVELS, RATES, Rates, rate_headers
from growbin.gateway.sessions import SESSION, SessionAnswer, address_of, create_session, end_session
from growbin.gateway.slow_looks import LOOKS, SlowLooks
from growbin.gateway.stream_slots import SLOTS, StreamSlots
from growbin.gateway.submission import complete_upload
from growbin.gateway.uploads import LONGEST_IDEMPOTENCY_KEY, AnalyzeRequest, TicketAnswer, analyze
from growbin.job import ProgressEvent
from growbin.taxonomy import Category, Condition, Material
from growbin.telemetry import metrics, traces

log = structlog.get_logger()

LONGEST_BODY_BYTES = 16 * 1024
PAGE = Path(__file__).parent / "page"
INDEX = PAGE / "index.html"
FRAMES = (INDEX, PAGE / "docs" / "docs.html")  # they are filled in before they are sent
TAKES_QUESTIONS = 'data-questions="yes"'  # in the page: whether to offer the field for a question

CALLS = (
    Call(
        "POST",
        "/api/v1/waste/analyze",
        analyze,
        "A ticket to upload one photo, and the job that will look at it",
        answers={201: TicketAnswer},
        headers=(*COUNTED, "Location"),
        refusals=(400, 401, 403, 408, 413, 415, 422),
        body=AnalyzeRequest,
        parameters=(
            Parameter(
                "Idempotency-Key",
                "header",
                "the same key gives the same job, with a fresh ticket",
                {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": LONGEST_IDEMPOTENCY_KEY,
                },
            ),
            Parameter("Accept-Language", "header", "language of messages and advice; Korean by default"),
        ),
        session="optional",
    ),
    Call(
        "POST",
        "/upload-complete/{job_id}",
        complete_upload,
        "The photo is uploaded: start the job. May be repeated",
        answers={202: Submitted},
        headers=(*COUNTED, "Location", "Retry-After"),
        refusals=(401, 403, 404, 409, 410, 413, 415),
    ),
    Call(
        "GET",
        "/api/v1/waste/jobs/{job_id}",
        read_job,
        "The job as it is now, with its result once it is done",
        answers={200: JobView, 304: None},
        headers=(*COUNTED, "ETag", "Preference-Applied"),
        refusals=(401, 404),
        parameters=(
            Parameter(
                "Prefer",
                "header",
                f"wait=N waits up to N seconds (at most {LONGEST_WAIT_SECONDS}) for the end",
            ),
            Parameter("If-None-Match", "header", "an earlier ETag; 304 when nothing changed"),
        ),
    ),
    Call(
        "GET",
        "/api/v1/waste/jobs/{job_id}/events",
        stream_job,
        "The job's progress as server-sent events; 204 when its end was seen",
        answers={200: ProgressEvent, 204: None},
        headers=COUNTED,
        refusals=(401, 404),
        parameters=(
            Parameter("Last-Event-ID", "header", "the last id seen: the stream goes on after it"),
            Parameter("last_event_id", "query", "the same, for clients that cannot set a header"),
        ),
        streams=True,
    ),
    Call(
        "GET",
        "/api/v1/waste/events",
        stream_session,
        "The progress of all the session's unfinished jobs in one stream; new jobs join",
        answers={200: ProgressEvent, 204: None},
        headers=COUNTED,
        refusals=(401, 404),
        parameters=(
            Parameter("Last-Event-ID", "header", "the last id seen: each job goes on after it"),
            Parameter("last_event_id", "query", "the same, for clients that cannot set a header"),
        ),
        streams=True,
    ),
    Call(
        "GET",
        "/api/v1/waste/jobs",
        list_jobs,
        "The session's recent jobs, newest first",
        answers={200: JobList},
        headers=COUNTED,
        refusals=(400, 401),
        parameters=(
            Parameter(
                "limit",
                "query",
                f"1 to {LONGEST_LIST}, default 20",
                {"type": "integer", "minimum": 1, "maximum": LONGEST_LIST},
            ),
            Parameter(
                "cursor",
                "query",
                "the next_cursor of the page before",
                {"type": "string", "format": "uuid"},
            ),
        ),
        session="optional",
    ),
    Call(
        "POST",
        "/api/v1/waste/jobs/{job_id}/cancel",
        cancel_job,
        "Ask to cancel; the terminal event says who won",
        answers={202: CancelAsked},
        headers=COUNTED,
        refusals=(401, 403, 404),
    ),
    Call(
        "DELETE",
        "/api/v1/waste/jobs/{job_id}",
        delete_job,
        "Cancel the job and promise that its photo, result and progress go: at once, and what lands late "
        "within the next minutes. May be repeated",
        answers={204: None},
        headers=COUNTED,
        refusals=(401, 403, 404),
    ),
    Call(
        "POST",
        "/api/v1/waste/jobs/{job_id}/feedback",
        give_feedback,
        "Whether the answer was right, or what it is instead. Counted once for a job, and kept of nobody",
        answers={204: None},
        headers=COUNTED,
        refusals=(400, 401, 403, 404, 408, 409, 413, 415),
        body=Feedback,
    ),
    Call(
        "GET",
        "/api/v1/waste/advice",
        find_advice,
        "The advice by rule, without photo or session: by name, also misspelt, or by category and material",
        answers={200: RuleAdvice, 304: None},
        headers=("ETag",),
        refusals=(422,),
        parameters=(
            Parameter(
                "name",
                "query",
                "what it is called, in Korean or English",
                {"type": "string", "minLength": 1, "maxLength": LONGEST_NAME, "pattern": r"\S"},
            ),
            Parameter("category", "query", "instead of a name", {"type": "string", "enum": list(Category)}),
            Parameter("material", "query", "with a category", {"type": "string", "enum": list(Material)}),
            Parameter(
                "condition",
                "query",
                "with a category; may be repeated",
                {"type": "array", "items": {"type": "string", "enum": list(Condition)}},
            ),
            Parameter("locale", "query", "Korean by default", {"type": "string", "enum": ["ko", "en"]}),
            Parameter("If-None-Match", "header", "an earlier ETag; 304 when nothing changed"),
        ),
        session="none",
    ),
    Call(
        "POST",
        "/api/v1/sessions",
        create_session,
        "A session for clients that keep no cookies: send the token as Bearer",
        answers={201: SessionAnswer},
        headers=COUNTED,
        refusals=(403,),
        session="none",
    ),
    Call(
        "DELETE",
        "/api/v1/sessions/current",
        end_session,
        "End the session: its token or cookie opens nothing any more",
        answers={204: None},
        headers=COUNTED,
        refusals=(400, 401, 403),
        parameters=(
            Parameter(
                "erase",
                "query",
                "true deletes its recent jobs first",
                {"type": "string", "enum": ["true", "false"], "default": "false"},
            ),
        ),
        session="optional",
    ),
)

_OFFERED_ID = re.compile(r"[\w.-]{8,64}", re.ASCII)
PATHS = {call.path for call in CALLS}
# What is counted apart of each call; all else is `other`.
STATUSES: dict[tuple[str, str], frozenset[int]] = {
    **{(call.method, call.path): frozenset({*call.answers, *call.refusals, 429, 500, 503}) for call in CALLS},
    ("GET", "page"): frozenset({200, 304}),
    ("any", "none"): frozenset({404, 405}),
}
for _label, _statuses in STATUSES.items():
    metrics.request_seconds.labels(*_label)
    for _status in (*_statuses, "other"):
        metrics.requests.labels(*_label, _status)


def build_app(gateway: Gateway) -> web.Application:
    """The whole HTTP side. Run it with `handler_cancellation=True`, so that a stream notices when its
    client has left."""
    app = web.Application(
        middlewares=[keep_pace, identify, answer_problems, guard_origin], client_max_size=LONGEST_BODY_BYTES
    )
    app[GATEWAY] = gateway
    app[SLOTS] = StreamSlots(gateway.limits)
    app[RATES] = Rates(gateway.limits)
    app[PULSE] = Pulse(gateway.limits.stream_heartbeat_seconds)
    app[LOOKS] = SlowLooks(gateway.hub, gateway.records)
    for call in CALLS:
        # No HEAD for a stream: it would stay open and say nothing.
        app.router.add_route(call.method, call.path, call.handler)
    image_origin, upload_origin = _origin(gateway.cdn_base_url), _origin(gateway.upload_origin)
    _add_pages(app, image_origin=image_origin, upload_origin=upload_origin)
    app.on_response_prepare.append(_add_headers)
    return app


# --- around every call -------------------------------------------------------------------------


@web.middleware
async def keep_pace(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Have an address that calls too fast wait for its turn, before anything of its call is measured."""
    wait_seconds = request.app[RATES].pace.wait_seconds(address_of(request))
    if wait_seconds:
        metrics.calls_slowed.inc()
        await asyncio.sleep(wait_seconds)
    return await handler(request)


@web.middleware
async def identify(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its id, for the answer and every log line; measure and log it."""
    offered = request.headers.get("X-Request-ID", "")
    request[REQUEST_ID] = offered if _OFFERED_ID.fullmatch(offered) else secrets.token_hex(16)
    structlog.contextvars.clear_contextvars()  # the connection's last request
    method, route = request.method, _route_of(request)
    if (method, route) not in STATUSES:  # a stranger may call it anything
        method, route = "any", "none"
    begin = time.perf_counter()
    caller = request.headers.get("traceparent")
    with traces.request(request[REQUEST_ID], caller, _job_named(request), f"{method} {route}") as span:
        response = await handler(request)
        span.set("http.request.method", method)
        span.set("http.route", route)
        span.set("http.response.status_code", response.status)
        log.debug("request_answered", method=method, route=route, status=response.status)
    if isinstance(response, web.Response):
        known = STATUSES[method, route]
        metrics.request_seconds.labels(method, route).observe(time.perf_counter() - begin)
        metrics.requests.labels(method, route, response.status if response.status in known else "other").inc()
    return response


def _job_named(request: web.Request) -> UUID | None:
    try:
        return UUID(request.match_info.get("job_id", ""))
    except ValueError:
        return None


def _route_of(request: web.Request) -> str:
    resource = request.match_info.route.resource
    if resource is None:
        return "none"
    return resource.canonical if resource.canonical in PATHS else "page"


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """On every answer, also on streams and problems. What a handler has set stands."""
    headers = response.headers
    headers["X-Request-ID"] = request.get(REQUEST_ID, "")
    for name, value in guard_headers(secure=request.app[GATEWAY].secure_cookies).items():
        headers.setdefault(name, value)
    headers.update(rate_headers(request.pop(LEVELS, ())))
    request.pop(SESSION, None)  # as the levels: a stream keeps its request for long
    headers.popall(hdrs.SERVER, None)  # nobody needs to know what we run on
    add_cors_headers(request, response)


# --- pages -------------------------------------------------------------------------------------


def _add_pages(app: web.Application, *, image_origin: str, upload_origin: str) -> None:
    """The demo page and its files by their names, the API's description for machines and for people."""
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; manifest-src 'self'; "
        f"img-src 'self' blob: data: {image_origin}; connect-src 'self' {upload_origin}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {"Content-Security-Policy": policy, hdrs.CACHE_CONTROL: "no-cache"}

    def serve(file: Path) -> Handler:
        async def send_file(_request: web.Request) -> web.StreamResponse:
            return web.FileResponse(file, headers=headers)

        return send_file

    for file in (path for path in sorted(PAGE.rglob("*")) if path.is_file() and path not in FRAMES):
        app.router.add_get("/" + file.relative_to(PAGE).as_posix(), serve(file))
    index = INDEX.read_text(encoding="utf-8")
    if not app[GATEWAY].takes_questions:
        index = index.replace(TAKES_QUESTIONS, TAKES_QUESTIONS.replace("yes", "no"), 1)

    async def send_index(_request: web.Request) -> web.Response:
        return web.Response(text=index, content_type="text/html", headers=headers)

    app.router.add_get("/", send_index)
    app.router.add_get("/index.html", send_index)

    docs = reference.page(CALLS)

    def serve_description(document: dict[str, Any]) -> Handler:
        body = json.dumps(document).encode()

        async def send_description(_request: web.Request) -> web.StreamResponse:
            return web.Response(body=body, content_type="application/json", charset="utf-8")

        return send_description

    async def send_docs(request: web.Request) -> web.Response:
        text = docs.replace(reference.EXAMPLE, escape(origin_asked(request)))
        return web.Response(text=text, content_type="text/html", headers=headers)

    calls = openapi.describe(CALLS, app[GATEWAY].limits.photo_max_bytes)
    app.router.add_get("/openapi.json", serve_description(calls))
    app.router.add_get("/asyncapi.json", serve_description(asyncapi.describe()))
    app.router.add_get("/docs", send_docs)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
