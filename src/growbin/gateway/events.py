"""One job's progress as server-sent events: headers, heartbeat, write timeout, a clean end."""

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
from growbin.gateway.sessions import address_of

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
        async with gateway.hub.watch(job.job_id, _last_id(request)) as watch:
            if watch.nothing_missed:
                return web.Response(status=204)
            response = web.StreamResponse(headers=HEADERS)
            await response.prepare(request)
            await _stream(request, response, watch, gateway.limits)
            return response


def _last_id(request: web.Request) -> str | None:
    """The last id the client saw; the query serves clients that cannot set a header."""
    return request.headers.get("Last-Event-ID") or request.query.get("last_event_id") or None


async def _stream(
    request: web.Request, response: web.StreamResponse, watch: Watch, limits: GatewayLimits
) -> None:
    """Relay until the end. Its headers are out, so from here on every error ends in a closed connection."""
    _give_up_on_a_silent_peer(request, limits)
    end = "gone"
    try:
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


async def _relay(response: web.StreamResponse, watch: Watch, limits: GatewayLimits) -> str:
    """Write entries and heartbeats as they come. Returns `ended` after the terminal event, `drained`
    when the gateway stops: the client then resumes elsewhere."""

    async def send(chunk: bytes) -> None:
        async with asyncio.timeout(limits.stream_write_timeout_seconds):
            await response.write(chunk)

    await send(sse.encode_retry(_retry_ms()))
    end = None
    while end is None:
        try:
            entry = await watch.next(limits.stream_heartbeat_seconds)
        except StopAsyncIteration:
            await send(sse.encode_retry(_retry_ms()))
            end = "drained"
        else:
            await send(sse.HEARTBEAT if entry is None else sse.encode_event(entry))
            if entry is not None and entry.ends:
                end = "ended"
    async with asyncio.timeout(limits.stream_write_timeout_seconds):
        await response.write_eof()
    return end


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
