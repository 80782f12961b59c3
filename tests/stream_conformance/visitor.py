"""Somebody with a session, who submits photos and watches their jobs; the streams as they are opened."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.e2e.client import Client
from tests.e2e.photos import drawn
from tests.stream_conformance.open_stream import OpenStream, Way, last_id_in
from tests.stream_conformance.wire import Comment, Decoder, Event, Item, Notice, Retry

SOON_SECONDS = 20


class Stream(OpenStream[Item]):
    """One open connection to the progress stream of a job."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._blocks = Decoder()
        super().__init__(response, self._blocks)
        self.heartbeats = 0
        self.notices: list[Notice] = []

    async def item(self) -> Item | None:
        """It ends cleanly and between two blocks."""
        item = await super().item()
        assert item is not None or self._blocks.is_between_blocks, "it ended in the middle of a block"
        return item

    async def event(self, within_seconds: float = SOON_SECONDS) -> Event | None:
        """The next event, or None at the end."""
        async with asyncio.timeout(within_seconds):
            while True:
                match await self.item():
                    case Retry():
                        pass
                    case Comment():
                        self.heartbeats += 1
                    case Notice() as notice:
                        self.notices.append(notice)
                    case Event() as event:
                        return event
                    case None:
                        return None

    async def is_silent(self, for_seconds: float) -> bool:
        """No event comes; heartbeats may."""
        with contextlib.suppress(TimeoutError):
            await self.event(for_seconds)
            return False
        return True

    async def until_stage(self, stage: str) -> list[Event]:
        """Every event up to and with the one that announces `stage`."""
        events: list[Event] = []
        while not (events and events[-1].data["stage"] == stage):
            event = await self.event()
            assert event is not None, f"ended before {stage}"
            events.append(event)
        return events

    async def rest(self) -> list[Event]:
        """Every event until the server ends the stream."""
        events = []
        while (event := await self.event()) is not None:
            events.append(event)
        return events


@dataclass(frozen=True)
class Story:
    """What a follower has pieced together of one job, and how often it had to come back."""

    events: list[Event] = field(default_factory=list)
    resets: list[Event] = field(default_factory=list)


@dataclass(frozen=True)
class Visitor:
    http: aiohttp.ClientSession
    client: Client
    token: str
    base_url: str

    def events_url(self, job_id: str | None) -> str:
        """Of one job's stream, or of the session's (None)."""
        job = "" if job_id is None else f"/jobs/{job_id}"
        return f"{self.base_url}/api/v1/waste{job}/events"

    @contextlib.asynccontextmanager
    async def watching(
        self,
        job_id: str | None,
        last_id: str | None = None,
        *,
        way: Way = "header",
        at: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Stream]:
        """Open the stream of a job (None: of the session) after `last_id`, given this `way`, `at` a proxy."""
        told, query = last_id_in(way, "last_event_id", last_id)
        wanted = {"Accept": "text/event-stream", **(headers or {}), **told}
        url = self.events_url(job_id).replace(self.base_url, at or self.base_url)
        async with self.http.get(url, params=query, headers=wanted) as response:
            yield Stream(response)

    async def told(self, job_id: str, last_id: str | None = None, **how: Any) -> list[Event]:
        """All that one connection tells until the server ends it."""
        async with self.watching(job_id, last_id, **how) as stream:
            assert stream.status == 200, stream.status
            return await stream.rest()

    async def follow(self, job_id: str, *, at: str | None = None) -> Story:
        """Watch through every cut as EventSource does (only without its pause), until the terminal event."""
        story = Story()
        last_id = None
        async with asyncio.timeout(3 * SOON_SECONDS):
            while not (story.events and story.events[-1].ends):
                with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                    async with self.watching(job_id, last_id, at=at) as stream:
                        assert stream.status == 200, stream.status
                        while (event := await stream.event()) is not None:
                            (story.resets if event.name == "reset" else story.events).append(event)
                            last_id = event.id
        return story

    # --- jobs

    async def begin(self, question: str | None = None) -> Job:
        """A job that waits for its upload. Its stream is open, and goes on when the photo is sent."""
        return Job(self, await self.client.analyze(**({"question": question} if question else {})))

    async def begun(self) -> tuple[Job, Event]:
        """Such a job, and the only event of its story so far."""
        job = await self.begin()
        async with self.watching(job.id) as stream:
            [first] = await stream.until_stage("awaiting_upload")
        return job, first

    async def heard_live(self) -> tuple[str, list[Event]]:
        """A job that is done, and its story as it was heard while it ran."""
        job = await self.begin()
        async with self.watching(job.id) as stream, asyncio.TaskGroup() as sending:
            sending.create_task(job.send())
            return job.id, await stream.rest()

    async def submit(self, question: str | None = None) -> str:
        """A job on its way."""
        job = await self.begin(question)
        await job.send()
        return job.id

    async def finished(self) -> tuple[str, list[Event]]:
        """A job that is done, and its whole story."""
        job_id = await self.submit()
        return job_id, await self.told(job_id)

    async def cancel(self, job_id: str) -> None:
        answer = await self.client.call("POST", f"/api/v1/waste/jobs/{job_id}/cancel")
        assert answer.status == 202, answer


@dataclass(frozen=True)
class Job:
    """A job before its upload."""

    visitor: Visitor
    ticket: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.ticket["job_id"])

    async def send(self, photo: bytes | None = None) -> None:
        """Upload (a good photo, if none is given) and say so: now the job is on its way."""
        client = self.visitor.client
        assert await client.put(self.ticket, drawn("JPEG") if photo is None else photo) == 200
        answer = await client.complete(self.id)
        assert answer.status == 202, answer


@contextlib.asynccontextmanager
async def visiting(base_url: str) -> AsyncIterator[Visitor]:
    """A newcomer, with a session of its own."""
    timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
    async with (
        aiohttp.ClientSession(timeout=timeout) as nobody,
        nobody.post(f"{base_url}/api/v1/sessions") as answer,
    ):
        assert answer.status == 201, await answer.text()
        token = (await answer.json())["token"]
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {token}"},
        timeout=timeout,
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as http:
        yield Visitor(http, Client(http, base_url), token, base_url)


def new_word() -> str:
    """By which the scripted model knows a job."""
    return f"word-{uuid.uuid4().hex}"
