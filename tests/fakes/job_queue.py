"""The fake of ports.JobQueue."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID

from growbin.errors import Unavailable
from growbin.job import Job
from growbin.ports import (
    Ack,
    Backlog,
    DeadLetter,
    HandBack,
    Handler,
    Letter,
    Obituary,
    ObituaryHandler,
    Retry,
    Verdict,
)
from tests.fakes.absence import MayBeAway
from tests.fakes.letters import FakeDeadLetters

PAUSE_SECONDS = 0.01
DEAD_LETTER_REASON = "rejected"  # what the broker says of every letter that its reader refused


class FakeJobQueue(MayBeAway):
    """`published` keeps every job sent; `waiting` is what nobody has in hand, and `crowd` more are told to
    wait before them; `handed_out` is what the broker counts; `is_blind` knows of no backlog;
    `loses_confirms` sends the job and raises all the same, as a timeout does; `on_publish` may break
    something just then. Dead letters go to `letters`."""

    part = "rabbitmq"

    def __init__(self) -> None:
        super().__init__()
        self.published: list[Job] = []
        self.waiting: deque[Job] = deque()
        self.letters = FakeDeadLetters()
        self.crowd = 0
        self.handed_out: int | None = None
        self.looks = 0  # at the backlog
        self.is_blind = False
        self.loses_confirms = False
        self.on_publish: Callable[[], None] = lambda: None
        self._obituaries: asyncio.Queue[Obituary] = asyncio.Queue()
        self._running: dict[tuple[UUID, int], asyncio.Task[Verdict]] = {}
        self._deliveries: set[asyncio.Task[None]] = set()

    async def publish(self, job: Job) -> None:
        await asyncio.sleep(0)  # others may run while the broker confirms
        self._answer()
        self.published.append(job)
        self.waiting.append(job)
        self.on_publish()
        if self.loses_confirms:
            raise Unavailable(self.part, "no confirm in time")

    async def backlog(self) -> Backlog | None:
        self.looks += 1
        if self.is_away or self.is_blind:
            return None
        return Backlog(self.crowd + len(self.waiting), handed_out=self.handed_out)

    @asynccontextmanager
    async def consuming(
        self,
        handle: Handler,
        handle_obituary: ObituaryHandler,
        *,
        concurrency: Callable[[], int],
        grace_seconds: float,
    ) -> AsyncIterator[Callable[[], bool]]:
        readers = [
            asyncio.create_task(self._take(handle, concurrency)),
            asyncio.create_task(self._read_obituaries(handle_obituary)),
        ]
        try:
            yield lambda: not self.is_away
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.wait(readers)
            await self._drain(grace_seconds)

    async def _take(self, handle: Handler, concurrency: Callable[[], int]) -> None:
        while True:
            while not self.is_away and self.waiting and len(self._deliveries) < concurrency():
                delivery = asyncio.create_task(self._deliver(self.waiting.popleft(), handle))
                self._deliveries.add(delivery)
                delivery.add_done_callback(self._deliveries.discard)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _drain(self, grace_seconds: float) -> None:
        if self._deliveries:
            await asyncio.wait(self._deliveries, timeout=grace_seconds)
        for task in self._running.values():
            task.cancel()
        if self._deliveries:
            await asyncio.wait(self._deliveries)

    async def _deliver(self, job: Job, handle: Handler) -> None:
        """A job that comes again while it is in hand waits for the same verdict."""
        key = (job.job_id, job.run)
        if key not in self._running:
            self._running[key] = asyncio.create_task(handle(job))
            self._running[key].add_done_callback(lambda _: self._running.pop(key, None))
        [outcome] = await asyncio.gather(self._running[key], return_exceptions=True)
        match outcome:
            case Ack():
                return
            case asyncio.CancelledError() | HandBack():
                self.waiting.appendleft(job)
            case Retry(delay_seconds):
                asyncio.get_running_loop().call_later(delay_seconds, self.waiting.append, job)
            case DeadLetter() | Exception():
                self._bury(job)

    def _bury(self, job: Job) -> None:
        died_at = datetime.now(UTC).isoformat()
        self._obituaries.put_nowait(Obituary(job.job_id, job, DEAD_LETTER_REASON, died_at))

    async def _read_obituaries(self, handle_obituary: ObituaryHandler) -> None:
        while True:
            obituary = await self._obituaries.get()
            try:
                code = await handle_obituary(obituary)
                if code is not None:
                    self.letters.kept.append(
                        Letter(obituary.job_id, obituary.reason, code, obituary.died_at, b"{}")
                    )
            except BaseException as error:
                self._obituaries.put_nowait(obituary)
                if not isinstance(error, Exception):
                    raise
                await asyncio.sleep(PAUSE_SECONDS)
