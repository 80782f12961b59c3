"""`growbin analyze`: photos in, advice out, over the same HTTP API as everybody else's.

Progress goes to stderr, results to stdout. One photo's way is `_analyze`.
"""

from __future__ import annotations

import asyncio
import json
import locale as system_locale
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp

from growbin.commands.advice_table import JSON, Outcome, summary, table
from growbin.commands.photo_to_send import UnusablePhoto, photo_to_send
from growbin.commands.progress_bars import ProgressBar, ProgressBars, told
from growbin.job import TERMINAL_STAGES

PHOTOS_AT_ONCE = 4  # as many streams as a session may have open
PATIENCE_SECONDS = 60
CALL_SECONDS = 30
SILENCE_SECONDS = 45  # three missed heartbeats
RECONNECT_SECONDS = 2.0
CANCEL_SECONDS = 5
PLACE = ("position", "wait_seconds")

JOBS = "/api/v1/waste/jobs"
ADVICE = "Start growbin there (`growbin stack`), or name another address with --server or GROWBIN_SERVER."

Answer = TypeVar("Answer")


def main(photos: Sequence[Path], server: str, question: str | None, locale: str | None, as_json: bool) -> int:
    """Analyse all `photos`; the exit status is 0 only when each of them ended `done`, 130 after Ctrl-C.

    `as_json` writes an object a line, in the order of ending: `photo`, `stage`, and `result` or `failure`.
    """
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal may know no Hangul
    sys.stderr.reconfigure(errors="replace")  # type: ignore[union-attr]  # the same
    wishes = {"question": question, "locale": locale or _own_language()}
    try:
        outcomes = asyncio.run(_analyze_all(photos, server.rstrip("/"), wishes, as_json))
    except KeyboardInterrupt:
        sys.stderr.write("Cancelled.\n")
        return 130
    except (Refused, Unreachable) as error:
        sys.stderr.write(f"growbin analyze: {error.detail}\n")
        return 1
    if not as_json:
        sys.stdout.write(table(outcomes))
    return 0 if all(outcome.stage == "done" for outcome in outcomes) else 1


# --- the photos' way ---------------------------------------------------------------------------


async def _analyze_all(
    photos: Sequence[Path], server: str, wishes: Mapping[str, str | None], as_json: bool
) -> list[Outcome]:
    turns = asyncio.Semaphore(PHOTOS_AT_ONCE)
    language = wishes["locale"] or "en"
    bars = ProgressBars(sys.stderr, language, is_quiet=as_json)

    async def take_turn(photo: Path, bar: ProgressBar) -> Outcome:
        async with turns:
            bars.begin(bar)
            outcome = await _analyze(
                service, photo, wishes, lambda event: bars.show(bar, *told(event, language))
            )
            bars.end(bar, summary(outcome, language))
            if as_json:
                sys.stdout.write(outcome.as_json() + "\n")
                sys.stdout.flush()
            return outcome

    async with _service(server) as service, bars.drawn(), asyncio.TaskGroup() as group:
        tasks = [group.create_task(take_turn(photo, bars.add(photo))) for photo in photos]
    return [task.result() for task in tasks]


async def _analyze(
    service: Service, photo: Path, wishes: Mapping[str, str | None], show: Callable[[JSON], None]
) -> Outcome:
    """Read, ask for a ticket, upload, follow to the end, each event of which `show` hears. When cancelled,
    the job is cancelled as well."""
    job_id = None
    try:
        data, content_type = await asyncio.to_thread(photo_to_send, photo)
        body = {"content_type": content_type, "content_length": len(data), **wishes}
        key = {"Idempotency-Key": uuid.uuid4().hex}
        ticket = await _patiently(lambda: service.call("POST", "/api/v1/waste/analyze", body, key))
        job_id = ticket["job_id"]
        await _patiently(lambda: service.upload(ticket, data))
        await _patiently(lambda: service.call("POST", f"/upload-complete/{job_id}"))
        end = await service.follow(job_id, show)
    except (Refused, UnusablePhoto) as error:
        failure = {"code": error.code, "detail": error.detail, "retryable": False}
        return Outcome(photo, "refused", failure=failure)
    except Unreachable as error:
        failure = {"code": "unavailable", "detail": error.detail, "retryable": True}
        return Outcome(photo, "failed", failure=failure)
    except asyncio.CancelledError:
        if job_id is not None:
            with suppress(Refused, Unreachable, TimeoutError):
                async with asyncio.timeout(CANCEL_SECONDS):
                    await service.call("POST", f"{JOBS}/{job_id}/cancel")
        raise
    if end["stage"] == "done":
        return Outcome(photo, "done", result=end["result"])
    told = {"code": end["stage"], "detail": end["message"], "retryable": end["stage"] == "expired"}
    return Outcome(photo, end["stage"], failure=end.get("failure") or told)


async def _patiently(attempt: Callable[[], Awaitable[Answer]]) -> Answer:
    """Repeat what fails only for now, and wait for our turn. Every call may be repeated."""
    gives_up_at = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await attempt()
        except Unreachable as error:
            delay_seconds = error.retry_after_seconds or 1
            if error.comes_in_turn:
                gives_up_at = time.monotonic() + PATIENCE_SECONDS
            elif time.monotonic() + delay_seconds > gives_up_at:
                raise
        await asyncio.sleep(delay_seconds)


# --- the service -------------------------------------------------------------------------------


class Refused(Exception):
    """The answer is no, and would be no again."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Stranger(Refused):
    """The answer is none of growbin's."""


