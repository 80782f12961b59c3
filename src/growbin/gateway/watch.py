"""One client's view of one job: what was sent, what waits to be sent, and whether something is missing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self
from uuid import UUID

from growbin.job import Locale, LogEntry, Stage
from growbin.ports import Backlog

NOBODYS_ID = "0.0.0"  # in no log: who holds it gets a reset


class ReaderTooSlow(Exception):
    """The client's buffer is full: it is cut, and may resume with its last id."""


@dataclass(slots=True)
class Place:
    """In line: the position that its client was told last, since when it waits, and the broker's count when
    its turn comes."""

    position: int
    since: str
    turn: int

    @classmethod
    def of(cls, entry: LogEntry) -> Self | None:
        """None where nothing is known, or nothing will change."""
        if entry.event != "progress" or '"turn":' not in entry.data:
            return None  # parsing every event would cost more than sending it
        event = json.loads(entry.data)
        if event["stage"] != Stage.QUEUED or not event.get("turn") or event.get("position", 1) < 2:
            return None
        return cls(event["position"], event["updated_at"], event["turn"])

    def fall(self, backlog: Backlog) -> bool:
        """Whether it has fallen by a tenth, at least by one: then it is worth a word. A broker that counts
        anew lifts nobody."""
        now = max(1, self.turn - (backlog.handed_out or 0))
        if self.position - now < max(1, self.position // 10):
            return False
        self.position = now
        return True


class Watch:
    """One client's view of one job: history first, then live, ending after the terminal entry.
    `on_news` is called whenever there may be something to take."""

    __slots__ = (
        "_buffer",
        "_buffer_events",
        "_early",
        "_ended",
        "_is_closing",
        "_room_events",
        "_wake",
        "has_overflowed",
        "is_stale",
        "job_id",
        "last_id",
        "locale",
        "nothing_missed",
        "on_news",
        "place",
        "run",
    )

    def __init__(
        self,
        job_id: UUID,
        last_id: str | None,
        buffer_events: int,
        on_news: Callable[[], None] | None = None,
    ) -> None:
        self.job_id = job_id
        self.on_news = on_news
        self.last_id = last_id
        self.locale: Locale = "ko"  # of its job, once the log was read
        self.place: Place | None = None  # as its client knows it
        self.run = 1  # of its job, the latest that its client was told of
        self.nothing_missed = False
        self.has_overflowed = False
        self.is_stale = False  # what is being read may be older than a loss of the live side
        self._buffer: list[LogEntry] = []  # short, mostly empty: an empty deque takes ten times as much
        self._buffer_events = self._room_events = buffer_events
        self._early: list[LogEntry] | None = []  # live entries that arrive while the log is read
        self._wake: asyncio.Future[None] | None = None
        self._ended = False
        self._is_closing = False

    # --- the client's side

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> LogEntry:
        entry = await self.next(None)
        assert entry is not None
        return entry

    async def next(self, timeout_seconds: float | None) -> LogEntry | None:
        """The next entry, or None when there was none in time. Raises StopAsyncIteration after the
        terminal entry or when the gateway drains, ReaderTooSlow when the buffer overflowed."""
        while (entry := self.take()) is None:
            if self.is_over:
                raise StopAsyncIteration
            self._wake = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._wake
            except TimeoutError:
                return None
            finally:
                self._wake = None
        return entry

    def take(self) -> LogEntry | None:
        """The next entry if there is one now. Raises ReaderTooSlow."""
        if self.has_overflowed:
            raise ReaderTooSlow
        if not self._buffer:
            return None
        entry = self._buffer.pop(0)
        self.place = Place.of(entry)
        return entry

    @property
    def in_line(self) -> Iterable[tuple[Watch, Place]]:
        """This one and its place, while its job is in line."""
        return ((self, self.place),) if self.place is not None else ()

    @property
    def has_news(self) -> bool:
        return bool(self._buffer)

    @property
    def is_over(self) -> bool:
        """Nothing will come any more: the terminal entry was taken, or the gateway drains."""
        return not self._buffer and (self._ended or self._is_closing)

    @property
    def waiting_locale(self) -> Locale | None:
        """The job's language, while it has not ended."""
        return None if self._ended else self.locale

    # --- the hub's side

    @property
    def has_ended(self) -> bool:
        return self._ended

    def offer(self, entry: LogEntry) -> bool:
        """Take a live entry. False when it does not follow what was sent: read the log again."""
        if self._ended:
            return True
        if self._early is not None:
            self._early.append(entry)
            return True
        if self.last_id is None:
            return False
        epoch, seq, _ = self.last_id.split(".")
        if entry.epoch != epoch or entry.seq > int(seq) + 1:
            return False
        if entry.seq == int(seq) and entry.id != self.last_id:
            return False  # another history's
        if entry.seq == int(seq) + 1:
            self._push(entry)
        return True

    def is_behind(self, entry: LogEntry) -> bool:
        """Whether the log, of which this is the latest, holds what was not sent."""
        if self._ended or self.last_id == entry.id:
            return False
        epoch, seq, _ = (self.last_id or NOBODYS_ID).split(".")
        return entry.epoch != epoch or entry.seq >= int(seq)  # an equal number is another history's

    @property
    def is_reading(self) -> bool:
        return self._early is not None

    def begin_reading(self) -> None:
        self._early = []
        self.is_stale = False

    def finish_reading(self, entries: list[LogEntry]) -> bool:
        """Send what was read, then what arrived meanwhile. False: something is missing, read again. After the
        end nothing is: a second reading would take it for one that the client has seen."""
        early, self._early = self._early or [], None
        # A log longer than the buffer overflows nobody's: its reader could never begin.
        self._room_events = len(self._buffer) + len(entries) + self._buffer_events
        for entry in entries:
            self._push(entry)
        return all(self.offer(entry) for entry in early) and (self._ended or not self.is_stale)

    def end_without_news(self) -> None:
        """The client has seen the terminal entry before."""
        self.nothing_missed = self._ended = True

    def close(self) -> None:
        """The gateway drains, or the job has gone."""
        self._is_closing = True
        self._wake_up()

    def _push(self, entry: LogEntry) -> None:
        if self._ended:
            return
        self.last_id = entry.id
        self._ended = entry.ends
        if len(self._buffer) >= self._room_events:
            self.has_overflowed = True
            self._buffer.clear()
        else:
            self._buffer.append(entry)
        self._wake_up()

    def _wake_up(self) -> None:
        if self.on_news is not None:
            self.on_news()
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
