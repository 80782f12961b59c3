"""What one consumer is made of: the ports it speaks through, and how fast it may go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from growbin.certainty import Thresholds
from growbin.consumer.breakers import Breakers
from growbin.consumer.pacing import SoloGate, Throttle
from growbin.consumer.renewals import Renewals
from growbin.ports import Analyst, AttemptProgress, Leases, PaidCalls, PhotoCleaner, PhotoSource, UploadStore
from growbin.rules.rulebook import Rulebook


@dataclass(frozen=True, slots=True)
class Consumer:
    """What a consumer works with, once per process."""

    leases: Leases
    progress: AttemptProgress
    calls: PaidCalls
    uploads: UploadStore
    photos: PhotoSource
    cleaner: PhotoCleaner
    analyst: Analyst
    image_base_url: str
    cache_seconds: int
    rules: Rulebook
    thresholds_of: Callable[[str], Thresholds]  # by the model that answered
    lease_renew_seconds: float
    max_starts: int
    breakers: Breakers
    answers_depend_on: str | None = (
        None  # beside photo and question: the model and the rules; None: not shared
    )
    fallback: Analyst | None = None  # answers where the model may not, or for too long does not
    fallback_after_seconds: float = 30  # since the person began to wait
    throttle: Throttle = field(default_factory=Throttle)
    solo: SoloGate = field(default_factory=SoloGate)
    renewals: Renewals = field(default_factory=Renewals)

    def concurrency(self) -> int:
        """How many jobs to take at once now: none while a part is away that nothing stands in for, fewer
        while the model refuses."""
        return 0 if self.breakers.stopping_parts else self.throttle.concurrency()

    async def close(self) -> None:
        """Stopping: what has not begun its paid call, or waits for a part that is away, is handed back; the
        rest finishes."""
        await self.breakers.close()
        await self.solo.close()
        await self.throttle.close()
