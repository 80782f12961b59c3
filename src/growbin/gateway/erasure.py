"""What a DELETE has promised: the tombstone and its agenda at once, then everything else, whoever dies.

Each gateway works on the agenda: at once when it has written to it itself, and every few seconds for those
that are gone. A pass may be done twice and by two; what it does not get through comes due again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from growbin.errors import Unavailable
from growbin.job import EXTENSIONS
from growbin.ports import Agenda, Erasure, GatewayProgress, JobRecords, PhotoCache, UploadStore

log = structlog.get_logger()

AGENDA_PAUSE_SECONDS = 5.0
ERASURES_AT_ONCE = 16
PASS_SECONDS = 10.0  # less than a claim lasts, so that two gateways seldom do the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Eraser:
    """Everything that is known of a job, and how it is made to go."""

    agenda: Agenda
    progress: GatewayProgress
    records: JobRecords
    uploads: UploadStore
    photo_cache: PhotoCache
    pause_seconds: float = AGENDA_PAUSE_SECONDS
    _due: asyncio.Event = field(default_factory=asyncio.Event)
    _promising: set[asyncio.Task[None]] = field(default_factory=set)

    async def promise(self, job_id: UUID, owner: str) -> None:
        """Returns once tombstone and agenda are written: from then on the job will go, whoever leaves or
        dies. A caller that leaves meanwhile stops nothing. Raises Unavailable."""
        writing = asyncio.create_task(self._write(job_id, owner), name=f"erase-{job_id}")
        self._promising.add(writing)
        writing.add_done_callback(self._promising.discard)
        await asyncio.shield(writing)

    async def _write(self, job_id: UUID, owner: str) -> None:
        await self.progress.erase(job_id, owner)
        self._due.set()
        log.info("job_deleted", job_id=str(job_id))

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Work on the agenda while the block runs. What is cut off then is another gateway's."""
        worker = asyncio.create_task(self._work(), name="agenda")
        try:
            yield
        finally:
            worker.cancel()
            await asyncio.wait([worker, *self._promising])

    async def _work(self) -> None:
        while True:
            self._due.clear()
            erasures: Sequence[Erasure] = ()
            try:
                erasures = await self.agenda.claim(ERASURES_AT_ONCE)
            except Unavailable as error:
                log.warning("agenda_unread", reason=error.reason)
            except Exception:  # the next look shall come all the same
                log.exception("agenda_hit_a_bug")
            await asyncio.gather(*map(self._pass, erasures))
            if len(erasures) < ERASURES_AT_ONCE:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.pause_seconds):
                        await self._due.wait()

    async def _pass(self, erasure: Erasure) -> None:
        with structlog.contextvars.bound_contextvars(job_id=str(erasure.job_id)):
            try:
                async with asyncio.timeout(PASS_SECONDS):
                    await self._erase(erasure)
            except (Unavailable, TimeoutError) as error:
                log.warning("erasure_postponed", reason=str(error) or type(error).__name__)
            except Exception:
                log.exception("erasure_hit_a_bug")

    async def _erase(self, erasure: Erasure) -> None:
        job_id = erasure.job_id
        await self.agenda.wipe(job_id)
        await self.records.erase(job_id)
        found = await self.uploads.keys_of(job_id)
        for key in found:
            await self.uploads.delete(key)
        if erasure.is_repeated:
            # Whoever began it may have deleted what the CDN was not yet told of.
            await self.photo_cache.forget(names_of(job_id))
        elif found:
            await self.photo_cache.forget(found)
        await self.agenda.done(erasure)
        log.info("job_erased", objects=len(found))


def names_of(job_id: UUID) -> list[str]:
    """Wherever its photo may have lain, under keys of any version: as it came, and the public copy."""
    names = [f"{job_id}.{extension}" for extension in EXTENSIONS.values()]
    return [f"incoming/{job_id}", *(f"incoming/{name}" for name in names), *names]
