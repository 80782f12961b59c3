"""A gateway on fakes, served over real HTTP."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any
from uuid import UUID

from aiohttp import ClientResponse, CookieJar
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application

from growbin.gateway.addresses import Network
from growbin.gateway.app import build_app
from growbin.gateway.context import Gateway, GatewayLimits
from growbin.gateway.erasure import Eraser
from growbin.gateway.hub import Hub
from growbin.gateway.notices import Notices
from growbin.job import Job
from growbin.rules.overlay import load_rulebook
from growbin.rules.rulebook import Rulebook
from growbin.rules.things import ThingFinder
from tests.fakes import (
    Clock,
    FakeJobQueue,
    FakeJobRecords,
    FakeOutages,
    FakePhotoCache,
    FakeProgressFeed,
    FakeProgressLog,
    FakeSessionJobs,
    FakeSessions,
    FakeUploadStore,
)
from tests.fakes.agenda import AGAIN
from tests.load_profile import ONE_ADDRESS

JPEG = b"\xff\xd8\xff\xe0" + b"photo" * 20
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"photo" * 20
PNG = b"\x89PNG\r\n\x1a\n" + b"photo" * 20

RULES = load_rulebook(None)

Client = TestClient[Any, Any]

LOOPBACK = (ip_network("127.0.0.0/8"),)
LIMITS = GatewayLimits(
    photo_max_bytes=10 * 2**20,
    ticket_seconds=300,
    require_declared_length=False,
    upload_wait_seconds=600,
    backlog_limit=100,
    job_deadline_seconds=300,
    max_streams_per_session=4,
    max_streams_per_address=50,
    max_streams=100,
    stream_heartbeat_seconds=15,
    stream_write_timeout_seconds=20,
    **{name.lower(): int(value) for name, value in ONE_ADDRESS.items()},
)


@dataclass
class Node:
    """One gateway process, on parts that it may share with others."""

    clock: Clock
    records: FakeJobRecords
    sessions: FakeSessions
    progress: FakeProgressLog
    uploads: FakeUploadStore
    queue: FakeJobQueue
    photo_cache: FakePhotoCache = field(default_factory=FakePhotoCache)
    limits: GatewayLimits = LIMITS
    secure_cookies: bool = False
    takes_questions: bool = True
    rules: Rulebook = RULES
    outages: FakeOutages = field(init=False)
    trusted_proxies: tuple[Network, ...] = LOOPBACK
    hub: Hub = field(init=False)
    eraser: Eraser = field(init=False)
    feed: FakeProgressFeed = field(init=False)
    server: TestServer = field(init=False)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def start(self) -> None:
        self.outages = FakeOutages(self.clock)
        self.sessions.on_new_job = self.records.put_first
        self.hub = Hub(self.progress, buffer_events=64)
        self.feed = FakeProgressFeed(self.progress, self.hub.on_entry, self.hub.on_session_job)
        self.hub.attach(self.feed)
        self.eraser = Eraser(
            agenda=self.progress.agenda,
            progress=self.progress,
            records=self.records,
            uploads=self.uploads,
            photo_cache=self.photo_cache,
            pause_seconds=0.01,
        )
        await self._stack.enter_async_context(self.eraser.working())
        self.server = TestServer(self.app())
        await self.server.start_server(shutdown_timeout=1)  # it cancels handlers, as we do
        self._stack.push_async_callback(self.hub.close)
        self._stack.push_async_callback(self.server.close)

    def app(self) -> Application:
        gateway = Gateway(
            limits=self.limits,
            cdn_base_url="https://cdn.test",
            upload_origin="https://bucket.test",
            allowed_origins=frozenset({"https://app.test"}),
            trusted_proxies=self.trusted_proxies,
            secure_cookies=self.secure_cookies,
            takes_questions=self.takes_questions,
            rules=self.rules,
            things=ThingFinder(self.rules),
            records=self.records,
            sessions=self.sessions,
            progress=self.progress,
            session_jobs=FakeSessionJobs(self.progress),
            uploads=self.uploads,
            queue=self.queue,
            eraser=self.eraser,
            hub=self.hub,
            notices=Notices(self.outages, self.queue),
        )
        return build_app(gateway)

    async def stop(self) -> None:
        await self.hub.drain()
        await self._stack.aclose()

    async def client(self) -> Client:
        """A newcomer: a browser without cookies."""
        client = TestClient(self.server, cookie_jar=CookieJar(unsafe=True))
        self._stack.push_async_callback(client.close)
        return client

    # --- what most tests begin with

    async def ticket(self, client: Client, **wishes: object) -> dict[str, Any]:
        response = await client.post("/api/v1/waste/analyze", json=wishes)
        assert response.status == 201, await response.text()
        ticket: dict[str, Any] = await response.json()
        return ticket

    async def uploaded(self, client: Client, data: bytes = JPEG, **wishes: object) -> UUID:
        job_id = UUID((await self.ticket(client, **wishes))["job_id"])
        self.uploads.put(self.records.uploads[job_id].key, data)
        return job_id

    async def erased(self) -> None:
        """Wait until nothing on the agenda is due."""
        agenda = self.progress.agenda
        async with asyncio.timeout(30):
            while any(due_ms <= self.clock.now_ms() for due_ms in agenda.entries.values()) or any(
                entry.endswith(AGAIN) for entry in agenda.entries
            ):
                await asyncio.sleep(0.01)

    async def submitted(self, client: Client) -> Job:
        job_id = await self.uploaded(client)
        response = await client.post(f"/upload-complete/{job_id}")
        assert response.status == 202, await response.text()
        return self.queue.published[-1]


async def problem(response: ClientResponse, status: int, code: str) -> dict[str, Any]:
    """The body of a problem, which must have the shape of every problem."""
    body: dict[str, Any] = await response.json(content_type="application/problem+json")
    assert (response.status, body["code"]) == (status, code), body
    assert body["status"] == status
    assert body["type"] == f"urn:growbin:problem:{code}"
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert body["title"]
    assert body["detail"]
    return body
