"""The fake of ports.JobQueue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from growbin.errors import Unavailable
from growbin.job import (
    Ack,
    Backlog,
    DeadLetter,
    HandBack,
    Job,
    Verdict,
)
from growbin.ports import Handler, Obituary, Undertaker
from tests.fakes.absence import MayBeAway


class FakeJobQueue(MayBeAway):
    """`published` keeps every job sent; `known_depth` is what `backlog` tells; `loses_confirms` sends
    the job and raises all the same, as a timeout does; `on_publish` may break something just then."""

    part = "rabbitmq"

    def __init__(self) -> None:
        super().__init__()
        self.published: list[Job] = []
        self.known_depth: int | None = 0
        self.loses_confirms = False
        self.on_publish: Callable[[], None] = lambda: None
        self.delays_seconds: list[int] = []
        self._waiting: asyncio.Queue[Job] = asyncio.Queue()

    async def publish(self, job: Job) -> None:
        await asyncio.sleep(0)  # others may run while the broker confirms
        self._answer()
        self.published.append(job)
        self._waiting.put_nowait(job)
        self.on_publish()
        if self.loses_confirms:
            raise Unavailable(self.part, "no confirm in time")

    async def backlog(self) -> Backlog | None:
        return None if self.is_away or self.known_depth is None else Backlog(self.known_depth)

    @asynccontextmanager
    async def consuming(
        self, handle: Handler, bury: Undertaker, *, concurrency: Callable[[], int], grace_seconds: float
    ) -> AsyncIterator[Callable[[], bool]]:
        """A delay step takes no time here; its length is noted in `delays_seconds`."""

        async def consume() -> None:
            while True:
                job = await self._waiting.get()
                await self._settle(job, await handle(job), bury)

        consumers = [asyncio.create_task(consume()) for _ in range(concurrency())]
        try:
            yield lambda: not self.is_away
        finally:
            for consumer in consumers:
                consumer.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*consumers)

    async def _settle(self, job: Job, verdict: Verdict, bury: Undertaker) -> None:
        match verdict:
            case Ack():
                return
            case DeadLetter(reason):
                await bury(Obituary(job.job_id, job, reason))
            case HandBack():
                self._waiting.put_nowait(job)
            case retry:
                self.delays_seconds.append(retry.delay_seconds)
                self._waiting.put_nowait(job)
