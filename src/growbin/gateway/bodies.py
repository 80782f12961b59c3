"""JSON bodies: read within a time, checked strictly, refused in words."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import BaseModel, ValidationError

from growbin.errors import Rejected
from growbin.gateway.problems import bad_request

LONGEST_READ_SECONDS = 10

Body = TypeVar("Body", bound=BaseModel)


async def read_body(request: web.Request, shape: type[Body]) -> Body:
    """No body is an empty object. Raises Rejected(body_too_slow | bad_request | unsupported_encoding)."""
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() != "identity":
        raise Rejected("unsupported_encoding", "Send the body as it is, without Content-Encoding.")
    try:
        async with asyncio.timeout(LONGEST_READ_SECONDS):
            body = await request.read()
    except TimeoutError:
        raise Rejected("body_too_slow", "The body did not come in time.") from None
    except (web.RequestPayloadError, HttpProcessingError):
        raise bad_request("The body is not framed as the request's head says.") from None
    if body and request.content_type != "application/json":
        raise bad_request("The body must be JSON, with Content-Type: application/json.")
    try:
        return shape.model_validate_json(body or b"{}")
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in error.errors())
        raise bad_request("; ".join(problems) + ".") from None
