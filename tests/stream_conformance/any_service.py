"""Any service, as its description tells: people who make jobs, and the streams that they open."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.stream_conformance.description import BadDescription, Call, Description
from tests.stream_conformance.event_stream import Comment, Event, EventStreamDecoder, Item, Retry
from tests.stream_conformance.open_stream import OpenStream, Way, last_id_in

SILENCE_SECONDS = 120.0  # of a whole connection; each rule gives up earlier
AT_ONCE_SECONDS = 2.0
MOST_LISTED = 4


class Broken(Exception):
    """A rule is broken; says what was seen."""


class CannotBeTried(Exception):
    """A rule needs what the description does not have."""


class Stream(OpenStream[Item]):
    """One open connection to a job's stream."""

    def __init__(self, response: aiohttp.ClientResponse, description: Description) -> None:
        super().__init__(response, EventStreamDecoder())
        self._description = description
        self.retries: list[int] = []

    async def event(self, within_seconds: float | None = None) -> Event | None:
        """The next event of the story, or None at the end of the stream. Silence is broken patience."""
        longest = within_seconds or self._description.stream.patience_seconds
        try:
            async with asyncio.timeout(longest):
                while (item := await self.item()) is not None:
                    match item:
                        case Retry(milliseconds):
                            self.retries.append(milliseconds)
                        case Event() if item.name not in self._description.stream.beside:
                            return item
                        case Event() | Comment():
                            pass
                return None
        except TimeoutError:
            raise Broken(f"silence for {longest:g} s where an event or the end was due") from None

    async def story(self) -> list[Event]:
        """Every event up to the first that ends the job, or until the service ends the stream."""
        events: list[Event] = []
        while not (events and self.ends(events[-1])) and (event := await self.event()) is not None:
            events.append(event)
        return events

    async def whole(self) -> list[Event]:
        """The story, and whatever comes after its end until the stream is closed, or quiet."""
        events = await self.story()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AT_ONCE_SECONDS):
                while (event := await self.event()) is not None:
                    events.append(event)
        return events

    def ends(self, event: Event) -> bool:
        return stage_of(event, self._description) in self._description.stream.ends and not is_reset(
            event, self._description
        )


def stage_of(event: Event, description: Description) -> str:
    stage = description.stream.stage
    return str(event.data.get(stage)) if stage else event.name


def is_reset(event: Event, description: Description) -> bool:
    return event.name == description.stream.reset


@dataclass(frozen=True)
class Job:
    """`known` are the answers to what made it."""

    person: Person
    known: Mapping[str, Any]

    @property
    def events_path(self) -> str:
        return _filled(self.person.description.stream.path, self.known)

    async def start(self) -> None:
        await self.person.ask(self.person.description.start, self.known)

    async def cancel(self) -> None:
        await self.person.ask(self.person.description.cancel, self.known)


@dataclass(frozen=True)
class Person:
    """Somebody with a session, where the service has sessions."""

    http: aiohttp.ClientSession
    base_url: str
    description: Description
    known: dict[str, Any] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        return {name: _filled(value, self.known) for name, value in self.description.headers.items()}

    async def create(self) -> Job:
        """A job; where the description says how it is started, it does not run yet."""
        return Job(self, await self.ask(self.description.create, self.known))

    async def ended(self) -> tuple[Job, list[Event]]:
        """A job that has run, and its story as it was heard from its beginning."""
        job = await self.create()
        async with self.watching(job) as stream, asyncio.TaskGroup() as starting:
            check_open(stream)
            starting.create_task(job.start())
            told = await stream.story()
        if not told or not stream.ends(told[-1]):
            raise Broken(f"no end was told: {listed(told)}")
        return job, told

    @contextlib.asynccontextmanager
    async def watching(
        self,
        job: Job | str,
        last_id: str | None = None,
        *,
        way: Way = "header",
        at: str | None = None,
    ) -> AsyncIterator[Stream]:
        """Open the stream of a job (or of a path), `at` a proxy."""
        headers, query = last_id_in(way, self.description.stream.last_id_parameter or "", last_id)
        headers = {**self.headers, "Accept": "text/event-stream", **headers}
        path = job if isinstance(job, str) else job.events_path
        url = f"{at or self.base_url}{path}"
        while True:
            async with self.http.get(url, params=query, headers=headers) as response:
                if not await _has_waited(response):
                    yield Stream(response, self.description)
                    return

    async def told(
        self, job: Job, last_id: str | None = None, *, way: Way = "header", at: str | None = None
    ) -> list[Event]:
        """All that one connection tells of a job."""
        async with self.watching(job, last_id, way=way, at=at) as stream:
            check_open(stream)
            return await stream.whole()

    async def introduce(self) -> None:
        """Get a session, where the description says how."""
        self.known.update(await self.ask(self.description.session, {}, is_known=False))

    async def ask(
        self, calls: Sequence[Call], known: Mapping[str, Any], *, is_known: bool = True
    ) -> dict[str, Any]:
        """Make the calls one after another; each may use what was answered before it."""
        answers = dict(known)
        for call in calls:
            method, _, target = call.request.partition(" ")
            url = _filled(target, answers)
            # A path is the service's own; a whole address may be another's, who gets no credentials.
            headers = {name: _filled(value, answers) for name, value in call.headers.items()}
            if url.startswith("/"):
                url = self.base_url + url
                headers = {**self.headers, **headers} if is_known else headers
            content: dict[str, Any] = {}
            if call.file:
                content["data"] = call.file.read_bytes()
            elif call.body is not None:
                content["json"] = call.body
            answer = await self._answer(method, url, headers, content)
            if isinstance(answer, dict):
                answers |= answer
        return answers

    async def _answer(self, method: str, url: str, headers: dict[str, str], content: dict[str, Any]) -> Any:
        while True:
            async with self.http.request(method, url, headers=headers, **content) as response:
                if await _has_waited(response):
                    continue
                if response.status >= 400:
                    said = (await response.text())[:200]
                    raise BadDescription(f"{method} {url} was answered with {response.status}: {said}")
                return await response.json() if "json" in response.content_type else None


async def _has_waited(response: aiohttp.ClientResponse) -> bool:
    """A service that says when to come back is obeyed, for as long as the rule's time lasts."""
    wait = response.headers.get("Retry-After", "")
    if response.status not in (429, 503) or not wait.isdecimal():
        return False
    await asyncio.sleep(int(wait))
    return True


def check_open(stream: Stream) -> None:
    if stream.status != 200:
        raise Broken(f"the stream was answered with {stream.status}")


def _filled(template: str, known: Mapping[str, Any]) -> str:
    try:
        return template.format_map(dict(known))
    except (KeyError, IndexError, TypeError) as error:
        raise BadDescription(
            f"{template!r} needs {error}, which no answer has told; known: {sorted(known)}"
        ) from None


def listed(events: Sequence[Event]) -> str:
    more = [f"and {len(events) - MOST_LISTED} more"] if len(events) > MOST_LISTED else []
    return ", ".join([*map(str, events[:MOST_LISTED]), *more]) or "nothing"


@dataclass(frozen=True)
class AnyService:
    base_url: str
    description: Description

    @contextlib.asynccontextmanager
    async def person(self) -> AsyncIterator[Person]:
        """A newcomer."""
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_read=SILENCE_SECONDS),
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.CookieJar(unsafe=True),
        ) as http:
            newcomer = Person(http, self.base_url.rstrip("/"), self.description)
            await newcomer.introduce()
            yield newcomer
