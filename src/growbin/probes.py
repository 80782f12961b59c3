"""/healthz, /readyz and /metrics on an internal port, for the gateway and the consumer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

log = structlog.get_logger()

Check = Callable[[], Awaitable[bool]]
CHECK_TIMEOUT_SECONDS = 1.5


def build_probes(required: Mapping[str, Check], shown: Mapping[str, Check] | None = None) -> web.Application:
    """An application whose /readyz is 200 while every `required` check is true. What is only
    `shown` appears in the answer but takes nobody out of service. A check that raises is false."""
    checks = {**required, **(shown or {})}

    async def alive(_request: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def ready(_request: web.Request) -> web.Response:
        answers = await asyncio.gather(*(_passes(name, check) for name, check in checks.items()))
        parts = dict(zip(checks, answers, strict=True))
        is_ready = all(parts[name] for name in required)
        return web.json_response({"ready": is_ready, "parts": parts}, status=200 if is_ready else 503)

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", alive), web.get("/readyz", ready), web.get("/metrics", metrics)])
    return app


async def _passes(name: str, check: Check) -> bool:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            return await check()
    except Exception as error:  # noqa: BLE001  # whatever it is, the part does not work
        log.warning("check_failed", part=name, reason=repr(error))
        return False