class Unreachable(Exception):
    """There is no answer for now. `comes_in_turn`: the service lives, and asks us to call less often."""

    def __init__(
        self, detail: str, *, retry_after_seconds: float | None = None, comes_in_turn: bool = False
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_seconds = retry_after_seconds
        self.comes_in_turn = comes_in_turn


class Service:
    """The API for one session. Its methods raise Refused when the answer is no, Unreachable when there
    is none for now."""

    def __init__(self, http: aiohttp.ClientSession, server: str, token: str = "") -> None:
        self._http = http
        self._server = server
        self._authorization = {"Authorization": f"Bearer {token}"} if token else {}

    async def call(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        sent = {**self._authorization, **(headers or {})}
        with _translated():
            async with self._http.request(method, self._server + path, json=body, headers=sent) as answer:
                await _check(answer)
                try:
                    return await answer.json()
                except (aiohttp.ContentTypeError, ValueError):
                    raise Stranger("unexpected_answer", f"{_named(answer)} answered no JSON.") from None

    async def upload(self, ticket: JSON, data: bytes) -> None:
        """To wherever the ticket points, so without our token. 412: it is already there."""
        method, url, headers = ticket["upload_method"], ticket["upload_url"], ticket["upload_headers"]
        with _translated():
            async with self._http.request(method, url, data=data, headers=headers) as answer:
                if answer.status != 412:
                    await _check(answer)

    async def follow(self, job_id: str, show: Callable[[JSON], None]) -> JSON:
        """Give every event to `show`, also over reconnects; the terminal one is returned."""
        url = f"{self._server}{JOBS}/{job_id}/events"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CALL_SECONDS, sock_read=SILENCE_SECONDS)
        headers = dict(self._authorization)
        heard_at = time.monotonic()
        shown: JSON = {"progress": 0}
        while True:
            try:
                with _translated():
                    async with self._http.get(url, headers=headers, timeout=timeout) as answer:
                        await _check(answer)
                        async for event_id, name, event in _events(answer.content):
                            heard_at = time.monotonic()
                            if event_id:
                                headers["Last-Event-ID"] = event_id
                            if "progress" not in event:  # a notice, say: not of this job's story
                                if "position" in event:
                                    shown |= {name: event.get(name) for name in PLACE}
                                    show(shown)
                                elif "message" in event:
                                    show({**shown, "message": event["message"]})
                                continue
                            shown = event
                            show(event)
                            if name in TERMINAL_STAGES:
                                return event
                delay_seconds = RECONNECT_SECONDS
            except Unreachable as error:
                if error.comes_in_turn:
                    heard_at = time.monotonic()
                if time.monotonic() - heard_at > PATIENCE_SECONDS:
                    raise
                delay_seconds = error.retry_after_seconds or RECONNECT_SECONDS
            await asyncio.sleep(delay_seconds)


@asynccontextmanager
async def _service(server: str) -> AsyncIterator[Service]:
    if urlsplit(server).scheme not in ("http", "https"):
        raise Refused(
            "bad_server", f"The address of the gateway must start with http:// or https:// (is {server!r})."
        )
    timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout) as http:
        try:
            session = await _new_session(Service(http, server))
            token = session["token"]
        except Stranger as error:
            raise Refused(
                error.code, f"What answers at {server} is no growbin: {error.detail} {ADVICE}"
            ) from None
        except (KeyError, TypeError):
            raise Refused("unexpected_answer", f"What answers at {server} is no growbin. {ADVICE}") from None
        except Unreachable as error:
            raise Unreachable(f"Nobody answers at {server}: {error.detail}. {ADVICE}") from None
        yield Service(http, server, token)


async def _new_session(service: Service) -> JSON:
    """At once or not at all, unless it is only not our turn yet."""
    while True:
        try:
            session: JSON = await service.call("POST", "/api/v1/sessions")
            return session
        except Unreachable as error:
            if not error.comes_in_turn:
                raise
            await asyncio.sleep(error.retry_after_seconds or 1)


async def _events(lines: aiohttp.StreamReader) -> AsyncIterator[tuple[str, str, JSON]]:
    """Id, name and data of each server-sent event; comments and reconnect times are passed over."""
    fields: dict[str, str] = {}
    async for raw in lines:
        name, _, value = raw.decode().rstrip("\r\n").partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            yield fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"])
            fields = {}


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except aiohttp.ClientConnectorError as error:
        raise Unreachable(os.strerror(error.errno) if error.errno else str(error)) from error
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Unreachable(str(error) or "no answer in time") from error


async def _check(answer: aiohttp.ClientResponse) -> None:
    if answer.status < 400:
        return
    is_ours = True
    try:
        problem = await answer.json(content_type=None)
        code, detail = str(problem["code"]), str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        is_ours = False
        code, detail = "unexpected_answer", f"{_named(answer)} answered {answer.status} {answer.reason}."
    if answer.status in (429, 502, 503, 504):
        retry_after = answer.headers.get("Retry-After", "")
        seconds = float(retry_after) if retry_after.isdecimal() else None
        raise Unreachable(detail, retry_after_seconds=seconds, comes_in_turn=answer.status == 429)
    raise Refused(code, detail) if is_ours else Stranger(code, detail)


def _named(answer: aiohttp.ClientResponse) -> str:
    """Who answers, as it calls itself, else by its address."""
    return answer.headers.get("Server") or answer.url.authority


def _own_language() -> str:
    """Korean for a Korean terminal. One without a language (C) is rather read by somebody with English."""
    return "ko" if (system_locale.getlocale()[0] or "").lower().startswith("ko") else "en"
