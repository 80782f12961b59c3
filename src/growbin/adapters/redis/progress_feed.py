"""The live side of progress: one Redis pub/sub connection for a whole gateway.

Pub/sub loses what is sent while a link is down, and a half-open link looks like silence. So the
feed sings once a second: over its own connection it writes a key and publishes to itself. When the write
is refused (the server was demoted), the song is not heard, or the connection breaks, it connects anew,
subscribes to everything again, and says `on_loss`: the reader then re-reads the log.

Nothing that comes ends the feed: what it cannot read is logged, counted and skipped.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import groupby
from operator import itemgetter
from typing import Self
from uuid import UUID

import structlog
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import (
    CONNECT_TIMEOUT_SECONDS,
    is_not_primary,
    leave_server,
    reason_of,
)
from growbin.adapters.redis.sentinel import pool_options
from growbin.adapters.redis.stored_values import parse_entry
from growbin.errors import Unavailable
from growbin.job import LogEntry
from growbin.telemetry import metrics

log = structlog.get_logger()

CANARY_SECONDS = 1.0
DEAF_AFTER_SECONDS = 3.5
NOT_READY_AFTER_SECONDS = 10.0
RECONNECT_PAUSE_SECONDS = 0.3
CONFIRM_TIMEOUT_SECONDS = 1.6

OnEntry = Callable[[UUID, LogEntry], None]
OnGap = Callable[[UUID], None]
OnLoss = Callable[[], None]
OnSessionJob = Callable[[str, UUID], None]


class RedisProgressFeed:
    """Implements ports.ProgressFeed."""

    def __init__(
        self,
        pool: ConnectionPool,
        on_entry: OnEntry,
        on_gap: OnGap,
        on_loss: OnLoss,
        on_session_job: OnSessionJob,
    ) -> None:
        self._pool = pool
        self._on_entry = on_entry
        self._on_gap = on_gap
        self._on_loss = on_loss
        self._on_session_job = on_session_job
        self._canary = keys.canary(secrets.token_hex(8))
        self._wanted: set[str] = set()
        self._confirmed: set[str] = set()
        self._awaited: dict[str, asyncio.Future[None]] = {}
        # Subscriptions sent and not yet answered: a confirmation that belongs to an earlier reader,
        # who has left since, must not be taken for ours.
        self._unanswered: Counter[str] = Counter()
        self._unsent: list[tuple[str, str]] = []  # commands and their channels, of this turn of the loop
        self._sending: asyncio.Task[None] | None = None
        self._connection: AbstractConnection | None = None
        self._is_hearing = False
        self._heard_at = -math.inf
        self._sung_at: deque[float] = deque()  # of the songs that were not heard yet
        self._keeping: asyncio.Task[None] | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls, *, url: str, on_entry: OnEntry, on_gap: OnGap, on_loss: OnLoss, on_session_job: OnSessionJob
    ) -> AsyncIterator[Self]:
        """`on_gap` names a job of which something came that cannot be read: its log holds the truth.
        `on_session_job` names an owner and one of its jobs that is new, or driven again."""
        server_url, options = pool_options(url)
        pool = ConnectionPool.from_url(
            server_url,
            protocol=3,  # with which the connection that listens may also write
            socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
            socket_timeout=None,  # silence is normal here; the canary tells it from deafness
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
            encoding_errors="replace",
            **options,
        )
        feed = cls(pool, on_entry, on_gap, on_loss, on_session_job)
        feed._keeping = asyncio.create_task(feed._keep(), name="progress-feed")
        try:
            yield feed
        finally:
            feed._keeping.cancel()
            await asyncio.wait([feed._keeping])
            await pool.aclose()

    async def is_hearing(self) -> bool:
        """Live progress arrives now."""
        return self._is_hearing

    async def has_heard_lately(self) -> bool:
        """For readiness: a short deafness is made up for here, a long one sends clients elsewhere."""
        return asyncio.get_running_loop().time() - self._heard_at < NOT_READY_AFTER_SECONDS

    async def is_kept(self) -> bool:
        """For liveness: somebody here tries to hear. If not, only a restart helps."""
        return self._keeping is not None and not self._keeping.done()

    async def request(self, job_id: UUID) -> None:
        """Ask for the subscription, so that `subscribe` waits the shorter."""
        self._request(keys.events(job_id))

    async def subscribe(self, job_id: UUID) -> None:
        """Returns once the server has confirmed. Raises Unavailable."""
        await self._subscribe(keys.events(job_id))

    async def unsubscribe(self, job_id: UUID) -> None:
        self._unsubscribe(keys.events(job_id))

    async def subscribe_session(self, owner: str) -> None:
        await self._subscribe(keys.session_news(owner))

    async def unsubscribe_session(self, owner: str) -> None:
        self._unsubscribe(keys.session_news(owner))

    def _request(self, channel: str) -> None:
        self._wanted.add(channel)
        if channel not in self._confirmed and channel not in self._awaited:
            self._awaited[channel] = asyncio.get_running_loop().create_future()
            if self._connection is not None:
                self._unanswered[channel] += 1
                self._send("SUBSCRIBE", channel)

    async def _subscribe(self, channel: str) -> None:
        self._request(channel)
        if (confirmed := self._awaited.get(channel)) is None:
            return
        try:
            async with asyncio.timeout(CONFIRM_TIMEOUT_SECONDS):
                await asyncio.shield(confirmed)
        except TimeoutError as error:
            raise Unavailable("redis", "subscription not confirmed") from error

    def _unsubscribe(self, channel: str) -> None:
        self._wanted.discard(channel)
        self._confirmed.discard(channel)
        self._awaited.pop(channel, None)
        self._send("UNSUBSCRIBE", channel)

    def _send(self, command: str, channel: str) -> None:
        """With what else this turn of the loop asks for: thousands of streams may open at once. Nothing goes
        out while there is no connection: the next one subscribes to all that is wanted."""
        if self._connection is None:
            return
        self._unsent.append((command, channel))
        if len(self._unsent) == 1:
            self._sending = asyncio.create_task(self._send_all(self._connection))

    async def _send_all(self, connection: AbstractConnection) -> None:
        in_order = groupby(self._unsent, itemgetter(0))
        packed = connection.pack_commands([(name, *(channel for _, channel in it)) for name, it in in_order])
        self._unsent.clear()
        if connection is self._connection:  # the library would connect one that was given up
            with suppress(RedisError, OSError):
                await connection.send_packed_command(packed, check_health=False)

    # --- keeping the connection

    async def _keep(self) -> None:
        while True:
            connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
            try:
                await self._listen(connection)
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("progress_feed_lost", reason=reason_of(error))
                if is_not_primary(error):
                    leave_server(self._pool)
            except Exception:  # a bug, here or in a library: to hear on is worth more than to know which
                log.exception("progress_feed_broken")
            finally:
                self._connection, self._is_hearing = None, False
                with suppress(RedisError, OSError, TimeoutError):
                    async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                        await connection.disconnect()
            await asyncio.sleep(RECONNECT_PAUSE_SECONDS)

    async def _listen(self, connection: AbstractConnection) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(DEAF_AFTER_SECONDS) as patience:
            await connection.connect()  # type: ignore[no-untyped-call]
            self._connection = connection  # from here on new subscriptions are sent by who wants them
            self._unanswered = Counter({self._canary, *self._wanted})
            await connection.send_command("SUBSCRIBE", *self._unanswered)
            self._sung_at.clear()
            singing = asyncio.create_task(self._sing(connection), name="progress-feed-canary")
            try:
                while True:
                    # What is no list answers a song; a song that is refused raises.
                    match await connection.read_response(push_request=True):
                        case ["message", self._canary, _]:
                            self._heard_at = loop.time()
                            if self._sung_at:
                                metrics.live_progress_lag_seconds.observe(
                                    self._heard_at - self._sung_at.popleft()
                                )
                            patience.reschedule(self._heard_at + DEAF_AFTER_SECONDS)
                            self._begin_hearing()
                        case ["message", channel, payload] if self._is_hearing:
                            self._hand_on(channel, payload)
                        case ["subscribe", channel, _]:
                            self._confirm(channel)
            finally:
                singing.cancel()

    def _begin_hearing(self) -> None:
        """The first song on a connection comes after all its subscriptions were confirmed, and from a server
        that takes writes; whatever was sent before this moment may be lost. What comes before it is dropped:
        it may go on another history than the one that was told, and `on_loss` has both compared."""
        if not self._is_hearing:
            self._is_hearing = True
            self._on_loss()

    def _hand_on(self, channel: str, payload: str) -> None:
        try:
            if owner := keys.owner_of_session_news(channel):
                self._on_session_job(owner, UUID(payload))
                return
            job_id = keys.job_of_events(channel)
            if (entry := parse_entry(payload)) is not None:
                self._on_entry(job_id, entry)
                return
            log.warning("progress_entry_unreadable", job_id=str(job_id))
        except Exception:
            log.exception("progress_message_unreadable", channel=channel)
        metrics.progress_unreadable.inc()
        if not keys.owner_of_session_news(channel):
            self._on_gap(keys.job_of_events(channel))

    def _confirm(self, channel: str) -> None:
        self._unanswered[channel] -= 1
        if self._unanswered[channel] > 0:
            return
        del self._unanswered[channel]
        if channel in self._wanted:
            self._confirmed.add(channel)
        if (confirmed := self._awaited.pop(channel, None)) is not None:
            confirmed.set_result(None)

    async def _sing(self, connection: AbstractConnection) -> None:
        write = ("SET", self._canary, "", "PX", str(int(DEAF_AFTER_SECONDS * 1000)))
        song = connection.pack_commands([write, ("PUBLISH", self._canary, "")])
        with suppress(RedisError, OSError):  # whoever listens on it hears of that
            while True:
                self._sung_at.append(asyncio.get_running_loop().time())
                await connection.send_packed_command(song, check_health=False)
                await asyncio.sleep(CANARY_SECONDS)
