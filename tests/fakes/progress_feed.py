"""The fake of ports.ProgressFeed."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from growbin.job import LogEntry
from tests.fakes.absence import MayBeAway
from tests.fakes.progress_log import FakeProgressLog


class FakeProgressFeed(MayBeAway):
    """The live side: hands a log's entries of the subscribed jobs to `on_entry`."""

    def __init__(self, progress: FakeProgressLog, on_entry: Callable[[UUID, LogEntry], None]) -> None:
        super().__init__()
        self.subscribed: set[UUID] = set()
        self._on_entry = on_entry
        progress.listeners.append(self._hear)

    def _hear(self, job_id: UUID, entry: LogEntry) -> None:
        if job_id in self.subscribed and not self.is_away:
            self._on_entry(job_id, entry)

    async def subscribe(self, job_id: UUID) -> None:
        self.subscribed.add(job_id)  # wanted from now on: also by the connection that comes after this one
        self._answer()

    async def unsubscribe(self, job_id: UUID) -> None:
        self.subscribed.discard(job_id)
