"""A worker's job, for the foreign servers. Two of its stages take no time, as a cached step does."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable

STAGE_SECONDS = {"queued": 0.1, "downloading": 0.0, "processing": 0.3, "finishing": 0.0, "succeeded": 0.0}
ENDS = ("succeeded", "cancelled")


class Work:
    """It tells each stage to `on_stage`, whether or not anybody listens."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self.stage = "created"
        self.on_stage: Callable[[str], None] = lambda _: None
        self._task: asyncio.Task[None] | None = None

    @property
    def has_ended(self) -> bool:
        return self.stage in ENDS

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def cancel(self) -> None:
        if not self.has_ended:
            if self._task:
                self._task.cancel()
            self._reach("cancelled")

    async def _run(self) -> None:
        for stage, seconds in STAGE_SECONDS.items():
            self._reach(stage)
            if seconds:
                await asyncio.sleep(seconds)

    def _reach(self, stage: str) -> None:
        self.stage = stage
        self.on_stage(stage)
