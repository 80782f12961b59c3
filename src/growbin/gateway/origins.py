"""Which web pages may call: CORS for the allowed origins, and no writing from any other page."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from growbin.errors import Rejected
from growbin.gateway.addresses import first_forwarded, is_trusted
from growbin.gateway.context import GATEWAY
from growbin.gateway.sessions import came_over_tls

READING = ("GET", "HEAD", "OPTIONS")
METHODS = "GET, POST, DELETE"
EXPOSED = "ETag, Location, Preference-Applied, RateLimit, RateLimit-Policy, Retry-After, X-Request-ID"
OWN_SITES = ("same-origin", "none")
DEFAULT_PORTS = {"http": ":80", "https": ":443"}
TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
MOST_HEADERS = 64


@web.middleware
async def guard_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A browser names the page's origin; one we do not know may not act with the user's cookie."""
    if request.method == "OPTIONS" and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers:
        return web.Response(status=204, headers=_preflight(request) if _is_allowed(request) else {})
    if request.method not in READING and not (_is_own(request) or _is_allowed(request)):
        raise Rejected("forbidden_origin", "Pages of this origin may not call this service.")
    return await handler(request)


def add_cors_headers(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Tell the browser that an allowed page may read the answer."""
    response.headers.add(hdrs.VARY, hdrs.ORIGIN)
    if isinstance(request, web.Request) and _is_allowed(request):
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = request.headers[hdrs.ORIGIN]
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED


def _preflight(request: web.Request) -> dict[str, str]:
    """An allowed page may send whatever header it likes (its tracing adds some): what we do not know we do
    not read."""
    asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "").split(",")[:MOST_HEADERS]
    names = [name for name in map(str.strip, asked) if TOKEN.fullmatch(name)]
    return {
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: METHODS,
        hdrs.ACCESS_CONTROL_ALLOW_HEADERS: ", ".join(names),
        hdrs.ACCESS_CONTROL_MAX_AGE: "600",
        hdrs.VARY: hdrs.ACCESS_CONTROL_REQUEST_HEADERS,
    }


def _is_allowed(request: web.Request) -> bool:
    return request.headers.get(hdrs.ORIGIN) in request.app[GATEWAY].allowed_origins


def _is_own(request: web.Request) -> bool:
    """Our own page calls, or no page at all."""
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None:  # some browsers leave it out; what they say instead no page can forge
        return request.headers.get("Sec-Fetch-Site", "none") in OWN_SITES
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    default_port = DEFAULT_PORTS.get(parts.scheme, "")
    host = _host(request).removesuffix(default_port)
    return bool(host) and parts.netloc.lower().removesuffix(default_port) == host


def origin_asked(request: web.Request) -> str:
    """Scheme and host as the client has called us; they are its words."""
    return f"{'https' if came_over_tls(request) else 'http'}://{_host(request)}"


def _host(request: web.Request) -> str:
    """By which name the client has called us."""
    forwarded = first_forwarded(request.headers.get(hdrs.X_FORWARDED_HOST, ""))
    if forwarded and is_trusted(request.remote, request.app[GATEWAY].trusted_proxies):
        return forwarded
    return request.host.lower()
