"""/healthz, /readyz and /metrics on an internal port, for the gateway and the consumer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from growbin.telemetry import metrics
from growbin.telemetry.exposition import exposition

log = structlog.get_logger()

Check = Callable[[], Awaitable[bool]]
Measure = Callable[[], Awaitable[None]]  # sets what is true only at the moment of a scrape
CHECK_TIMEOUT_SECONDS = 1.5


async def _is_alive() -> bool:
    return True


def seldom(check: Check, pause_seconds: float) -> Check:
    """A check that costs something: in between its last answer stands, and while it hangs it has failed."""
    asked_at, was_well = float("-inf"), False

    async def answer() -> bool:
        nonlocal asked_at, was_well
        now = asyncio.get_running_loop().time()
        if now - asked_at >= pause_seconds:
            asked_at, was_well = now, False
            was_well = await check()
        return was_well

    return answer


async def _nothing() -> None:
    pass


def build_probes(
    required: Mapping[str, Check],
    shown: Mapping[str, Check] | None = None,
    alive: Check = _is_alive,
    measure: Measure = _nothing,
) -> web.Application:
    """An application whose /readyz is 200 while every `required` check is true: what is away may come back.
    What is only `shown` appears in the answer, and among the metrics, but takes nobody out of service. A
    check that raises is false, and `reasons` has its words. /healthz is 200 while `alive`: from what it
    tells, only a restart heals."""
    checks = {**required, **(shown or {})}

    async def live(_request: web.Request) -> web.Response:
        is_alive = await _answer("alive", alive) is True
        return web.json_response({"alive": is_alive}, status=200 if is_alive else 503)

    async def ask_all() -> dict[str, bool | str]:
        answers = await asyncio.gather(*(_answer(name, check) for name, check in checks.items()))
        return dict(zip(checks, answers, strict=True))

    async def ready(_request: web.Request) -> web.Response:
        answers = await ask_all()
        parts = {name: answer is True for name, answer in answers.items()}
        reasons = {name: answer for name, answer in answers.items() if isinstance(answer, str)}
        is_ready = all(parts[name] for name in required)
        return web.json_response(
            {"ready": is_ready, "parts": parts, "reasons": reasons}, status=200 if is_ready else 503
        )

    async def show_metrics(_request: web.Request) -> web.Response:
        answers, _ = await asyncio.gather(ask_all(), measure())
        for name, answer in answers.items():
            metrics.part_well.labels(part=name).set(answer is True)
        return web.Response(body=exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", live), web.get("/readyz", ready), web.get("/metrics", show_metrics)])
    return app


async def _answer(name: str, check: Check) -> bool | str:
    """Whether it passes, or why it could not be told."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            return await check()
    except Exception as error:  # noqa: BLE001  # whatever it is, the part does not work
        log.warning("check_failed", part=name, reason=repr(error))
        return str(error) or type(error).__name__
