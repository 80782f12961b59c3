"""Errors as RFC 9457 problems: one shape for every refusal, whoever raised it."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from pydantic import BaseModel

from growbin.errors import Rejected, Unavailable
from growbin.gateway.languages import problem_locale
from growbin.messages import problem_words

log = structlog.get_logger()

REQUEST_ID = web.RequestKey("request_id", str)
DEFAULT_RETRY_AFTER_SECONDS = 2
PROBLEM = "application/problem+json"

# What the code of each Rejected is over HTTP.
STATUS = {
    "backlog_full": 503,
    "bad_request": 400,
    "bad_parameter": 422,
    "body_too_slow": 408,
    "every_stream_taken": 503,
    "forbidden_origin": 403,
    "idempotency_key_reused": 422,
    "length_required": 422,
    "not_done": 409,
    "not_failed": 409,  # a redrive's: its operator reads the detail
    "not_found": 404,
    "photo_too_large": 413,
    "session_unknown": 401,
    "too_many_requests": 429,
    "too_many_streams": 429,
    "too_many_unfinished": 429,
    "unsupported_encoding": 415,
    "unsupported_photo": 415,
    "upload_expired": 410,
    "upload_missing": 409,
}
# Finer than what clients know: the body's `code` is the wider one.
CODE_TOLD = {"body_too_slow": "bad_request", "every_stream_taken": "too_many_streams"}


class Problem(BaseModel):
    """`type` and `code` are stable; `detail` says what to do."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str


def not_found() -> Rejected:
    """Unknown, foreign and malformed ids look the same, so that no id can be probed."""
    detail = (
        "There is no such job in this session: check the id, send the session that made it, or begin anew."
    )
    return Rejected("not_found", detail)


def bad_request(detail: str) -> Rejected:
    return Rejected("bad_request", detail)


def photo_too_large(photo_max_bytes: int) -> Rejected:
    megabytes = photo_max_bytes / 2**20
    return Rejected("photo_too_large", f"A photo may have at most {megabytes:g} MB: send a smaller one.")


def unsupported_photo() -> Rejected:
    return Rejected(
        "unsupported_photo", "Send a JPEG, PNG, WebP or HEIC photo, with the type that was declared for it."
    )


@web.middleware
async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Rejected as error:
        told = CODE_TOLD.get(error.code, error.code)
        status, headers = STATUS[error.code], _retry_after(error.retry_after_seconds)
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return _answer(request, status, told, error.detail, headers)
    except Unavailable as error:
        log.warning("part_unavailable", part=error.part, reason=error.reason)
        retry_after = _retry_after(error.retry_after_seconds or DEFAULT_RETRY_AFTER_SECONDS)
        detail = "A part of the service does not answer. Try again in a moment."
        return _answer(request, 503, "unavailable", detail, retry_after)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        answer = answer_status(request, error.status)
        if hdrs.ALLOW in error.headers:
            answer.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
        return answer
    except Exception:
        log.exception("request_failed", method=request.method, path=request.path)
        return answer_status(request, 500)


# What HTTP itself refuses, wherever that is noticed.
_BY_STATUS = {
    400: ("bad_request", "This cannot be read as an HTTP request. Send HTTP/1.1, framed as its head says."),
    404: ("not_found", "There is nothing at this address. The calls are listed at /docs."),
    405: (
        "method_not_allowed",
        "This address does not take this method; the Allow header lists those it takes.",
    ),
    408: ("head_too_slow", "The request's head did not come in time. Send it in one go."),
    413: ("bad_request", "The request body is too large. Photos go to the upload_url, not here."),
    417: ("bad_request", "Of `Expect` only 100-continue can be met. Leave it out."),
    429: ("too_many_connections", "This address has too many open connections. Close some and try again."),
    431: ("head_too_large", "The request's head is too large. Send fewer or shorter fields; clear cookies."),
    500: ("internal", "This is our mistake. Name the request_id when you report it."),
    503: ("too_many_connections", "Every connection is taken. Try again in a moment."),
    505: ("bad_request", "This version of HTTP is not spoken here. Send HTTP/1.1."),
}
_TRY_AGAIN = frozenset({408, 429, 503})


def codes_of(status: int) -> list[str]:
    """Every code that a client may be told with it."""
    ours = {
        CODE_TOLD.get(code, code)
        for code, known in STATUS.items()
        if known == status and code != "not_failed"
    }
    by_http = {_BY_STATUS[status][0]} if status in _BY_STATUS else set()
    return sorted(ours | by_http | ({"unavailable"} if status == 503 else set()))


def answer_status(
    request: web.BaseRequest, status: int, shape: type[web.Response] = web.Response
) -> web.Response:
    """The problem of a `status` that no call of ours has chosen. Nothing of the request stands in it."""
    code, detail = _BY_STATUS.get(status) or _BY_STATUS[500 if status >= 500 else 400]
    retry_after = _retry_after(DEFAULT_RETRY_AFTER_SECONDS if status in _TRY_AGAIN else None)
    return _answer(request, status, code, detail, retry_after, shape)


def _retry_after(seconds: float | None) -> dict[str, str]:
    return {} if seconds is None else {"Retry-After": str(math.ceil(seconds))}


def _answer(
    request: web.BaseRequest,
    status: int,
    code: str,
    detail: str,
    headers: Mapping[str, str],
    shape: type[web.Response] = web.Response,
) -> web.Response:
    if REQUEST_ID not in request:
        request[REQUEST_ID] = uuid.uuid4().hex
    locale = problem_locale(request.headers.get(hdrs.ACCEPT_LANGUAGE))
    words = problem_words(code, detail, locale)
    problem = Problem(
        type=f"urn:growbin:problem:{code}",
        title=words.title,
        status=status,
        code=code,
        detail=words.detail,
        request_id=request[REQUEST_ID],
    )
    return shape(
        status=status,
        text=problem.model_dump_json(),
        content_type=PROBLEM,
        headers={hdrs.CONTENT_LANGUAGE: locale, "X-Request-ID": problem.request_id, **headers},
    )
