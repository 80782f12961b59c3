"""Connections: how many there may be, how long and how slow a head, and what is answered before any call is
reached. What aiohttp's own limits (of one line, of idle connections) leave open is closed here.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import BytesPayload, HttpVersion10, HttpVersion11, StreamReader, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.http_parser import HttpRequestParser
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import _ErrInfo

from growbin.gateway.addresses import Network, counted_address, is_trusted
from growbin.gateway.problems import PROBLEM, answer_status
from growbin.telemetry import metrics

log = structlog.get_logger()

LOGGED_EVERY_SECONDS = 60.0
LINGER_SECONDS = 1.0  # a client that is still sending hears the refusal before the connection closes
# An answer that nobody reads holds a piece of itself here, and this much in the kernel, which a pod pays too.
PIECE_BYTES = 16 * 1024
READ_BYTES = 4 * 1024  # at once: what comes behind a call is held until that is answered
SEND_BUFFER_BYTES = 64 * 1024
# A chunk of one byte has five bytes of framing; whatever a body has besides (trailers) is held in memory.
FRAMED_BYTES_OF_ONE = 6


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Numbers from the settings, under the settings' names."""

    head_max_bytes: int
    head_timeout_seconds: float
    keepalive_seconds: float
    max_connections_per_address: int
    max_connections: int
    stream_write_timeout_seconds: float  # of every answer: a client that does not take it is cut


class Connections:
    """All open connections of this process by address, and how many were refused or cut, and why."""

    def __init__(
        self, limits: ConnectionLimits, trusted: Sequence[Network], headers: Mapping[str, str]
    ) -> None:
        """`headers` are those of every answer. Trusted peers stand for many clients: only the process's
        limit counts for them."""
        self.limits = limits
        self.headers = headers
        self._trusted = trusted
        self._by_address: Counter[str] = Counter()
        self._open = 0
        self._cut: Counter[str] = Counter()
        self._logged_at = float("-inf")

    def bound(self, server: web.Server) -> Callable[[], asyncio.Protocol]:
        """What asyncio makes of each connection to `server`."""
        return lambda: BoundedConnection(server, self)

    def refusal_of(self, peer: str) -> int | None:
        """The status that one more connection of `peer` gets, if it may not be."""
        if self._open >= self.limits.max_connections:
            return 503
        if is_trusted(peer, self._trusted):
            return None
        is_full = self._by_address[counted_address(peer)] >= self.limits.max_connections_per_address
        return 429 if is_full else None

    def change(self, peer: str, by: int) -> None:
        address = counted_address(peer)
        self._open += by
        metrics.open_connections.inc(by)
        self._by_address[address] += by
        if not self._by_address[address]:
            del self._by_address[address]

    def note_cut(self, reason: str) -> None:
        """Counted each time and logged once a minute: strangers choose how often it happens."""
        metrics.connections_cut.labels(reason=reason).inc()
        self._cut[reason] += 1
        now = asyncio.get_running_loop().time()
        if now - self._logged_at >= LOGGED_EVERY_SECONDS:
            self._logged_at = now
            log.warning("connections_cut", **self._cut)
            self._cut.clear()


class Calls(list[Any]):
    """What aiohttp keeps in a deque, which takes 760 bytes even when it is empty. There is one at a time."""

    __slots__ = ()

    def popleft(self) -> Any:
        return self.pop(0)


