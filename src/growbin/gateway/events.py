"""Progress as server-sent events, of one job or of a session: heartbeat, write timeout, a clean end."""

from __future__ import annotations

import asyncio
import hmac
import random
import socket

import structlog
from aiohttp import HttpVersion11, hdrs, web

from growbin.gateway import sse
from growbin.gateway.context import GATEWAY, GatewayLimits
from growbin.gateway.live_stream import PULSE, LiveStream
from growbin.gateway.owned_job import find_job, job_id_of, stage_of
from growbin.gateway.problems import not_found
from growbin.gateway.session_watch import SessionWatch
from growbin.gateway.sessions import Session, address_of, find_session, offers_session
from growbin.gateway.slow_looks import LOOKS
from growbin.gateway.stream_slots import SLOTS
from growbin.gateway.watch import ReaderTooSlow, Watch
from growbin.job import JobState, Stage
from growbin.telemetry import metrics

log = structlog.get_logger()

LONGEST_OPENING_BYTES = 16 * 1024  # aiohttp would wait for a client that does not take four times as much

HEADERS = {
    hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8",
    hdrs.CACHE_CONTROL: "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # nginx would keep events back until its buffer is full
}


async def stream_job(request: web.Request) -> web.StreamResponse:
    """`GET /api/v1/waste/jobs/{job_id}/events`; 204 when the client has seen the terminal event."""
    hub = request.app[GATEWAY].hub
    job_id = job_id_of(request.match_info["job_id"])
    if not offers_session(request):
        raise not_found()
    watch = await hub.begin(job_id, _given_id(request))
    try:
        # Thousands may come back at once: the subscription is under way while the session is looked up, and
        # the one read of the log tells the job's owner as well.
        session = await find_session(request)
        if session is None:
            raise not_found()
        with request.app[SLOTS].take(session.owner, address_of(request)):
            # If not, perhaps its log lags behind its record, or was lost; what mends it comes live.
            is_theirs = _is_theirs(await hub.follow(watch), session)
            if not is_theirs and (await find_job(request)).state is None:
                raise not_found()
            return await _stream(request, watch)
    finally:
        await hub.leave(watch)


async def stream_session(request: web.Request) -> web.StreamResponse:
    """`GET /api/v1/waste/events`: all the session's unfinished jobs; 204 when there is none."""
    gateway = request.app[GATEWAY]
    session = await find_session(request)
    if session is None:
        raise not_found()
    with request.app[SLOTS].take(session.owner, address_of(request)):
        async with SessionWatch.open(
            gateway.hub,
            gateway.records,
            gateway.progress,
            request.app[LOOKS],
            session.owner,
            _given_id(request),
        ) as watch:
            return await _stream(request, watch)


def _is_theirs(state: JobState | None, session: Session) -> bool:
    """Certainly, and its log needs no mending; otherwise `find_job` knows more."""
    return (
        state is not None
        and not state.is_erased
        and hmac.compare_digest(state.owner.encode(), session.owner.encode())
        and not (state.is_accepted and stage_of(state) is Stage.AWAITING_UPLOAD)
    )


def _given_id(request: web.Request) -> str | None:
    in_header = request.headers.get("Last-Event-ID")
    if in_header or not request.query_string:  # a parsed query stays in memory as long as the stream
        return in_header or None
    return request.query.get("last_event_id") or None


class StreamAnswer(web.StreamResponse):
    """Its head goes out with the first bytes of its body."""

    _send_headers_immediately = False


async def _stream(request: web.Request, watch: Watch | SessionWatch) -> web.StreamResponse:
    """Relay until the end. Once the headers are out every error ends in a closed connection."""
    if watch.nothing_missed:
        return web.Response(status=204)
    limits = request.app[GATEWAY].limits
    response = StreamAnswer(headers=HEADERS)
    if request.version >= HttpVersion11:
        response.enable_chunked_encoding()
    end = "gone"
    try:
        await response.prepare(request)
        _give_up_on_a_silent_peer(request, limits)
        async with asyncio.timeout(limits.stream_write_timeout_seconds):
            await response.write(_opening(watch))
        response.headers.clear()  # they are out: a thousand open streams need no thousand copies
        await _relay(request, response, watch)
        # A stream that ends before its job sends the client elsewhere, but not all clients at once.
        goodbye = b"" if watch.has_ended else sse.encode_retry(_retry_ms())
        async with asyncio.timeout(limits.stream_write_timeout_seconds):
            await response.write_eof(goodbye)
        end = "ended" if watch.has_ended else "drained"
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
        metrics.streams_closed.labels(end=end).inc()
    return response


def _opening(watch: Watch | SessionWatch) -> bytes:
    """What can be told at once goes out in one piece with the head."""
    opening = sse.encode_retry(_retry_ms())
    while len(opening) < LONGEST_OPENING_BYTES and (entry := watch.take()) is not None:
        opening += sse.encode_event(entry)
    return opening


async def _relay(request: web.Request, response: web.StreamResponse, watch: Watch | SessionWatch) -> None:
    """The hub writes to the socket, the pulse beats, and the handler sleeps."""
    gateway, pulse = request.app[GATEWAY], request.app[PULSE]
    stream = LiveStream(request, response, watch)
    pulse.add(stream)
    gateway.notices.add(stream)
    try:
        await stream.relay(gateway.limits.stream_write_timeout_seconds)
    finally:
        gateway.notices.remove(stream)
        pulse.remove(stream)


def _retry_ms() -> int:
    """Jittered, so that the clients of a stopped gateway do not come back all at once."""
    return random.randint(2000, 4000)  # noqa: S311  # guards no secret


def _give_up_on_a_silent_peer(request: web.Request, limits: GatewayLimits) -> None:
    """A peer that vanished without a word acknowledges nothing. The kernel would try for a quarter of an
    hour, with heartbeats so small that no write ever waits; where it can, it is told to stop earlier."""
    connection = request.transport.get_extra_info("socket") if request.transport else None
    if connection is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        # A tenth less than what we would wait: its timer is coarse and begins at the next heartbeat.
        patience_ms = int(limits.stream_write_timeout_seconds * 900)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience_ms)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
