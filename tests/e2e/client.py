"""A client of growbin as a stranger writes it from the API's description: plain HTTP, a cookie jar."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.e2e.photos import drawn

TERMINAL = ("done", "failed", "cancelled", "expired")


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer; `body` is decoded where it is JSON."""

    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True)
class Event:
    """One server-sent event; `retry` is the last reconnect time the server gave."""

    id: str
    name: str
    data: dict[str, Any]
    retry: int | None


class Client:
    """One browser: what it was given as cookie it sends back, with the headers of a same-origin fetch."""

    def __init__(self, http: aiohttp.ClientSession, base_url: str) -> None:
        self._http = http
        self.base_url = base_url
        self._same_origin = {"Origin": base_url, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}

    async def call(
        self, method: str, path: str, *, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        async with self._http.request(
            method, self.base_url + path, json=body, headers={**self._same_origin, **(headers or {})}
        ) as response:
            text = await response.text()
            is_json = "json" in response.content_type
            return Answer(response.status, response.headers, json.loads(text) if is_json and text else text)

    async def analyze(self, **wishes: object) -> dict[str, Any]:
        """A ticket; without wishes the request has no body, as the first client sends it."""
        answer = await self.call("POST", "/api/v1/waste/analyze", body=wishes or None)
        assert answer.status == 201, answer
        ticket: dict[str, Any] = answer.body
        return ticket

    async def put(self, ticket: Mapping[str, Any], photo: bytes, content_type: str = "image/jpeg") -> int:
        """Upload as a browser does: from elsewhere, so without the cookie; the status S3 gave."""
        headers = {"Content-Type": content_type, **ticket["upload_headers"]}
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as stranger,
            stranger.put(ticket["upload_url"], data=io.BytesIO(photo), headers=headers) as response,
        ):
            await response.read()
            return response.status

    async def complete(self, job_id: str) -> Answer:
        return await self.call("POST", f"/upload-complete/{job_id}")

    async def job(self, job_id: str, **headers: str) -> Answer:
        return await self.call("GET", f"/api/v1/waste/jobs/{job_id}", headers=headers)

    async def submit(self, photo: bytes, **wishes: object) -> str:
        """Ticket, upload and upload-complete; the id of the accepted job."""
        ticket = await self.analyze(**wishes)
        assert await self.put(ticket, photo, str(wishes.get("content_type", "image/jpeg"))) == 200
        answer = await self.complete(ticket["job_id"])
        assert answer.status == 202, answer
        return str(ticket["job_id"])

    async def result(self, job_id: str) -> dict[str, Any]:
        """Wait for the end of a job that must be `done`; its result."""
        events = [event async for event in self.events(job_id)]
        assert events[-1].name == "done", events[-1]
        result: dict[str, Any] = events[-1].data["result"]
        return result

    async def read_through_the_cdn(self) -> tuple[bytes, dict[str, Any]]:
        """A photo that was, and its result. On a busy machine the CDN may be late: then S3 is asked, and with
        the next photo the CDN is given longer."""
        async with asyncio.timeout(60):
            while True:
                result = await self.result(await self.submit(photo := drawn("JPEG")))
                if result["photo"]["source"] == "cdn":
                    return photo, result

    async def events(self, job_id: str, last_event_id: str | None = None) -> AsyncIterator[Event]:
        """The stream of a job until the server closes it."""
        headers = {"Accept": "text/event-stream"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        url = f"{self.base_url}/api/v1/waste/jobs/{job_id}/events"
        async with self._http.get(url, headers=headers) as response:
            assert response.status == 200, (response.status, await response.text())
            assert response.content_type == "text/event-stream"
            fields: dict[str, str] = {}
            retry: int | None = None
            async for raw in response.content:
                line = raw.decode().rstrip("\r\n")
                name, _, value = line.partition(":")
                if name == "retry":
                    retry = int(value)
                elif name:
                    fields[name] = value.removeprefix(" ")
                elif "data" in fields:
                    yield Event(fields.get("id", ""), fields["event"], json.loads(fields["data"]), retry)
                    fields = {}


@contextlib.asynccontextmanager
async def browsing(base_url: str) -> AsyncIterator[Client]:
    """A client with an empty cookie jar (`unsafe` is aiohttp's word for keeping cookies of an IP address)."""
    timeout = aiohttp.ClientTimeout(total=90)
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar, timeout=timeout) as http:
        yield Client(http, base_url)