class BoundedConnection(web.RequestHandler):
    """One connection. Bytes go to the parser only as far as the head they belong to may still grow, and one
    call after the other: what is sent behind one stays bytes, and soon unread, until that one is answered."""

    __slots__ = (
        "_body",
        "_body_bytes",
        "_connections",
        "_head_bytes",
        "_head_timer",
        "_held",
        "_is_answering",
        "_is_refused",
        "_peer",
    )

    def __init__(self, server: web.Server, connections: Connections) -> None:
        limits = connections.limits
        loop = asyncio.get_running_loop()
        super().__init__(server, loop=loop, keepalive_timeout=limits.keepalive_seconds)
        self._parser = HttpRequestParser(
            self,
            loop,
            limits.head_max_bytes,
            max_line_size=limits.head_max_bytes,
            max_field_size=limits.head_max_bytes,
            payload_exception=web.RequestPayloadError,
            auto_decompress=False,  # no call takes a packed body
            max_msg_queue_size=1,
        )
        self._messages = Calls()  # type: ignore[assignment]  # as much of a deque as is asked for
        self._read_bufsize = limits.head_max_bytes
        self._msg_queue_resume_size = -1  # aiohttp would read on as soon as a call is begun
        self._connections = connections
        self._peer: str | None = None  # once it is counted
        self._head_bytes = 0  # of a head that has begun and not ended
        self._head_timer: asyncio.TimerHandle | None = None
        self._body: StreamReader = EMPTY_PAYLOAD  # of the latest call
        self._body_bytes = 0  # received since its head, framing and all
        self._is_answering = False  # a call has been read, body and all or not, whose answer is not out
        self._held = b""  # what came behind that call
        self._is_refused = False  # whatever comes now is not read

    # --- the beginning and the end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]  # asyncio's own name for it
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        super().connection_made(transport)
        peername = transport.get_extra_info("peername")
        peer = str(peername[0]) if peername else ""
        status = self._connections.refusal_of(peer)
        if status is not None:
            self._refuse(status, linger_seconds=0)
            return
        self._peer = peer
        self._connections.change(peer, 1)
        self._time_head()

    def connection_lost(self, error: BaseException | None) -> None:
        if self._peer is not None:
            self._connections.change(self._peer, -1)
            self._peer = None
        self._end_head()
        super().connection_lost(error)

    # --- heads and bodies

    def data_received(self, data: bytes) -> None:
        limit = self._connections.limits.head_max_bytes
        while not self._is_refused:
            # Behind an upgrade that is not answered yet, aiohttp keeps the bytes.
            was_body, is_upgraded = not self._body.is_eof(), self._upgraded
            is_head = not was_body and not is_upgraded
            if is_head and self._is_answering:
                if data:
                    self._held += data
                    self._pause_reading_for_buffer()
                return
            piece = data[: limit - self._head_bytes] if is_head else data[:limit]
            if data and not piece:
                self._refuse(431)
                return
            begun = self._request_count
            super().data_received(piece)
            if self._request_count > begun:
                self._take_calls(self._request_count - begun)
            elif is_head and piece:
                self._head_bytes += len(piece)
                self._time_head()
            elif was_body:
                self._body_bytes += len(piece)
                if self._body_bytes - FRAMED_BYTES_OF_ONE * self._body.total_bytes > 2 * limit:
                    self._refuse(400)
            data = data[len(piece) :]
            # The parser stops behind a body: it may hold the beginning of the next call.
            if not data and not (was_body and self._body.is_eof()):
                return

    def _read_on(self) -> None:
        """The answer is out: take up what came behind its call."""
        self._is_answering = bool(self._messages)
        if self._is_answering or self.transport is None:
            return
        held, self._held = self._held, b""
        if self._buffer_paused:
            self._resume_reading_for_buffer()
        self.data_received(held)

    def _take_calls(self, number: int) -> None:
        """Look at the `number` calls that the parser has just made, before they are answered."""
        self._end_head()
        for message, body in reversed([self._messages.pop() for _ in range(number)]):
            if isinstance(message, _ErrInfo):
                self._refuse(message.status)
                return
            if message.version not in (HttpVersion10, HttpVersion11):
                self._refuse(505)
                return
            # aiohttp's own refusal quotes it, and fails where it is no text.
            if message.headers.get(hdrs.EXPECT, "100-continue").lower() not in ("", "100-continue"):
                self._refuse(417)
                return
            self._messages.append((message._replace(raw_headers=()), body))  # a second copy of the head
            self._body, self._body_bytes = body, 0
            self._is_answering = True

    def _time_head(self) -> None:
        if self._head_timer is None:
            seconds = self._connections.limits.head_timeout_seconds
            self._head_timer = self._loop.call_later(seconds, self._end_slow_head)

    def _end_head(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_slow_head(self) -> None:
        if self._head_bytes:
            self._refuse(408)
        else:  # browsers open some that they may never use: an answer would be taken for a later call's
            self._connections.note_cut("silent")
            self.force_close()

    # --- refusals

    def _refuse(self, status: int, linger_seconds: float = LINGER_SECONDS) -> None:
        """Answer what is under way, then this, and read nothing more."""
        self._is_refused = True
        self._end_head()
        self._connections.note_cut(REASONS[status])
        error = BadHttpMessage(REASONS[status])
        if not self._body.is_eof():  # the call that waits for it answers
            self._body.set_exception(error)
            self.close()
            return
        rest = EMPTY_PAYLOAD
        if linger_seconds:
            rest = StreamReader(self, 0, loop=self._loop)
            self._loop.call_later(linger_seconds, rest.feed_eof)
        self._messages.append((_ErrInfo(status, error, ""), rest))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        super().handle_error(request, status, exc, message)  # logs our own mistakes
        return self._problem(request, status)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if not resp.prepared and resp.status >= 400 and resp.content_type != PROBLEM:
            resp = self._problem(request, resp.status)  # aiohttp's own, which may quote the request
        if isinstance(resp, web.Response) and isinstance(resp.body, bytes) and len(resp.body) > PIECE_BYTES:
            resp.body = InPieces(resp.body)
        begun = self._request_count
        try:
            async with asyncio.timeout(self._connections.limits.stream_write_timeout_seconds):
                finished = await super().finish_response(request, resp, start_time)
        except TimeoutError:
            self._connections.note_cut("answer_unread")
            if self.transport is not None:
                self.transport.abort()
            raise ConnectionResetError from None
        if self._request_count > begun:  # what stood behind a refused upgrade
            self._take_calls(self._request_count - begun)
        self._read_on()
        return finished

    def _problem(self, request: web.BaseRequest, status: int) -> web.Response:
        answer = answer_status(request, status, Refusal)
        answer.headers.update(self._connections.headers)
        answer.force_close()
        return answer


class InPieces(BytesPayload):
    """A long body, handed to the transport only as fast as its client takes it."""

    async def write(self, writer: AbstractStreamWriter) -> None:
        for begin in range(0, len(self._value), PIECE_BYTES):
            await writer.write(self._value[begin : begin + PIECE_BYTES])
            await writer.drain()


class Refusal(web.Response):
    """Goes out past the application, which else takes the banner away."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.popall(hdrs.SERVER, None)


REASONS = {
    400: "bad_request",
    408: "head_too_slow",
    417: "bad_expectation",
    429: "address_full",
    431: "head_too_large",
    503: "process_full",
    505: "bad_version",
}
