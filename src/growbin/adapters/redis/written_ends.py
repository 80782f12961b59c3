"""What a process wrote last, written again where Redis has forgotten it.

A server may come back without its last seconds, and a replica be promoted that was behind. Of a job that
ended in them no delivery is left: nobody would end it again before its deadline, and a deletion would be
undone. Whoever wrote the end still knows it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import structlog
from redis.asyncio import Redis

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import ask
from growbin.adapters.redis.script_call import ScriptCall
from growbin.adapters.redis.stored_values import parse_object
from growbin.errors import Unavailable

log = structlog.get_logger()

# Redis writes to its disk every second, and is late by two at most; a replica may be seconds behind.
KEPT_SECONDS = 10.0
PAUSE_SECONDS = 0.5


class WrittenEnds:
    """The calls of the last seconds that have ended a job or deleted it, the oldest first. `write` makes one
    once more, and names the end that it has written."""

    def __init__(
        self, redis: Redis, write: Callable[[ScriptCall], Awaitable[tuple[object, str | None]]]
    ) -> None:
        self._redis = redis
        self._write = write
        self._kept = deque[ScriptCall]()

    def keep(self, end: ScriptCall) -> None:
        self._kept.append(end)
        while self._kept[0].at < end.at - KEPT_SECONDS:
            self._kept.popleft()

    @asynccontextmanager
    async def written_again(self, link_lost: asyncio.Event) -> AsyncIterator[None]:
        """While the block runs: after each loss of the link, for that may be all that is seen of it."""
        writing = asyncio.create_task(self._write_again(link_lost), name="written-ends")
        try:
            yield
        finally:
            writing.cancel()
            await asyncio.wait([writing])

    async def _write_again(self, link_lost: asyncio.Event) -> None:
        while True:
            await link_lost.wait()
            link_lost.clear()
            since = time.monotonic() - KEPT_SECONDS
            for end in [end for end in self._kept if end.at >= since]:
                while not await self._is_there(end):
                    await asyncio.sleep(PAUSE_SECONDS)

    async def _is_there(self, end: ScriptCall) -> bool:
        """After this call; False while Redis is away."""
        try:
            if not _is_in(parse_object(await ask(self._redis.get(keys.result(end.job_id))) or ""), end):
                _, written = await self._write(end)
                # A deletion names only the end that it has forestalled.
                if written or end.operation == "erase":
                    self.keep(replace(end, at=time.monotonic()))  # it may be forgotten again
                    log.warning("end_written_again", job_id=str(end.job_id), operation=end.operation)
        except Unavailable:
            return False
        except Exception:  # the others' shall be written all the same
            log.exception("end_not_written_again", job_id=str(end.job_id))
        return True


def _is_in(result: Mapping[str, object], end: ScriptCall) -> bool:
    """A deletion is more than the end before it."""
    return bool(result) if end.operation != "erase" else result.get("stage") == "deleted"
