"""One open event stream, of a job or of a session: the hub's news go straight from pub/sub to the socket.

An idle stream costs its connection, a sleeping handler and little else. The handler wakes up for two
things only: the end of the stream, and a client that does not take what it is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiohttp import web

from growbin.gateway import sse
from growbin.gateway.answers import notice_event, place_event
from growbin.gateway.session_watch import SessionWatch
from growbin.gateway.watch import Watch
from growbin.ports import Backlog, PartAway

BLOCKED_LOOK_SECONDS = 0.05
PULSE_SECONDS = 0.05  # often, so that ten thousand heartbeats never hold up an event


class LiveStream:
    """Writes what `watch` brings. The response's headers must be out."""

    __slots__ = ("_is_chunked", "_protocol", "_watch", "_woken")

    def __init__(
        self, request: web.Request, response: web.StreamResponse, watch: Watch | SessionWatch
    ) -> None:
        self._protocol = request.protocol
        self._is_chunked = response.chunked
        self._watch = watch
        self._woken: asyncio.Future[None] | None = None

    async def relay(self, write_timeout_seconds: float) -> None:
        """Returns when the watch is over. Raises ReaderTooSlow when the client's buffer overflowed,
        TimeoutError when the client took nothing for too long."""
        watch = self._watch
        watch.on_news = self._send_news
        try:
            while not watch.is_over:
                if self._is_blocked:
                    await self._unblocked(write_timeout_seconds)
                self._write_news()
                if not watch.is_over:
                    self._woken = asyncio.get_running_loop().create_future()
                    await self._woken
        finally:
            watch.on_news = None

    def beat(self) -> None:
        """A comment, so that proxies and clients know the stream lives."""
        if self._is_blocked:
            self._wake_up()
        else:
            self._write(sse.HEARTBEAT)

    def tell(self, parts: Sequence[PartAway]) -> bool:
        """Notices of parts that are away. False when nobody could be told now."""
        watch = self._watch
        locale = watch.waiting_locale
        if self._is_blocked or watch.is_over or locale is None:
            return False
        job_id = watch.job_id if isinstance(watch, Watch) else None
        for away in parts:
            self._write(sse.encode_event(notice_event(away, locale, job_id)))
        return True

    @property
    def is_in_line(self) -> bool:
        return any(True for _ in self._watch.in_line)

    def tell_places(self, backlog: Backlog) -> None:
        """Of those jobs whose place has fallen."""
        for watch, place in self._watch.in_line:
            if not self._is_blocked and place.fall(backlog):
                seconds = backlog.wait_seconds(place.position)
                told = place_event(watch.job_id, place.position, seconds, place.since, watch.locale)
                self._write(sse.encode_event(told))

    @property
    def _is_blocked(self) -> bool:
        """The client leaves so much unread that the socket's buffer is full."""
        return self._protocol.writing_paused

    async def _unblocked(self, timeout_seconds: float) -> None:
        async with asyncio.timeout(timeout_seconds):
            while self._is_blocked and not self._watch.has_overflowed:
                await asyncio.sleep(BLOCKED_LOOK_SECONDS)

    def _send_news(self) -> None:
        if not self._is_blocked and not self._watch.has_overflowed:
            self._write_news()
        if self._is_blocked or self._watch.has_overflowed or self._watch.is_over:
            self._wake_up()

    def _write_news(self) -> None:
        while (entry := self._watch.take()) is not None:
            self._write(sse.encode_event(entry))

    def _write(self, data: bytes) -> None:
        # response.write() would be a coroutine, and so a task's turn, for each event of each client.
        transport = self._protocol.transport
        if transport is not None and not transport.is_closing():
            transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)

    def _wake_up(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)


class Pulse:
    """The heartbeats of all live streams by one timer, spread over the interval."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._due: dict[LiveStream, float] = {}  # by time: a stream that beats goes to the end
        self._timer: asyncio.TimerHandle | None = None

    def add(self, stream: LiveStream) -> None:
        loop = asyncio.get_running_loop()
        self._due[stream] = loop.time() + self._interval_seconds
        if self._timer is None:
            self._timer = loop.call_later(PULSE_SECONDS, self._beat)

    def remove(self, stream: LiveStream) -> None:
        del self._due[stream]

    def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        while self._due and self._due[stream := next(iter(self._due))] <= loop.time():
            del self._due[stream]
            self._due[stream] = loop.time() + self._interval_seconds
            stream.beat()
        self._timer = None
        if self._due:
            self._timer = loop.call_later(PULSE_SECONDS, self._beat)


PULSE = web.AppKey("pulse", Pulse)
