"""One stream for all of a session's unfinished jobs: their watches in one, new jobs joining.

An id of this stream is an opaque vector: for each job that is not delivered to its end, the last id that was
sent; and the newest job that was known. Jobs of the session's list that are newer are new to the client, even
when they have ended; older ones not in the vector were delivered, and are reset if they go on. Of one driven
again the last id stays in the vector, so that its runs are told apart. A Redis that was set back may not know
the newest job: then nobody can say which of the others were delivered, and they are reset.

Which jobs there are is told by the hub; a slow look at the list stays, for what a gateway of another version
does not tell. A stream at rest costs its connection and its place in that look.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Self
from uuid import UUID

import structlog

from growbin.errors import Unavailable
from growbin.gateway.hub import REREAD_PAUSE_SECONDS, Hub
from growbin.gateway.session_id import Vector
from growbin.gateway.slow_looks import SlowLooks
from growbin.gateway.watch import NOBODYS_ID, Place, Watch
from growbin.job import RECENT_JOBS, JobState, Locale, LogEntry, job_of
from growbin.ports import GatewayProgress, JobRecords

log = structlog.get_logger()

STAY_OPEN_SECONDS = 60.0
FIRST_ENTRY = ".1."  # in its id: no more than that the upload is awaited
MAKING_SECONDS = 2.0  # within which a job that is listed has its record: that is one call later


class SessionWatch:
    """Like one Watch, over all jobs of an owner; ends a while after the last job has ended."""

    __slots__ = (
        "_again",
        "_closing",
        "_ended",
        "_has_closed",
        "_hub",
        "_is_looking",
        "_must_look",
        "_newest",
        "_owner",
        "_progress",
        "_records",
        "_sent",
        "_told",
        "_unopened",
        "_watches",
        "on_news",
    )

    def __init__(self, hub: Hub, records: JobRecords, progress: GatewayProgress, owner: str) -> None:
        self._hub = hub
        self._records = records
        self._progress = progress
        self._owner = owner
        self._watches: dict[UUID, Watch] = {}
        self._sent: dict[UUID, str] = {}  # what waits in the watches' buffers is not sent
        self._ended: dict[UUID, str] = {}  # the last id of those that ended here
        self._again: set[UUID] = set()  # those of which there was more than one run
        self._unopened: dict[UUID, str | None] = {}  # listed, nothing in their logs yet; the last id sent
        self._newest: UUID | None = None
        self._told: dict[UUID, None] = {}  # heard of, not yet looked at, in order
        self._must_look = False
        self._is_looking = True  # until `_begin` is through
        self._closing: asyncio.TimerHandle | None = None
        self._has_closed = False
        self.on_news: Callable[[], None] | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        hub: Hub,
        records: JobRecords,
        progress: GatewayProgress,
        looks: SlowLooks,
        owner: str,
        last_id: str | None,
    ) -> AsyncIterator[Self]:
        """Raises Unavailable on entering when Redis does not answer in time."""
        watch = cls(hub, records, progress, owner)
        hub.on_drain.add(watch._wake_up)
        looks.add(watch)
        try:
            try:
                await hub.follow_session(owner, watch._hear)
                await watch._begin(last_id)
                watch._stay_open()
                yield watch
            finally:
                await hub.leave_session(owner, watch._hear)
        finally:
            looks.remove(watch)
            hub.on_drain.discard(watch._wake_up)
            watch._has_closed = True
            watch._stay_open()
            for joined in watch._watches.values():
                await hub.leave(joined)

    # --- the client's side

    @property
    def nothing_missed(self) -> bool:
        """No job is under way, none has news, and none that the client has heard of may still come back."""
        heard_of = {*self._unopened.values()} - {None, "", NOBODYS_ID}
        return not (self._watches or self._told or self._must_look or heard_of)

    @property
    def has_ended(self) -> bool:
        return not self._hub.is_draining

    @property
    def waiting_locale(self) -> Locale | None:
        """The language of one of the jobs that have not ended; None when there is none."""
        return next((watch.locale for watch in self._watches.values() if not watch.has_ended), None)

    @property
    def in_line(self) -> Iterable[tuple[Watch, Place]]:
        """Those of its jobs' that are in line."""
        return [found for watch in self._watches.values() for found in watch.in_line]

    @property
    def has_overflowed(self) -> bool:
        return any(watch.has_overflowed for watch in self._watches.values())

    @property
    def is_over(self) -> bool:
        """Nothing will come any more: its time is over, or the gateway drains."""
        return (self._has_closed or self._hub.is_draining) and not any(
            watch.has_news for watch in self._watches.values()
        )

    def take(self) -> LogEntry | None:
        """The next entry of any job, with this stream's id, if there is one now. Raises ReaderTooSlow."""
        for job_id, watch in list(self._watches.items()):
            entry = watch.take()
            if entry is not None:
                self._sent[job_id] = entry.id
                if entry.event == "reset":
                    self._again.add(job_id)  # it may be a new run, of which only the log has told
            if watch.is_over and not self._hub.is_draining:
                self._let_go(job_id, watch)
            if entry is not None:
                return LogEntry(self._vector().encode(), entry.event, entry.data)
        return None

    def _vector(self) -> Vector:
        under_way = {job: self._sent[job] for job in self._watches}
        again = {job: self._ended[job] for job in self._again if job in self._ended}
        unopened = {job: seen or "" for job, seen in self._unopened.items()}
        return Vector(self._newest, {**unopened, **again, **under_way})

    def _let_go(self, job_id: UUID, watch: Watch) -> None:
        del self._watches[job_id]
        last_id = self._sent.pop(job_id)
        if watch.has_ended:
            self._ended[job_id] = last_id
        else:  # it was deleted, or was due and Redis had lost it: a look tells
            self._unopened[job_id] = last_id
            self._told[job_id] = None
        self._hub.spawn(self._hub.leave(watch))
        self._stay_open()
        if job_id in self._told:
            self._look_soon()

    def _stay_open(self) -> None:
        """A while longer, from the end of the last job on."""
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        if not self._watches and not self._has_closed:
            self._closing = asyncio.get_running_loop().call_later(STAY_OPEN_SECONDS, self._close)

    def _close(self) -> None:
        self._has_closed = True
        self._wake_up()

    def _wake_up(self) -> None:
        if self.on_news is not None:
            self.on_news()

    # --- which jobs

    @property
    def owner(self) -> str:
        return self._owner

    def knows(self, newest: UUID | None) -> bool:
        return newest is None or newest == self._newest

    def look(self) -> None:
        """The list has changed, and nobody said so."""
        self._must_look = True
        self._look_soon()

    def _hear(self, job_id: UUID | None) -> None:
        """Told by the hub; None: whatever was said lately may be lost."""
        self._must_look |= job_id is None
        self._told.update(dict.fromkeys([*self._ended, *self._unopened] if job_id is None else [job_id]))
        self._look_soon()

    def _look_soon(self) -> None:
        if not self._is_looking and not self._has_closed:
            self._is_looking = True
            self._hub.spawn(self._look_until_done())

    async def _look_until_done(self) -> None:
        while not self._has_closed and (self._must_look or self._may_be_under_way()):
            try:
                await self._look()
            except Unavailable as error:
                log.warning("session_unread", reason=error.reason)
                await asyncio.sleep(REREAD_PAUSE_SECONDS)
            except Exception:
                log.exception("session_unreadable")
                self._close()  # better ended, to be asked for again, than deaf for ever
        self._is_looking = False

    def _may_be_under_way(self) -> list[UUID]:
        """Told of, and not watched. What is watched waits until the client has its end."""
        return [job_id for job_id in self._told if job_id not in self._watches]

    async def _look(self) -> None:
        told = self._may_be_under_way()
        for job_id in told:
            del self._told[job_id]  # whatever is said from now on is something else
        self._must_look = False
        try:
            recent = list(await self._records.recent(self._owner, RECENT_JOBS))
            new = recent[: recent.index(self._newest)] if self._newest in recent else recent
            was_set_back = self._newest is not None and new is recent
            for job_id in reversed(new):
                if job_id not in self._watches and job_id not in self._ended:
                    await self._join(job_id, self._unopened.get(job_id))
                if not was_set_back or job_id == recent[0]:
                    self._newest = job_id
                self._wake_up()  # not before: an id that does not know the job would have it told again
            for job_id in told:
                if job_id not in self._watches:
                    await self._join_again(job_id)
                self._wake_up()
        except Unavailable:
            self._must_look = True
            self._told.update(dict.fromkeys(told))
            raise
        self._hub.spawn(self._forget_unmade())

    async def _begin(self, last_id: str | None) -> None:
        """Join what the client has not seen to its end, the oldest first."""
        recent = list(dict.fromkeys(await self._records.recent(self._owner, RECENT_JOBS)))
        vector = Vector.decode(last_id) if last_id else None
        known = recent.index(vector.newest) if vector and vector.newest in recent else len(recent)
        was_set_back = vector is not None and known == len(recent) and await self._is_lost(vector, recent)
        listed = list(dict.fromkeys([*recent, *(vector.last_ids if vector else ())]))  # it may be set back
        states = await asyncio.gather(*map(self._progress.state, listed))
        places: dict[UUID, str | None] = {}
        for place, (job_id, state) in reversed(list(enumerate(zip(listed, states, strict=True)))):
            if state is not None and state.owner != self._owner:
                continue
            ends = state is not None and state.entry.ends
            if last_id is not None and vector is None:
                places[job_id] = NOBODYS_ID  # an id that we cannot have given: a reset, never silence
            elif vector is not None and job_id in vector.last_ids:
                places[job_id] = vector.last_ids[job_id] or None
            elif vector is not None and place < known:
                # Made since; where the list has lost what we knew it may have been told before.
                places[job_id] = NOBODYS_ID if was_set_back else None
            elif vector is None and not ends:
                places[job_id] = None
            elif vector is not None and state is not None and (state.run > 1 or not ends):
                places[job_id] = NOBODYS_ID  # delivered to its end, and driven again or set back since
            elif state is not None:
                self._note_end(job_id, state)
            if state is None and job_id in places:
                self._unopened[job_id] = places.pop(job_id)
        await asyncio.gather(*(self._join(job_id, seen) for job_id, seen in places.items()))
        await self._look_at_unopened(recent)
        self._newest = recent[0] if recent else None
        self._is_looking = False
        self._hub.spawn(self._forget_unmade())
        if self._must_look:
            self._hear(None)  # what has ended was read before the loss
        elif self._told:
            self._look_soon()

    async def _look_at_unopened(self, recent: list[UUID]) -> None:
        """Before it is said that there is nothing to wait for. Whoever looks, mends: an accepted job whose
        log was lost has one again, and comes to its end. A ticket that was told, stands on the list and has
        no record has run out while nobody looked."""
        unopened = list(self._unopened.items())
        records = await asyncio.gather(*(self._records.get(job_id) for job_id, _ in unopened))
        for (job_id, seen), record in zip(unopened, records, strict=True):
            if record is not None:
                self._told[job_id] = None
                if record.published:
                    await self._progress.queue_job(job_of(record))
            elif seen and FIRST_ENTRY in seen and job_id in recent:
                del self._unopened[job_id]

    async def _is_lost(self, vector: Vector, recent: list[UUID]) -> bool:
        """Whether Redis has lost the newest job that the client knew, which does not stand on the list. Later
        jobs may have pushed it from a full one."""
        if vector.newest is None:
            return False
        return len(recent) < RECENT_JOBS or await self._progress.state(vector.newest) is None

    async def _forget_unmade(self) -> None:
        """What has neither log nor record, and not only just now, is an old ticket: nothing can become of it.
        Should its maker have been frozen instead, the word of its log still brings it. What the client has
        heard of was lost by Redis, and a delivery may bring it back: the id goes on naming it."""
        if not (unopened := list(self._unopened)):
            return
        await asyncio.sleep(MAKING_SECONDS)
        with suppress(Unavailable):  # a longer id, then
            records = await asyncio.gather(*map(self._records.get, unopened))
            for job_id, record in zip(unopened, records, strict=True):
                if record is None and self._unopened.get(job_id) in (None, "", NOBODYS_ID):
                    self._unopened.pop(job_id, None)

    async def _join(self, job_id: UUID, last_id: str | None) -> None:
        watch = await self._hub.begin(job_id, last_id, self._wake_up)
        is_wanted = False
        try:
            state = await self._hub.follow(watch)
            if state is None:
                self._unopened[job_id] = last_id
                return
            self._unopened.pop(job_id, None)
            if state.is_erased:
                self._ended[job_id] = last_id or ""  # a Redis that is set back may bring it back
            if state.is_erased or state.owner != self._owner or self._has_closed:
                return
            if watch.nothing_missed:
                self._note_end(job_id, state)
                return
            if state.run > 1:
                self._again.add(job_id)
            self._watches[job_id], self._sent[job_id] = watch, last_id or ""
            is_wanted = True
        finally:
            if not is_wanted:
                await self._hub.leave(watch)
        self._stay_open()

    async def _join_again(self, job_id: UUID) -> None:
        """One that has ended, as far as we know. Its client gets `reset`, then the new run."""
        state = await self._progress.state(job_id)
        seen = self._ended.get(job_id)
        if job_id in self._unopened:
            await self._join(job_id, self._unopened[job_id])
        elif state is not None and state.entry.id != seen:
            is_new = '"stage":"awaiting_upload"' in state.entry.data  # else brought back, or driven again
            await self._join(job_id, seen or (None if is_new else NOBODYS_ID))

    def _note_end(self, job_id: UUID, state: JobState) -> None:
        self._ended[job_id] = state.entry.id
        if state.run > 1:
            self._again.add(job_id)
