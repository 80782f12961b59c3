"""What a gateway is made of: its limits, its place behind proxies, and the ports it speaks through."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from uuid import UUID
from weakref import WeakValueDictionary

from aiohttp import web

from growbin.gateway.addresses import Network
from growbin.gateway.erasure import Eraser
from growbin.gateway.hub import Hub
from growbin.gateway.notices import Notices
from growbin.job import Upload
from growbin.ports import (
    GatewayProgress,
    JobQueue,
    JobRecords,
    SessionJobs,
    Sessions,
    UploadStore,
)
from growbin.rules.rulebook import Rulebook
from growbin.rules.things import ThingFinder


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """Numbers from the settings, under the settings' names."""

    photo_max_bytes: int
    ticket_seconds: int
    require_declared_length: bool
    upload_wait_seconds: int
    backlog_limit: int
    job_deadline_seconds: int
    session_tickets_per_minute: int
    address_tickets_per_minute: int
    all_tickets_per_minute: int
    reads_per_second: int
    changes_per_minute: int
    max_unfinished_per_session: int
    max_unfinished_per_address: int
    max_streams_per_session: int
    max_streams_per_address: int
    max_streams: int
    stream_heartbeat_seconds: float
    stream_write_timeout_seconds: float

    def upload_deadline_ms(self, upload: Upload) -> int:
        """When a job without upload expires, on Redis' clock."""
        return upload.created_at_ms + self.upload_wait_seconds * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """Built once, by the wiring, and handed over whole. Handlers find it as `request.app[GATEWAY]`."""

    limits: GatewayLimits
    cdn_base_url: str
    upload_origin: str  # where tickets point: the page may upload there
    allowed_origins: frozenset[str]
    trusted_proxies: tuple[Network, ...]
    secure_cookies: bool
    takes_questions: bool  # whether the model answers them
    rules: Rulebook
    things: ThingFinder

    records: JobRecords
    sessions: Sessions
    progress: GatewayProgress
    session_jobs: SessionJobs
    uploads: UploadStore
    queue: JobQueue
    eraser: Eraser
    hub: Hub
    notices: Notices

    # One upload-complete at a time for each job: parallel repeats find the first one's publish.
    submissions: WeakValueDictionary[UUID, asyncio.Lock] = field(default_factory=WeakValueDictionary)


GATEWAY = web.AppKey("gateway", Gateway)
