"""Fan-out inside one gateway: one live subscription for the process, a small buffer for each client.

Exactly once and in order comes from one rule: subscribe and await the confirmation, read the log,
then drop what was already sent. Whatever does not follow the last entry sends us back to the log,
because the log is the truth and pub/sub only the fast path.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import structlog

from growbin.errors import Unavailable
from growbin.job import ENTRY_ID, EXPIRY_MARGIN_SECONDS, JobState, Locale, LogEntry
from growbin.ports import ProgressFeed, ProgressReader

log = structlog.get_logger()

REREAD_PAUSE_SECONDS = 0.5
REREADS_AT_ONCE = 64

QUEUED = '"stage":"queued"'  # as the script writes it; parsing every event would cost more than sending it
NOBODYS_ID = "0.0.0"  # in no log: who holds it gets a reset


class ReaderTooSlow(Exception):
    """The client's buffer is full: it is cut, and may resume with its last id."""


class Watch:
    """One client's view of one job: history first, then live, ending after the terminal entry.
    `on_news` is called whenever there may be something to take."""

    __slots__ = (
        "_buffer",
        "_buffer_events",
        "_early",
        "_ended",
        "_is_closing",
        "_wake",
        "has_overflowed",
        "is_stale",
        "job_id",
        "last_id",
        "locale",
        "nothing_missed",
        "on_news",
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
        self.nothing_missed = False
        self.has_overflowed = False
        self.is_stale = False  # what is being read may be older than a loss of the live side
        self._buffer: list[LogEntry] = []  # short, mostly empty: an empty deque takes ten times as much
        self._buffer_events = buffer_events
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
        return self._buffer.pop(0) if self._buffer else None

    @property
    def is_over(self) -> bool:
        """Nothing will come any more: the terminal entry was taken, or the gateway drains."""
        return not self._buffer and (self._ended or self._is_closing)

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
        if entry.seq == int(seq) + 1:
            self._push(entry)
        return True

    @property
    def is_reading(self) -> bool:
        return self._early is not None

    def begin_reading(self) -> None:
        self._early = []
        self.is_stale = False

    def finish_reading(self, entries: list[LogEntry]) -> bool:
        """Send what was read, then what arrived meanwhile. False: something is missing, read again."""
        early, self._early = self._early or [], None
        for entry in entries:
            self._push(entry)
        return all(self.offer(entry) for entry in early) and not self.is_stale

    def end_without_news(self) -> None:
        """The client has seen the terminal entry before."""
        self.nothing_missed = self._ended = True

    def close(self) -> None:
        """The gateway drains."""
        self._is_closing = True
        self._wake_up()

    def _push(self, entry: LogEntry) -> None:
        if self._ended:
            return
        self.last_id = entry.id
        self._ended = entry.ends
        if len(self._buffer) >= self._buffer_events:
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


class Topic:
    """One job that somebody here watches."""

    __slots__ = ("expiry", "watches")

    def __init__(self) -> None:
        self.watches: list[Watch] = []
        self.expiry: asyncio.TimerHandle | None = None


class Hub:
    """All open streams of one gateway."""

    def __init__(self, progress: ProgressReader, buffer_events: int) -> None:
        self._progress = progress
        self._buffer_events = buffer_events
        self._feed: ProgressFeed
        self._topics: dict[UUID, Topic] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._readers = asyncio.Semaphore(REREADS_AT_ONCE)
        self.is_draining = False
        self.on_drain: set[Callable[[], None]] = set()  # of streams that may have no watch just now

    def attach(self, feed: ProgressFeed) -> None:
        """The feed calls `on_entry` and `on_loss`, so hub and feed need each other."""
        self._feed = feed

    @property
    def watched_jobs(self) -> int:
        return len(self._topics)

    async def join(
        self, job_id: UUID, last_id: str | None, on_news: Callable[[], None] | None = None
    ) -> Watch:
        """Begin a watch; `leave` ends it. Raises Unavailable when Redis does not answer in time."""
        if last_id is not None and not re.fullmatch(ENTRY_ID, last_id):
            last_id = NOBODYS_ID
        watch = Watch(job_id, last_id, self._buffer_events, on_news)
        self._topics.setdefault(job_id, Topic()).watches.append(watch)
        try:
            await self._feed.subscribe(job_id)
            await self._read(watch)
        except BaseException:
            await self.leave(watch)
            raise
        if self.is_draining:
            watch.close()
        return watch

    async def leave(self, watch: Watch) -> None:
        topic = self._topics[watch.job_id]
        topic.watches.remove(watch)
        if not topic.watches:
            del self._topics[watch.job_id]
            if topic.expiry is not None:
                topic.expiry.cancel()
            await self._feed.unsubscribe(watch.job_id)

    @asynccontextmanager
    async def watch(self, job_id: UUID, last_id: str | None) -> AsyncIterator[Watch]:
        """`join` and `leave` around a block."""
        watch = await self.join(job_id, last_id)
        try:
            yield watch
        finally:
            await self.leave(watch)

    async def drain(self) -> None:
        """End every stream; their clients resume elsewhere."""
        self.is_draining = True
        for wake_up in self.on_drain:
            wake_up()
        for topic in self._topics.values():
            for watch in topic.watches:
                watch.close()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # --- called by the feed

    def on_entry(self, job_id: UUID, entry: LogEntry) -> None:
        topic = self._topics.get(job_id)
        if topic is not None and QUEUED in entry.data:
            self._expire_now(job_id)  # the deadline is another one now
        for watch in topic.watches if topic else ():
            if not watch.offer(entry):
                self._read_again(watch)

    def on_gap(self, job_id: UUID) -> None:
        """Something about this job came that could not be read: its streams go back to the log."""
        topic = self._topics.get(job_id)
        for watch in topic.watches if topic else ():
            self._read_again(watch)

    def on_loss(self) -> None:
        """Whatever was published lately may be lost: every stream goes back to the log."""
        for job_id in self._topics:
            self.on_gap(job_id)

    # --- reading the log

    async def _read(self, watch: Watch) -> None:
        is_complete = False
        while not is_complete:
            watch.begin_reading()
            history = await self._progress.history(watch.job_id, watch.last_id)
            if history is None:
                watch.finish_reading([])
                return
            state = history.state
            if state.is_erased:
                watch.finish_reading([])
                watch.close()  # who comes back hears that there is no such job
                return
            watch.locale = state.locale
            self._expire_in(watch.job_id, state)
            entries = history.entries
            if state.entry.ends and watch.last_id == state.entry.id:
                watch.end_without_news()
            if history.reset:
                entries = [_reset(state), *entries]
            is_complete = watch.finish_reading(entries)

    def _read_again(self, watch: Watch) -> None:
        if watch.is_reading:
            watch.is_stale = True
        elif not watch.has_ended:
            watch.begin_reading()
            self._spawn(self._read_until_it_works(watch))

    async def _read_until_it_works(self, watch: Watch) -> None:
        while True:
            try:
                async with self._readers:
                    return await self._read(watch)
            except Unavailable as error:
                log.warning("log_unread", reason=error.reason)
                await asyncio.sleep(REREAD_PAUSE_SECONDS)

    # --- whoever looks, expires: so does an open stream

    def _expire_in(self, job_id: UUID, state: JobState) -> None:
        topic = self._topics.get(job_id)
        if topic is None or state.entry.ends:
            return
        if topic.expiry is not None:
            topic.expiry.cancel()
        wait_seconds = max(0.0, state.left_seconds) + EXPIRY_MARGIN_SECONDS
        loop = asyncio.get_running_loop()
        topic.expiry = loop.call_later(wait_seconds, self._expire_now, job_id)

    def _expire_now(self, job_id: UUID) -> None:
        self._spawn(self._expire(job_id))

    async def _expire(self, job_id: UUID) -> None:
        try:
            state = await self._progress.state(job_id)  # expires, and so announces, what is due
        except Unavailable:
            await asyncio.sleep(REREAD_PAUSE_SECONDS)
            return self._spawn(self._expire(job_id))
        topic = self._topics.get(job_id)
        if state is not None:
            self._expire_in(job_id, state)
        elif topic is not None:
            # Everything about the job was lost, and its deadline has passed: the stream ends without a
            # terminal event, and a client that comes back hears that there is no such job.
            for watch in topic.watches:
                watch.close()
        return None

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _reset(state: JobState) -> LogEntry:
    """A full snapshot for a client whose history is not ours. For an ended job its id is one that is
    in no log, so that a client cut before the terminal event gets both again."""
    entry_id = state.entry.id
    if state.entry.ends:
        entry_id = f"{state.entry.epoch}.{state.entry.seq - 1}.reset"
    return LogEntry(entry_id, "reset", state.entry.data)
