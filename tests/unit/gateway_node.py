"""A gateway on fakes, served over real HTTP."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any
from uuid import UUID

from aiohttp import ClientResponse, CookieJar
from aiohttp.test_utils import TestClient, TestServer

from growbin.gateway.app import build_app
from growbin.gateway.context import Gateway, GatewayLimits
from growbin.gateway.hub import Hub
from growbin.job import Job
from growbin.rules.overlay import load_rulebook
from growbin.rules.things import ThingFinder
from tests.fakes import (
    Clock,
    FakeDeadLetters,
    FakeJobQueue,
    FakeJobRecords,
    FakePhotoCache,
    FakeProgressFeed,
    FakeProgressLog,
    FakeSessionJobs,
    FakeSessions,
    FakeUploadStore,
)
from tests.load_profile import ONE_ADDRESS

JPEG = b"\xff\xd8\xff\xe0" + b"photo" * 20
PNG = b"\x89PNG\r\n\x1a\n" + b"photo" * 20

RULES = load_rulebook(None)

Client = TestClient[Any, Any]

LIMITS = GatewayLimits(
    photo_max_bytes=10 * 2**20,
    ticket_seconds=300,
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
    letters: FakeDeadLetters = field(default_factory=FakeDeadLetters)
    photo_cache: FakePhotoCache = field(default_factory=FakePhotoCache)
    limits: GatewayLimits = LIMITS
    secure_cookies: bool = False
    takes_questions: bool = True
    hub: Hub = field(init=False)
    feed: FakeProgressFeed = field(init=False)
    server: TestServer = field(init=False)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def start(self) -> None:
        self.hub = Hub(self.progress, buffer_events=64)
        self.feed = FakeProgressFeed(self.progress, self.hub.on_entry)
        self.hub.attach(self.feed)
        gateway = Gateway(
            limits=self.limits,
            cdn_base_url="https://cdn.test",
            upload_origin="https://bucket.test",
            allowed_origins=frozenset({"https://app.test"}),
            trusted_proxies=(ip_network("127.0.0.0/8"),),
            secure_cookies=self.secure_cookies,
            takes_questions=self.takes_questions,
            rules=RULES,
            things=ThingFinder(RULES),
            records=self.records,
            sessions=self.sessions,
            progress=self.progress,
            session_jobs=FakeSessionJobs(self.progress),
            uploads=self.uploads,
            queue=self.queue,
            letters=self.letters,
            photo_cache=self.photo_cache,
            hub=self.hub,
        )
        self.server = TestServer(build_app(gateway))
        await self.server.start_server(shutdown_timeout=1)  # it cancels handlers, as we do
        self._stack.push_async_callback(self.hub.close)
        self._stack.push_async_callback(self.server.close)

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
