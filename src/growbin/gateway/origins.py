"""Which web pages may call: CORS for the allowed origins, and no writing from any other page."""

from __future__ import annotations

from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from growbin.errors import Rejected
from growbin.gateway.context import GATEWAY

READING = ("GET", "HEAD", "OPTIONS")
PREFLIGHT = {
    hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, POST",
    hdrs.ACCESS_CONTROL_ALLOW_HEADERS: (
        "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Prefer, X-Request-ID"
    ),
    hdrs.ACCESS_CONTROL_MAX_AGE: "600",
}
EXPOSED = "ETag, Location, Preference-Applied, RateLimit, RateLimit-Policy, Retry-After, X-Request-ID"


@web.middleware
async def guard_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A browser names the page's origin; one we do not know may not act with the user's cookie."""
    origin = request.headers.get(hdrs.ORIGIN)
    if request.method == "OPTIONS" and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers:
        return web.Response(status=204, headers=PREFLIGHT if _is_allowed(request) else {})
    if origin is not None and request.method not in READING:
        is_own = urlsplit(origin).netloc == request.host
        if not (is_own or _is_allowed(request)):
            raise Rejected("forbidden_origin", "Pages of this origin may not call this service.")
    return await handler(request)


def add_cors_headers(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Tell the browser that an allowed page may read the answer."""
    response.headers.add(hdrs.VARY, hdrs.ORIGIN)
    if isinstance(request, web.Request) and _is_allowed(request):
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = request.headers[hdrs.ORIGIN]
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED


def _is_allowed(request: web.Request) -> bool:
    return request.headers.get(hdrs.ORIGIN) in request.app[GATEWAY].allowed_origins
