"""Progress as server-sent events, of one job or of a session: heartbeat, write timeout, a clean end."""

from __future__ import annotations

import asyncio
import random
import socket

import structlog
from aiohttp import hdrs, web

from growbin import telemetry
from growbin.gateway import sse
from growbin.gateway.gateway import GATEWAY, GatewayLimits
from growbin.gateway.hub import ReaderTooSlow, Watch
from growbin.gateway.jobs import find_job
from growbin.gateway.problems import not_found
from growbin.gateway.session_watch import SessionWatch
from growbin.gateway.sessions import address_of, find_session

log = structlog.get_logger()

HEADERS = {
    hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8",
    hdrs.CACHE_CONTROL: "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # nginx would keep events back until its buffer is full
}


async def stream_job(request: web.Request) -> web.StreamResponse:
    """`GET /api/v1/waste/jobs/{job_id}/events`; 204 when the client has seen the terminal event."""
    gateway = request.app[GATEWAY]
    job = await find_job(request)
    if job.state is None:
        raise not_found()
    with gateway.slots.take(job.session.owner, address_of(request)):
        async with gateway.hub.watch(job.job_id, _given_id(request)) as watch:
            return await _stream(request, watch, gateway.limits)


async def stream_session(request: web.Request) -> web.StreamResponse:
    """`GET /api/v1/waste/events`: all the session's unfinished jobs; 204 when there is none."""
    gateway = request.app[GATEWAY]
    session = await find_session(request)
    if session is None:
        raise not_found()
    with gateway.slots.take(session.owner, address_of(request)):
        async with SessionWatch.open(
            gateway.hub, gateway.records, gateway.progress, session.owner, _given_id(request)
        ) as watch:
            return await _stream(request, watch, gateway.limits)


def _given_id(request: web.Request) -> str | None:
    return request.headers.get("Last-Event-ID") or request.query.get("last_event_id") or None


async def _stream(
    request: web.Request, watch: Watch | SessionWatch, limits: GatewayLimits
) -> web.StreamResponse:
    """Relay until the end. Once the headers are out every error ends in a closed connection."""
    if watch.nothing_missed:
        return web.Response(status=204)
    response = web.StreamResponse(headers=HEADERS)
    end = "gone"
    try:
        await response.prepare(request)
        _give_up_on_a_silent_peer(request, limits)
        end = await _relay(response, watch, limits)
    except (ReaderTooSlow, TimeoutError):
        end = "slow"
        _cut(request)
    except ConnectionError:
        pass
    except Exception:
        end = "broken"
        log.exception("stream_broken")
        _cut(request)
    finally:
        telemetry.streams_closed.labels(end=end).inc()
    return response


async def _relay(response: web.StreamResponse, watch: Watch | SessionWatch, limits: GatewayLimits) -> str:
    """Write entries and heartbeats as they come. Returns `ended` after the terminal event, `drained`
    when the gateway stops: the client then resumes elsewhere."""

    async def send(chunk: bytes) -> None:
        async with asyncio.timeout(limits.stream_write_timeout_seconds):
            await response.write(chunk)

    await send(sse.encode_retry(_retry_ms()))
    while True:
        try:
            entry = await watch.next(limits.stream_heartbeat_seconds)
        except StopAsyncIteration:
            break
        await send(sse.HEARTBEAT if entry is None else sse.encode_event(entry))
    if not watch.has_ended:
        await send(sse.encode_retry(_retry_ms()))
    async with asyncio.timeout(limits.stream_write_timeout_seconds):
        await response.write_eof()
    return "ended" if watch.has_ended else "drained"


def _retry_ms() -> int:
    """Jittered, so that the clients of a stopped gateway do not come back all at once."""
    return random.randint(2000, 4000)  # noqa: S311  # guards no secret


def _give_up_on_a_silent_peer(request: web.Request, limits: GatewayLimits) -> None:
    """A peer that vanished without a word acknowledges nothing. The kernel would try for a quarter of an
    hour, with heartbeats so small that no write ever waits; where it can, it is told to stop earlier."""
    connection = request.transport.get_extra_info("socket") if request.transport else None
    if connection is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        patience_ms = int(limits.stream_write_timeout_seconds * 1000)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience_ms)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
