"""What stands on every answer, whoever gives it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from aiohttp import hdrs


@cache
def guard_headers(*, secure: bool) -> Mapping[str, str]:
    """No sniffing, no referrer, no framing, no other window or site that holds on to what we send; nothing
    kept by caches. `secure`: TLS in front. An answer may have a policy and a caching of its own."""
    headers = {
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        hdrs.CACHE_CONTROL: "no-store",
    }
    return headers | ({"Strict-Transport-Security": "max-age=31536000"} if secure else {})
