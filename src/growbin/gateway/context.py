"""What a gateway is made of: its limits, its place behind proxies, and the ports it speaks through."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from uuid import UUID
from weakref import WeakValueDictionary

from aiohttp import web

from growbin.errors import Rejected
from growbin.gateway.addresses import Network
from growbin.gateway.hub import Hub
from growbin.gateway.live_stream import Pulse
from growbin.ports import (
    DeadLetters,
    GatewayProgress,
    JobQueue,
    JobRecords,
    PhotoCache,
    Sessions,
    UploadStore,
)
from growbin.telemetry import metrics


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """Numbers from the settings, under the settings' names."""

    photo_max_bytes: int
    ticket_seconds: int
    upload_wait_seconds: int
    backlog_limit: int
    max_streams_per_session: int
    max_streams_per_address: int
    max_streams: int
    stream_heartbeat_seconds: float
    stream_write_timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Slot:
    """One open stream's place among the limits."""

    slots: StreamSlots
    owner: str
    address: str

    def __enter__(self) -> None:
        self.slots.change(self.owner, self.address, 1)

    def __exit__(self, *_: object) -> None:
        self.slots.change(self.owner, self.address, -1)


class StreamSlots:
    """How many streams and waiting reads are open, for each session, each address and in all."""

    def __init__(self, limits: GatewayLimits) -> None:
        self._limits = limits
        self._by_owner: Counter[str] = Counter()
        self._by_address: Counter[str] = Counter()
        self._open = 0

    def take(self, owner: str, address: str) -> Slot:
        """One slot, held by the block that enters it. Raises Rejected(too_many_streams): 429 to who has
        many, 503 when all are taken."""
        if self._by_owner[owner] >= self._limits.max_streams_per_session:
            raise _too_many_streams(429, "This session has too many open streams. Close one and try again.")
        if self._by_address[address] >= self._limits.max_streams_per_address:
            raise _too_many_streams(429, "This address has too many open streams. Close one and try again.")
        if self._open >= self._limits.max_streams:
            raise _too_many_streams(503, "Every stream is taken. Try again in a moment, or poll the job.")
        return Slot(self, owner, address)

    def change(self, owner: str, address: str, by: int) -> None:
        self._open += by
        metrics.open_streams.inc(by)
        for counter, key in ((self._by_owner, owner), (self._by_address, address)):
            counter[key] += by
            if not counter[key]:
                del counter[key]


def _too_many_streams(status: int, detail: str) -> Rejected:
    return Rejected(status, "too_many_streams", detail, retry_after_seconds=5)


@dataclass(frozen=True, slots=True)
class Gateway:
    """Handlers find it as `request.app[GATEWAY]`."""

    limits: GatewayLimits
    cdn_base_url: str
    allowed_origins: frozenset[str]
    trusted_proxies: tuple[Network, ...]
    secure_cookies: bool

    records: JobRecords
    sessions: Sessions
    progress: GatewayProgress
    uploads: UploadStore
    queue: JobQueue
    letters: DeadLetters
    photo_cache: PhotoCache
    hub: Hub

    slots: StreamSlots
    pulse: Pulse
    # One upload-complete at a time for each job: parallel repeats find the first one's publish.
    submissions: WeakValueDictionary[UUID, asyncio.Lock] = field(default_factory=WeakValueDictionary)


GATEWAY = web.AppKey("gateway", Gateway)
