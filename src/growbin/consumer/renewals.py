"""The leases of a process, renewed together: calls made together travel together, and wake us up once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from growbin.errors import Unavailable
from growbin.job import Job
from growbin.ports import Held, Leases

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, eq=False)
class Renewed:
    """One of them; `on_loss` is told once it is no longer ours."""

    job: Job
    attempt: int
    on_loss: Callable[[Held], None]


@dataclass(slots=True)
class Renewals:
    """Nobody renews while nothing is held."""

    _held: set[Renewed] = field(default_factory=set)
    _renewing: asyncio.Task[None] | None = None

    def add(self, lease: Renewed, leases: Leases, pause_seconds: float) -> None:
        self._held.add(lease)
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew(leases, pause_seconds), name="leases")

    def remove(self, lease: Renewed) -> None:
        self._held.discard(lease)
        if not self._held and self._renewing is not None:
            self._renewing.cancel()
            self._renewing = None

    async def _renew(self, leases: Leases, pause_seconds: float) -> None:
        while True:
            await asyncio.sleep(pause_seconds)
            await asyncio.gather(*(self._renew_one(leases, lease) for lease in list(self._held)))

    async def _renew_one(self, leases: Leases, lease: Renewed) -> None:
        try:
            held = await leases.renew(lease.job, lease.attempt)
        except Unavailable:
            return  # it may lapse; while nobody else begins, it is still ours
        except Exception:  # a bug met by one of them is not the others'
            log.exception("lease_unrenewed", job_id=str(lease.job.job_id))
            return
        if held != "ours" and lease in self._held:
            self._held.discard(lease)
            lease.on_loss(held)
