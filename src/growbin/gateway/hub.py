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
from growbin.gateway.watch import NOBODYS_ID, Watch
from growbin.job import ENTRY_ID, EXPIRY_MARGIN_SECONDS, JobState, LogEntry
from growbin.ports import ProgressFeed, ProgressReader
from growbin.telemetry import metrics

log = structlog.get_logger()

REREAD_PAUSE_SECONDS = 0.5
REREADS_AT_ONCE = 64

QUEUED = '"stage":"queued"'  # as the script writes it; parsing every event would cost more than sending it

# Told of a session's job that is new or driven again; None: of some there may have been no word.
OnSessionJob = Callable[[UUID | None], None]


class Topic:
    """One job that somebody here watches."""

    __slots__ = ("expiry", "watches")

    def __init__(self) -> None:
        self.watches: list[Watch] = []
        self.expiry: asyncio.TimerHandle | None = None

    @property
    def is_due_later(self) -> bool:
        """As far as was read: its deadline is still to come."""
        return self.expiry is not None and self.expiry.when() > asyncio.get_running_loop().time()


class Hub:
    """All open streams of one gateway."""

    def __init__(self, progress: ProgressReader, buffer_events: int) -> None:
        self._progress = progress
        self._buffer_events = buffer_events
        self._feed: ProgressFeed
        self._topics: dict[UUID, Topic] = {}
        self._sessions: dict[str, list[OnSessionJob]] = {}
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
        """`begin` and `follow` in one."""
        watch = await self.begin(job_id, last_id, on_news)
        try:
            await self.follow(watch)
        except BaseException:
            await self.leave(watch)
            raise
        return watch

    async def begin(
        self, job_id: UUID, last_id: str | None, on_news: Callable[[], None] | None = None
    ) -> Watch:
        """A watch that `follow` brings to life and `leave` ends. Its subscription is asked for."""
        if last_id is not None and not re.fullmatch(ENTRY_ID, last_id):
            last_id = NOBODYS_ID
        watch = Watch(job_id, last_id, self._buffer_events, on_news)
        self._topics.setdefault(job_id, Topic()).watches.append(watch)
        try:
            await self._feed.request(job_id)
        except BaseException:
            await self.leave(watch)
            raise
        return watch

    async def follow(self, watch: Watch) -> JobState | None:
        """Read the log and go on live; returns the job as it was read. Raises Unavailable when Redis does not
        answer in time."""
        await self._feed.subscribe(watch.job_id)
        state = await self._read(watch)
        if self.is_draining:
            watch.close()
        return state

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

    async def follow_session(self, owner: str, on_job: OnSessionJob) -> None:
        """`leave_session` ends it, also when this raised Unavailable."""
        self._sessions.setdefault(owner, []).append(on_job)
        await self._feed.subscribe_session(owner)

    async def leave_session(self, owner: str, on_job: OnSessionJob) -> None:
        self._sessions[owner].remove(on_job)
        if not self._sessions[owner]:
            del self._sessions[owner]
            await self._feed.unsubscribe_session(owner)

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
        for listeners in self._sessions.values():
            for on_job in listeners:
                on_job(None)

    def on_session_job(self, owner: str, job_id: UUID) -> None:
        for on_job in self._sessions.get(owner, ()):
            on_job(job_id)

    # --- reading the log

    async def _read(self, watch: Watch) -> JobState | None:
        state: JobState | None = None
        is_complete = False
        while not is_complete:
            watch.begin_reading()
            history = await self._progress.history(watch.job_id, watch.last_id)
            if history is None:
                state, is_complete = None, watch.finish_reading([])
                continue
            state = history.state
            if state.is_erased:
                watch.finish_reading([])
                watch.close()  # who comes back hears that there is no such job
                return state
            watch.locale = state.locale
            self._expire_in(watch.job_id, state)
            if state.entry.ends and state.run < watch.run:
                # Redis has lost that the job was driven again; until it is due, its delivery may tell.
                is_complete = watch.finish_reading([])
                continue
            watch.run = state.run
            entries = history.entries
            if state.entry.ends and watch.last_id == state.entry.id:
                watch.end_without_news()
            if history.reset:
                metrics.streams_reset.inc()
                entries = [_reset(state), *entries]
            is_complete = watch.finish_reading(entries)
        return state

    def _read_again(self, watch: Watch) -> None:
        if watch.is_reading:
            watch.is_stale = True
        elif not watch.has_ended:
            watch.begin_reading()
            self.spawn(self._read_until_it_works(watch))

    async def _read_until_it_works(self, watch: Watch) -> None:
        is_read = False
        while not is_read:
            try:
                async with self._readers:
                    await self._read(watch)
                is_read = True
            except Unavailable as error:
                log.warning("log_unread", reason=error.reason)
                await asyncio.sleep(REREAD_PAUSE_SECONDS)
            except Exception:
                log.exception("log_unreadable", job_id=str(watch.job_id))
                watch.close()  # better ended, to be asked for again, than silent for ever
                is_read = True

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
        self.spawn(self._expire(job_id))

    async def _expire(self, job_id: UUID) -> None:
        try:
            state = await self._progress.state(job_id)  # expires, and so announces, what is due
        except Unavailable:
            await asyncio.sleep(REREAD_PAUSE_SECONDS)
            return self.spawn(self._expire(job_id))
        topic = self._topics.get(job_id)
        if topic is None:
            return None
        if state is None and topic.is_due_later:
            return None  # Redis lost the job just now: its delivery may bring it back
        if state is None or state.is_erased:
            # Deleted; or everything about the job was lost, and its deadline has passed. The stream ends
            # without a terminal event, and a client that comes back hears that there is no such job.
            for watch in topic.watches:
                watch.close()
            return None
        self._expire_in(job_id, state)
        for watch in topic.watches:
            if not topic.is_due_later:
                watch.run = state.run  # nothing has brought back a later one
            if watch.is_behind(state.entry):
                self._read_again(watch)  # whatever the live side should have brought
        return None

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that goes on beside the streams, and ends with the hub."""
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
