"""A good client: it retries what may be retried, at another gateway, and never loses its last event id.

    job = await client.submit("some-marker")     # session, ticket, upload, upload-complete, all retried
    end = await client.follow(job)               # its stream until the end, over any number of reconnects
    client.watch(job)                            # the same in the background; `await client.seen(job)`

For single shots: `ticket`, `put`, `complete`, `call`. All that is seen goes into the ledger.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.faults.instruments.oracle import SESSION_STREAM, Event, Ledger, Read, Stream, TrackedJob

PATIENCE_SECONDS = 120.0
CALL_SECONDS = 8.0
TOLD_EACH_SECONDS = 20.0
PAUSE_SECONDS = (0.1, 0.5)
FINAL_STATUSES = (400, 401, 403, 404, 409, 410, 413, 415, 422)
LOST = (aiohttp.ClientError, TimeoutError, OSError)


class Refused(Exception):
    """A final no, or no answer while the client's patience lasted."""


@dataclass(frozen=True)
class Answer:
    """`status` 0: no answer came (`body` says why)."""

    status: int
    headers: Mapping[str, str]
    body: Any


class Client:
    """`gateways` gives the addresses to choose from, at the moment of each call."""

    def __init__(
        self,
        ledger: Ledger,
        gateways: Callable[[], Sequence[str]],
        photo: Callable[[str], bytes],
        *,
        silence_seconds: float,
        choice: random.Random | None = None,
        obeys_retry: bool = False,
    ) -> None:
        self._ledger = ledger
        self._gateways = gateways
        self._photo = photo
        self._choice = choice or random.Random()
        self._obeys_retry = obeys_retry  # as EventSource does; otherwise it comes back at once
        self.headers: dict[str, str] = {}  # of every call
        self.open_at: Counter[str] = Counter()  # by gateway: calls and streams of ours it has in hand
        self._followers: dict[str, list[asyncio.Task[Event | None]]] = {}
        self._listeners: list[asyncio.Task[None]] = []
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=CALL_SECONDS),
        )
        # A stream that misses two heartbeats is given up: its gateway may be frozen.
        self._stream_timeout = aiohttp.ClientTimeout(total=None, sock_connect=2, sock_read=silence_seconds)

    async def close(self) -> None:
        await self.stop_listening()
        followers = [task for tasks in self._followers.values() for task in tasks]
        for task in followers:
            task.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
        await self._http.close()

    # --- the whole way

    async def submit(self, marker: str, *, token: str | None = None, **wishes: object) -> TrackedJob:
        """A job that was accepted. Raises Refused."""
        job = self._ledger.track(marker, token or await self.session())
        try:
            await self.ticket(job, **wishes)
            await self.put(job)
            await self._insist(f"upload-complete of {marker}", lambda: self.complete(job), 202)
        except Refused as refused:
            job.refusal = str(refused)
            raise
        return job

    async def session(self) -> str:
        """A fresh session's token."""
        answer = await self._insist("session", lambda: self.call("POST", "/api/v1/sessions"), 201)
        return str(answer.body["token"])

    async def ticket(self, job: TrackedJob, **wishes: object) -> None:
        """Ask for the upload's ticket; the same job however often it is repeated."""
        job.ticketed_at = job.ticketed_at or time.monotonic()
        body = {"question": f"case:{job.marker}", "content_type": "image/jpeg", **wishes}
        headers = {"Idempotency-Key": job.marker}
        answer = await self._insist(
            f"ticket of {job.marker}",
            lambda: self.call("POST", "/api/v1/waste/analyze", job.token, body=body, headers=headers),
            201,
        )
        job.ticket, job.job_id = answer.body, answer.body["job_id"]
        self._ledger.know(job)
        _, _, signature = job.ticket["upload_url"].partition("X-Amz-Signature=")
        self._ledger.secrets[signature.partition("&")[0]] = "a ticket's signature"

    async def put(self, job: TrackedJob, photo: bytes | None = None) -> None:
        """Upload; 412 says that an earlier try arrived after all."""
        data = self._photo(job.marker) if photo is None else photo

        async def once() -> Answer:
            try:
                async with self._http.put(
                    job.ticket["upload_url"], data=io.BytesIO(data), headers=job.ticket["upload_headers"]
                ) as response:
                    text = await response.text()
                    status = 200 if response.status == 412 else response.status
                    return Answer(status, response.headers, text)
            except LOST as error:
                return Answer(0, {}, repr(error))

        await self._insist(f"upload of {job.marker}", once, 200)

    async def complete(self, job: TrackedJob, gateway: str | None = None) -> Answer:
        """One upload-complete; a 202 is written down as the promise it is."""
        answer = await self.call("POST", f"/upload-complete/{job.job_id}", job.token, gateway=gateway)
        if answer.status == 202:
            job.accept()
        return answer

    async def read(self, job: TrackedJob) -> dict[str, Any]:
        """The job as its owner reads it now; an error is written down as what was read."""
        try:
            answer = await self._insist(f"read of {job.marker}", lambda: self.look(job), 200)
            job.final = dict(answer.body)
        except Refused as refused:
            job.final = {"error": str(refused)}
        return job.final

    async def look(self, job: TrackedJob, wait_seconds: int = 0) -> Answer:
        """One read of the job; with a wait, once it has ended or so many seconds later."""
        asked_at = time.monotonic()
        wish = {"Prefer": f"wait={wait_seconds}"} if wait_seconds else {}
        answer = await self.call("GET", f"/api/v1/waste/jobs/{job.job_id}", job.token, headers=wish)
        body = answer.body if isinstance(answer.body, dict) else {}
        job.reads.append(Read("wait" if wait_seconds else "read", asked_at, answer.status, body))
        return answer

    async def cancel(self, job: TrackedJob) -> Answer:
        return await self.call("POST", f"/api/v1/waste/jobs/{job.job_id}/cancel", job.token)

    async def delete(self, job: TrackedJob) -> Answer:
        return await self.call("DELETE", f"/api/v1/waste/jobs/{job.job_id}", job.token)

    async def say(self, job: TrackedJob, *, right: bool) -> Answer:
        path = f"/api/v1/waste/jobs/{job.job_id}/feedback"
        return await self.call("POST", path, job.token, body={"right": right})

    async def until(self, once: Callable[[], Awaitable[Answer]], *wanted: int) -> Answer:
        """Repeat what may be repeated until one of these is the answer. Raises Refused."""
        return await self._insist("call", once, *wanted)

    async def call(
        self,
        method: str,
        path: str,
        token: str = "",
        *,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        gateway: str | None = None,
    ) -> Answer:
        """One call to one gateway (any, if none is named); never raises for what the network does."""
        bearer = {"Authorization": f"Bearer {token}"} if token else {}
        headers = {**self.headers, **bearer, **(headers or {})}
        gateway = gateway or self._any_gateway()
        asked_at = time.monotonic()
        answer = await self._call(method, gateway, path, headers, body)
        self._ledger.note(method, path, token, asked_at, answer.status)
        return answer

    async def _call(
        self, method: str, gateway: str, path: str, headers: Mapping[str, str], body: object
    ) -> Answer:
        with self._at(gateway):
            try:
                async with self._http.request(method, gateway + path, json=body, headers=headers) as response:
                    text = await response.text()
                    is_json = "json" in response.content_type
                    return Answer(response.status, response.headers, json.loads(text) if is_json else text)
            except LOST as error:
                return Answer(0, {}, repr(error))

    async def _insist(self, what: str, once: Callable[[], Awaitable[Answer]], *wanted: int) -> Answer:
        told_at = time.monotonic()
        gives_up_at = told_at + PATIENCE_SECONDS
        while True:
            answer = await once()
            if answer.status in wanted:
                return answer
            code = answer.body.get("code") if isinstance(answer.body, dict) else answer.body
            if answer.status in FINAL_STATUSES or time.monotonic() > gives_up_at:
                raise Refused(f"{what}: {answer.status} {code}")
            if time.monotonic() > told_at + TOLD_EACH_SECONDS:  # a row may be over before the patience is
                told_at = time.monotonic()
                print(f"{what} is still refused: {answer.status} {code}")
            await asyncio.sleep(self._choice.uniform(*PAUSE_SECONDS))

    @contextmanager
    def _at(self, gateway: str) -> Iterator[None]:
        self.open_at[gateway] += 1
        try:
            yield
        finally:
            self.open_at[gateway] -= 1

    def _any_gateway(self) -> str:
        return self._choice.choice(self._gateways())

    # --- streams

    def watch(
        self,
        job: TrackedJob,
        name: str = "stream",
        *,
        is_nervous: bool = False,
        resumes_after: str | None = None,
    ) -> Stream:
        """Follow the job in the background; a nervous one leaves and comes back after every event."""
        stream = Stream(name, is_nervous, job.run, resumes_after)
        job.streams.append(stream)
        task = asyncio.create_task(self._follow(job, stream), name=f"follow {job.marker}")
        self._followers.setdefault(job.marker, []).append(task)
        return stream

    async def seen(self, job: TrackedJob, timeout_seconds: float = 60) -> Event:
        """The latest end of a watched job, as soon as each of its streams has its own."""
        async with asyncio.timeout(timeout_seconds):
            end = (await asyncio.gather(*map(asyncio.shield, self._followers[job.marker])))[-1]
        if end is None:
            raise Refused(f"{job.marker} was deleted")
        return end

    async def follow(self, job: TrackedJob, timeout_seconds: float = 60) -> Event:
        self.watch(job)
        return await self.seen(job, timeout_seconds)

    async def _follow(self, job: TrackedJob, stream: Stream) -> Event | None:
        """Until its end; None once it is deleted or forgotten, and nobody knows it any more."""
        while True:
            await self._connect_once(job, stream)
            if " 404 " in stream.connections[-1] and job.has_been_forgotten:
                # It had ended, where this Redis no longer knows of it.
                job.accepted_at, job.refusal = None, "a Redis that was set back forgot it"
                return None
            if stream.end is not None or job.is_deleted(stream.tried_at[-1]):
                return stream.end
            hurried, left_at = self._choice.uniform(*PAUSE_SECONDS), time.monotonic()
            await asyncio.sleep(stream.retry_seconds if self._obeys_retry else hurried)
            if self._obeys_retry:
                stream.waited.append((left_at, time.monotonic()))

    async def _connect_once(self, job: TrackedJob, stream: Stream) -> None:
        gateway = self._any_gateway()
        stream.tried_at.append(time.monotonic())
        with self._at(gateway):
            await self._read_stream(job, stream, gateway)

    async def _read_stream(self, job: TrackedJob, stream: Stream, gateway: str) -> None:
        headers = {"Authorization": f"Bearer {job.token}", "Accept": "text/event-stream"}
        if stream.last_id is not None:
            headers["Last-Event-ID"] = stream.last_id
        url = f"{gateway}/api/v1/waste/jobs/{job.job_id}/events"
        what, asked_at = "no answer", time.monotonic()
        try:
            async with self._http.get(url, headers=headers, timeout=self._stream_timeout) as response:
                what = f"{response.status} cut"
                job.reads.append(Read("stream", asked_at, response.status))
                if response.status == 200:
                    async for event in read_events(response, stream):
                        stream.events.append(event)
                        if stream.is_nervous:
                            break
                elif response.status == 204:
                    stream.dismissed_at.append(time.monotonic())
                what = f"{response.status} closed"
        except LOST as error:
            what += f" ({type(error).__name__})"
        stream.connections.append(f"{gateway} {what} after {stream.last_id}")

    # --- a session's stream

    def watch_session(self, token: str) -> asyncio.Task[None]:
        """Hear all that a session is told until the task is cancelled; each job is given its part."""
        task = asyncio.create_task(self._follow_session(token), name="follow a session")
        self._listeners.append(task)
        return task

    async def stop_listening(self) -> None:
        """To sessions, and to jobs whose acceptance was lost, for which nobody waits: streams are closed."""
        forgotten = [job.marker for job in self._ledger.jobs.values() if job.is_acceptance_forgotten]
        tasks = [
            *self._listeners,
            *(task for marker in forgotten for task in self._followers.get(marker, ())),
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listeners.clear()

    async def _follow_session(self, token: str) -> None:
        whole = Stream(SESSION_STREAM)
        while True:
            with suppress(*LOST):
                await self._hear_session(token, whole)
            await asyncio.sleep(self._choice.uniform(*PAUSE_SECONDS) * 3)  # it may be all that there was

    async def _hear_session(self, token: str, whole: Stream) -> None:
        gateway = self._any_gateway()
        headers = {"Authorization": f"Bearer {token}"}
        if whole.last_id is not None:
            headers["Last-Event-ID"] = whole.last_id
        url = f"{gateway}/api/v1/waste/events"
        tried_at = time.monotonic()
        with self._at(gateway):
            async with self._http.get(url, headers=headers, timeout=self._stream_timeout) as response:
                if response.status == 204:
                    self._ledger.sessions_dismissed[token].append((tried_at, time.monotonic()))
                if response.status != 200:
                    return
                async for event in read_events(response, whole):
                    # A client without an id is told of unfinished jobs only.
                    self._ledger.sessions_heard.setdefault(token, event.at)
                    whole.events[:] = [event]
                    self._ledger.hear_in_session(event, tried_at)

    async def ask_again(self, job: TrackedJob) -> int:
        """Connect with the last id of an ended stream, as EventSource does; 204 says that this was all.
        Anything that comes nevertheless is added to the stream."""
        stream = job.own_streams[0]
        before = len(stream.connections)
        with suppress(TimeoutError):
            async with asyncio.timeout(CALL_SECONDS):
                await self._connect_once(job, stream)
        said = stream.connections[before].split() if len(stream.connections) > before else ["", "0"]
        return int(said[1]) if said[1].isdigit() else 0


async def read_events(response: aiohttp.ClientResponse, stream: Stream) -> AsyncIterator[Event]:
    """Only what was ended by its empty line counts: a cut stream's last lines are no event."""
    fields: dict[str, str] = {}
    async for raw in response.content:
        name, _, value = raw.decode().rstrip("\r\n").partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
        else:
            if fields.get("event") == "notice" and "id" not in fields:
                stream.notices.append(json.loads(fields["data"]))
            elif "data" in fields:  # also a notice with an id: the oracle calls it strange
                text = fields["data"]
                yield Event(time.monotonic(), fields["id"], fields["event"], json.loads(text), text)
            if "retry" in fields:
                stream.retry_seconds = int(fields["retry"]) / 1000
            fields = {}
