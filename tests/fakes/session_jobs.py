"""The fake of ports.SessionJobs."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from growbin.job import JobState
from tests.fakes.progress_log import FakeProgressLog


class FakeSessionJobs:
    """On the log."""

    def __init__(self, progress: FakeProgressLog) -> None:
        self._progress = progress

    async def states(self, job_ids: Sequence[UUID]) -> Sequence[JobState | None]:
        return [await self._progress.state(job_id) for job_id in job_ids]
