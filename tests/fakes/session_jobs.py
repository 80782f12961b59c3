"""The fake of ports.SessionJobs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

from growbin.job import JobState, Upload
from growbin.rates import Holder
from tests.fakes.progress_log import FakeProgressLog


class FakeSessionJobs:
    """Knows from the log which jobs have ended."""

    def __init__(self, progress: FakeProgressLog) -> None:
        self._progress = progress
        self._unfinished: dict[str, dict[UUID, int]] = defaultdict(dict)  # each with its deadline

    async def states(self, job_ids: Sequence[UUID]) -> Sequence[JobState | None]:
        return [await self._progress.state(job_id) for job_id in job_ids]

    async def admit(
        self, upload: Upload, *, session_most: int, address_most: int, deadline_seconds: int
    ) -> Holder | None:
        holders: list[tuple[Holder, str | None, int]] = [
            ("session", upload.owner, session_most),
            ("address", upload.address_hash, address_most),
        ]
        for holder, name, most in holders:
            others = await self._of(name) - {upload.job_id} if name else set()
            if len(others) >= most:
                return holder
        deadline_ms = self._progress.clock.now_ms() + deadline_seconds * 1000
        for _, name, _ in holders:
            if name:
                self._unfinished[name][upload.job_id] = deadline_ms
        return None

    async def _of(self, holder: str) -> set[UUID]:
        now_ms = self._progress.clock.now_ms()
        due = {job_id for job_id, deadline_ms in self._unfinished[holder].items() if deadline_ms > now_ms}
        states = {job_id: await self._progress.state(job_id) for job_id in due}
        return {
            job_id
            for job_id, state in states.items()
            if state is None or not (state.entry.ends or state.is_erased)
        }
