"""The fake of ports.ProgressFeed."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from growbin.job import LogEntry
from tests.fakes.absence import MayBeAway
from tests.fakes.progress_log import FakeProgressLog


class FakeProgressFeed(MayBeAway):
    """The live side: hands a log's entries of the subscribed jobs to `on_entry`."""

    def __init__(
        self,
        progress: FakeProgressLog,
        on_entry: Callable[[UUID, LogEntry], None],
        on_session_job: Callable[[str, UUID], None],
    ) -> None:
        super().__init__()
        self.subscribed: set[UUID] = set()
        self.sessions: set[str] = set()
        self._on_entry = on_entry
        self._on_session_job = on_session_job
        progress.listeners.append(self._hear)
        progress.session_listeners.append(self._hear_of_session)

    def _hear(self, job_id: UUID, entry: LogEntry) -> None:
        if job_id in self.subscribed and not self.is_away:
            self._on_entry(job_id, entry)

    def _hear_of_session(self, owner: str, job_id: UUID) -> None:
        if owner in self.sessions and not self.is_away:
            self._on_session_job(owner, job_id)

    async def request(self, job_id: UUID) -> None:
        self.subscribed.add(job_id)

    async def subscribe(self, job_id: UUID) -> None:
        self.subscribed.add(job_id)  # wanted from now on: also by the connection that comes after this one
        self._answer()

    async def unsubscribe(self, job_id: UUID) -> None:
        self.subscribed.discard(job_id)

    async def subscribe_session(self, owner: str) -> None:
        self.sessions.add(owner)
        self._answer()

    async def unsubscribe_session(self, owner: str) -> None:
        self.sessions.discard(owner)
