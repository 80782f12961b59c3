"""One stream for all of a session's unfinished jobs: their watches in one, new jobs joining.

An id of this stream is an opaque vector: for each job that is not delivered to its end, the last id
that was sent; and the newest job that was known. Jobs of the session's list that are newer are new to
the client, even when they have ended since; older ones that are not in the vector were delivered.
"""

from __future__ import annotations

import asyncio
import base64
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Self
from uuid import UUID

from growbin.errors import Unavailable
from growbin.gateway.hub import NOBODYS_ID, Hub, Watch
from growbin.job import RECENT_JOBS, LogEntry
from growbin.ports import JobRecords, JobStates

LOOK_FOR_NEW_SECONDS = 1.0
STAY_OPEN_SECONDS = 60.0
LONGEST_ID = 8000


@dataclass(frozen=True, slots=True)
class Vector:
    """Where a client is. `newest` is the newest job it knows of; a job's id is "" before its first event."""

    newest: UUID | None
    last_ids: dict[UUID, str]

    def encode(self) -> str:
        jobs = {job_id.hex: last_id for job_id, last_id in self.last_ids.items()}
        text = json.dumps([self.newest.hex if self.newest else "", jobs], separators=(",", ":"))
        return base64.urlsafe_b64encode(zlib.compress(text.encode())).decode()

    @classmethod
    def decode(cls, text: str) -> Self | None:
        """None for what we cannot have given."""
        try:
            # A stranger's bytes may unpack to anything: never to more than a vector can be.
            packed = zlib.decompressobj().decompress(
                base64.urlsafe_b64decode(text[:LONGEST_ID]), 4 * LONGEST_ID
            )
            newest, jobs = json.loads(packed)
            last_ids = {UUID(job_id): str(last_id) for job_id, last_id in list(jobs.items())[:RECENT_JOBS]}
            return cls(UUID(newest) if newest else None, last_ids)
        except (ValueError, TypeError, AttributeError, RecursionError, zlib.error):
            return None


class SessionWatch:
    """Like one Watch, over all jobs of an owner; ends a while after the last job has ended."""

    def __init__(self, hub: Hub, records: JobRecords, progress: JobStates, owner: str) -> None:
        self._hub = hub
        self._records = records
        self._progress = progress
        self._owner = owner
        self._watches: dict[UUID, Watch] = {}
        self._sent: dict[UUID, str] = {}  # what waits in the watches' buffers is not sent
        self._newest: UUID | None = None
        self._news = asyncio.Event()
        self._ends_at = self._looks_at = 0.0
        self._is_draining = False

    @classmethod
    @asynccontextmanager
    async def open(
        cls, hub: Hub, records: JobRecords, progress: JobStates, owner: str, last_id: str | None
    ) -> AsyncIterator[Self]:
        """Raises Unavailable on entering when Redis does not answer in time."""
        watch = cls(hub, records, progress, owner)
        hub.on_drain.add(watch._news.set)
        try:
            await watch._begin(last_id)
            yield watch
        finally:
            hub.on_drain.discard(watch._news.set)
            for joined in watch._watches.values():
                await hub.leave(joined)

    @property
    def nothing_missed(self) -> bool:
        """No job is under way and none has news."""
        return not self._watches

    @property
    def has_ended(self) -> bool:
        return not self._is_draining

    async def next(self, timeout_seconds: float) -> LogEntry | None:
        """The next entry of any job, with this stream's id, or None when there was none in time.
        Raises StopAsyncIteration at the end, ReaderTooSlow."""
        loop = asyncio.get_running_loop()
        gives_up_at = loop.time() + timeout_seconds
        while True:
            self._news.clear()
            if (entry := await self._take()) is not None:
                return entry
            if self._watches:
                self._ends_at = loop.time() + STAY_OPEN_SECONDS
            self._is_draining = self._is_draining or self._hub.is_draining
            if self._is_draining or loop.time() >= self._ends_at:
                raise StopAsyncIteration
            if loop.time() >= self._looks_at:
                await self._look_for_new()
                continue
            try:
                async with asyncio.timeout_at(min(gives_up_at, self._looks_at)):
                    await self._news.wait()
            except TimeoutError:
                if loop.time() >= gives_up_at:
                    return None

    async def _take(self) -> LogEntry | None:
        for job_id, watch in list(self._watches.items()):
            entry = watch.take()
            if watch.is_over:
                self._is_draining = self._is_draining or not watch.has_ended
                del self._watches[job_id]
                await self._hub.leave(watch)
            if entry is not None:
                self._sent[job_id] = entry.id
                vector = Vector(self._newest, {job: self._sent[job] for job in self._watches})
                return LogEntry(vector.encode(), entry.event, entry.data)
        return None

    # --- which jobs

    async def _begin(self, last_id: str | None) -> None:
        """Join what the client has not seen to its end, the oldest first."""
        recent = await self._records.recent(self._owner, RECENT_JOBS)
        vector = Vector.decode(last_id) if last_id else None
        known = recent.index(vector.newest) if vector and vector.newest in recent else len(recent)
        for place, job_id in reversed(list(enumerate(recent))):
            if last_id is None:
                await self._join(job_id, None, only_unfinished=True)
            elif vector is None:  # an id that we cannot have given: a reset of every job, never silence
                await self._join(job_id, NOBODYS_ID)
            elif job_id in vector.last_ids:
                await self._join(job_id, vector.last_ids[job_id] or None)
            elif place < known:  # made since
                await self._join(job_id, None)
        self._newest = recent[0] if recent else None
        self._ends_at = asyncio.get_running_loop().time() + STAY_OPEN_SECONDS

    async def _look_for_new(self) -> None:
        self._looks_at = asyncio.get_running_loop().time() + LOOK_FOR_NEW_SECONDS
        with suppress(Unavailable):  # at the next look, then
            recent = list(await self._records.recent(self._owner, RECENT_JOBS))
            new = recent[: recent.index(self._newest)] if self._newest in recent else recent
            for job_id in reversed(new):
                if job_id not in self._watches:
                    await self._join(job_id, None)
                self._newest = job_id

    async def _join(self, job_id: UUID, last_id: str | None, *, only_unfinished: bool = False) -> None:
        state = await self._progress.state(job_id)
        if state is None or state.is_erased or state.owner != self._owner:
            return
        if only_unfinished and state.entry.ends:
            return
        watch = await self._hub.join(job_id, last_id, self._news.set)
        if watch.nothing_missed:
            await self._hub.leave(watch)
        else:
            self._watches[job_id] = watch
            self._sent[job_id] = last_id or ""
