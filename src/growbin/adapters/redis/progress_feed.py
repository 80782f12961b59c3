"""The live side of progress: one Redis pub/sub connection for a whole gateway.

Pub/sub loses what is sent while a link is down, and a half-open link looks like silence. So the
feed hears its own canary once a second; when it misses it, or the connection breaks, it connects
anew, subscribes to everything again, and says `on_loss`: the reader then re-reads the log.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Self
from uuid import UUID

import structlog
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import CONNECT_TIMEOUT_SECONDS, ask, open_redis
from growbin.adapters.redis.stored_values import parse_entry
from growbin.errors import Unavailable
from growbin.job import LogEntry

log = structlog.get_logger()

CANARY_SECONDS = 1.0
DEAF_AFTER_SECONDS = 3.5
RECONNECT_PAUSE_SECONDS = 0.3
CONFIRM_TIMEOUT_SECONDS = 1.6

OnEntry = Callable[[UUID, LogEntry], None]
OnGap = Callable[[UUID], None]
OnLoss = Callable[[], None]


class RedisProgressFeed:
    """Implements ports.ProgressFeed."""

    def __init__(
        self, pool: ConnectionPool, publisher: Redis, on_entry: OnEntry, on_gap: OnGap, on_loss: OnLoss
    ) -> None:
        self._pool = pool
        self._publisher = publisher
        self._on_entry = on_entry
        self._on_gap = on_gap
        self._on_loss = on_loss
        self._canary = keys.canary(secrets.token_hex(8))
        self._wanted: set[str] = set()
        self._confirmed: set[str] = set()
        self._awaited: dict[str, asyncio.Future[None]] = {}
        # Subscriptions sent and not yet answered: a confirmation that belongs to an earlier reader,
        # who has left since, must not be taken for ours.
        self._unanswered: Counter[str] = Counter()
        self._connection: AbstractConnection | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls, *, url: str, on_entry: OnEntry, on_gap: OnGap, on_loss: OnLoss
    ) -> AsyncIterator[Self]:
        """`on_gap` names a job of which an entry came that cannot be read: its log holds the truth."""
        pool = ConnectionPool.from_url(
            url,
            protocol=2,
            socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
            socket_timeout=None,  # silence is normal here; the canary tells it from deafness
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
            encoding_errors="replace",
        )
        async with open_redis(url) as publisher:
            feed = cls(pool, publisher, on_entry, on_gap, on_loss)
            tasks = [
                asyncio.create_task(feed._keep(), name="progress-feed"),
                asyncio.create_task(feed._sing(), name="progress-feed-canary"),
            ]
            try:
                yield feed
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                await pool.aclose()

    async def is_hearing(self) -> bool:
        """For readiness: live progress arrives."""
        return self._connection is not None

    async def subscribe(self, job_id: UUID) -> None:
        """Returns once the server has confirmed. Raises Unavailable."""
        channel = keys.events(job_id)
        self._wanted.add(channel)
        if channel in self._confirmed:
            return
        confirmed = self._awaited.get(channel)
        if confirmed is None:
            confirmed = self._awaited[channel] = asyncio.get_running_loop().create_future()
            if self._connection is not None:
                self._unanswered[channel] += 1
                await self._send("SUBSCRIBE", channel)
        try:
            async with asyncio.timeout(CONFIRM_TIMEOUT_SECONDS):
                await asyncio.shield(confirmed)
        except TimeoutError as error:
            raise Unavailable("redis", "subscription not confirmed") from error

    async def unsubscribe(self, job_id: UUID) -> None:
        channel = keys.events(job_id)
        self._wanted.discard(channel)
        self._confirmed.discard(channel)
        self._awaited.pop(channel, None)
        await self._send("UNSUBSCRIBE", channel)

    async def _send(self, *command: str) -> None:
        """Nothing is sent while there is no connection: the next one subscribes to all that is wanted."""
        if self._connection is not None:
            with suppress(RedisError, OSError):
                await self._connection.send_command(*command)

    # --- keeping the connection

    async def _keep(self) -> None:
        while True:
            connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
            try:
                await self._listen(connection)
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("progress_feed_lost", reason=f"{type(error).__name__}: {error}")
            finally:
                self._connection = None
                with suppress(RedisError, OSError, TimeoutError):
                    async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                        await connection.disconnect()
            await asyncio.sleep(RECONNECT_PAUSE_SECONDS)

    async def _listen(self, connection: AbstractConnection) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(DEAF_AFTER_SECONDS) as patience:
            await connection.connect()  # type: ignore[no-untyped-call]
            self._connection = connection  # from here on new subscriptions are sent by who wants them
            unconfirmed = {self._canary, *self._wanted}
            self._unanswered = Counter(unconfirmed)
            await connection.send_command("SUBSCRIBE", *unconfirmed)
            while True:
                kind, channel, payload = await connection.read_response()
                if kind == "message" and channel != self._canary:
                    self._hand_on(keys.job_of_events(channel), payload)
                elif kind == "message":
                    patience.reschedule(loop.time() + DEAF_AFTER_SECONDS)
                elif kind == "subscribe":
                    self._confirm(channel)
                    if unconfirmed and not (unconfirmed := unconfirmed - {channel}):
                        self._on_loss()  # whatever was sent before this moment may be lost

    def _hand_on(self, job_id: UUID, payload: str) -> None:
        entry = parse_entry(payload)
        if entry is None:
            log.warning("progress_entry_unreadable", job_id=str(job_id))
            self._on_gap(job_id)
        else:
            self._on_entry(job_id, entry)

    def _confirm(self, channel: str) -> None:
        self._unanswered[channel] -= 1
        if self._unanswered[channel] > 0:
            return
        del self._unanswered[channel]
        if channel in self._wanted:
            self._confirmed.add(channel)
        if (confirmed := self._awaited.pop(channel, None)) is not None:
            confirmed.set_result(None)

    async def _sing(self) -> None:
        while True:
            await asyncio.sleep(CANARY_SECONDS)
            with suppress(Unavailable):
                await ask(self._publisher.publish(self._canary, ""))
