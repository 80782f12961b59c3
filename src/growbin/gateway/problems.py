"""Errors as RFC 9457 problems: one shape for every refusal, whoever raised it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel

from growbin.errors import Rejected, Unavailable
from growbin.messages import problem_title

log = structlog.get_logger()

REQUEST_ID = web.RequestKey("request_id", str)
DEFAULT_RETRY_AFTER_SECONDS = 2

# What the code of each Rejected is over HTTP.
STATUS = {
    "backlog_full": 503,
    "bad_request": 400,
    "bad_parameter": 422,
    "body_too_slow": 408,
    "every_stream_taken": 503,
    "forbidden_origin": 403,
    "idempotency_key_reused": 422,
    "not_done": 409,
    "not_failed": 409,  # a redrive's: its operator reads the detail
    "not_found": 404,
    "photo_too_large": 413,
    "session_unknown": 401,
    "too_many_requests": 429,
    "too_many_streams": 429,
    "too_many_unfinished": 429,
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
        "unsupported_photo", "Send a JPEG, PNG or WebP photo, with the type that was declared for it."
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
        code, detail = _HTTP_ERRORS.get(error.status, ("bad_request", error.reason))
        allow = {name: value for name, value in error.headers.items() if name == "Allow"}
        return _answer(request, error.status, code, detail, allow)
    except Exception:
        log.exception("request_failed", method=request.method, path=request.path)
        return _answer(
            request, 500, "internal", "This is our mistake. Name the request_id when you report it.", {}
        )


_HTTP_ERRORS = {
    404: ("not_found", "There is nothing at this address. The calls are listed at /docs."),
    405: (
        "method_not_allowed",
        "This address does not take this method; the Allow header lists those it takes.",
    ),
    413: ("bad_request", "The request body is too large. Photos go to the upload_url, not here."),
}


def _retry_after(seconds: float | None) -> dict[str, str]:
    return {} if seconds is None else {"Retry-After": str(math.ceil(seconds))}


def _answer(
    request: web.Request, status: int, code: str, detail: str, headers: Mapping[str, str]
) -> web.Response:
    problem = Problem(
        type=f"urn:growbin:problem:{code}",
        title=problem_title(code),
        status=status,
        code=code,
        detail=detail,
        request_id=request.get(REQUEST_ID, ""),
    )
    return web.Response(
        status=status,
        text=problem.model_dump_json(),
        content_type="application/problem+json",
        headers=headers,
    )
