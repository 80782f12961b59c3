"""How many jobs wait, as the broker's management counts them: known to a second, read behind whoever asks."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from dataclasses import replace

import structlog

from growbin.adapters.rabbitmq.management import ask_management
from growbin.adapters.rabbitmq.topology import BACKSTOP_JOBS
from growbin.errors import Unavailable
from growbin.ports import Backlog
from growbin.telemetry import metrics

log = structlog.get_logger()

AGE_SECONDS = 0.5  # then it is read again, behind whoever asks
OLDEST_SECONDS = 1.0  # then who asks waits for it: a full backlog admits nobody for longer
COUNT_LAG_SECONDS = 3.0  # of the broker's own count
MANAGEMENT_TIMEOUT_SECONDS = 0.5


class CountedBacklog:
    """Of one queue, whose `path` is the management's. Without a management's address nothing is known."""

    def __init__(self, management_url: str | None, path: str) -> None:
        self._management_url = management_url
        self._path = path
        self._counted: Backlog | None = None
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._sent_at: deque[float] = deque(maxlen=BACKSTOP_JOBS)

    async def read(self) -> Backlog | None:
        """None while the management does not tell."""
        if self._management_url is None:
            return None
        age_seconds = asyncio.get_running_loop().time() - self._read_at
        reading = self._reading
        if age_seconds > AGE_SECONDS and (reading is None or reading.done()):
            # In a context of its own: it is read for whoever asks next, not in this job's trace.
            reading = self._reading = asyncio.create_task(
                self._read(self._management_url), name="backlog", context=contextvars.Context()
            )
        if reading is not None and age_seconds > OLDEST_SECONDS:
            await asyncio.shield(reading)
        return self._counted and replace(self._counted, uncounted=self._uncounted(self._counted))

    def sent(self) -> None:
        """One more job was published from here."""
        self._sent_at.append(asyncio.get_running_loop().time())

    def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()

    def _uncounted(self, backlog: Backlog) -> int:
        """Of a crowd that comes at once each would be the first in line, by the broker's count."""
        lag_seconds = asyncio.get_running_loop().time() - self._read_at + COUNT_LAG_SECONDS
        return max(0, round(len(self._sent_at) - (backlog.per_second or 0) * lag_seconds))

    async def _read(self, management_url: str) -> None:
        before, self._counted = self._counted, await self._ask(management_url)
        self._read_at = asyncio.get_running_loop().time()
        self._forget_counted(before)

    def _forget_counted(self, before: Backlog | None) -> None:
        """Of what was sent from here: as many as the count has grown by, and what is older than its lag."""
        grown = self._counted.waiting - before.waiting if self._counted and before else 0
        while self._sent_at and (grown > 0 or self._sent_at[0] < self._read_at - COUNT_LAG_SECONDS):
            self._sent_at.popleft()
            grown -= 1

    async def _ask(self, management_url: str) -> Backlog | None:
        # Asked of the broker's management: a passive declare has been seen to report 0 for a full queue.
        try:
            queue = await ask_management(management_url, self._path, MANAGEMENT_TIMEOUT_SECONDS)
            stats = queue.get("message_stats", {})
            rate = stats.get("ack_details", {}).get("rate")
            metrics.backlog_unknown.set(0)
            return Backlog(
                int(queue.get("messages_ready", 0)),
                float(rate) if rate else None,
                # Without a count none was handed out yet: a crowd may be the first that comes.
                int(stats.get("deliver_get", 0)) - int(stats.get("redeliver", 0)),
            )
        except (Unavailable, ValueError) as error:
            if self._counted is not None or self._read_at < 0:  # once, not with every upload
                log.warning("backlog_unknown", reason=str(error))
            metrics.backlog_unknown.set(1)
            return None
