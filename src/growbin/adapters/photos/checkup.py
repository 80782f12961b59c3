"""What `growbin doctor` measures of the bucket and the CDN in front of it."""

from __future__ import annotations

import io
import re
import secrets
import time
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import uuid4

import aiohttp
from yarl import URL

from growbin.adapters.photos.photo_source import cache_of
from growbin.adapters.photos.upload_store import S3UploadStore
from growbin.errors import Unavailable
from growbin.job import READER_HEADER, CleanPhoto
from growbin.measurements import PhotoFacts, PublicCopyFacts, Transfer, since_ms

TRANSFER_SECONDS = 4.0
OBJECT_BYTES = 32 * 1024
TICKET_SECONDS = 60


async def use_photos(uploads: S3UploadStore, *, cdn_base_url: str | None, reader_secret: str) -> PhotoFacts:
    """Write a small object to `incoming/` and read it on every way there is, then remove it.
    No CDN when it is None. Raises Unavailable when nothing can be signed."""
    key = f"incoming/doctor-{secrets.token_hex(8)}"
    body = secrets.token_bytes(OBJECT_BYTES)
    ticket = await uploads.ticket(key, None, len(body), TICKET_SECONDS)
    write = await _transfer("PUT", ticket.url, ticket.headers, body)
    if write.status != 200:
        return PhotoFacts(write)
    try:
        address = await uploads.read_address(key, TICKET_SECONDS)
        read = await _transfer("GET", address, {}, body)
        unsigned = await _transfer("GET", str(URL(address, encoded=True).with_query(None)), {}, body)
        if cdn_base_url is None:
            return PhotoFacts(write, read, unsigned)
        reader = {READER_HEADER: reader_secret, "Accept-Encoding": "identity"}
        first = await _transfer("GET", f"{cdn_base_url}/{key}", reader, body)
        if first.status == 0:
            return PhotoFacts(write, read, unsigned, first)
        second = await _transfer("GET", f"{cdn_base_url}/{key}", reader, body)
        stranger = await _transfer("GET", f"{cdn_base_url}/{key}", {}, body)
        return PhotoFacts(write, read, unsigned, first, second, stranger)
    finally:
        with suppress(Unavailable):
            await uploads.delete(key)


async def use_public_copy(uploads: S3UploadStore, *, cdn_base_url: str | None) -> PublicCopyFacts:
    """The same with a consumer's rights: it writes no raw photo, and reads no public one from S3."""
    key, body = f"{uuid4()}.jpg", secrets.token_bytes(OBJECT_BYTES)
    look = await _operation(uploads.look(f"incoming/doctor-{secrets.token_hex(8)}"))
    photo = CleanPhoto(body, "image/jpeg", 1, 1)
    put = await _operation(uploads.publish_photo(key, photo, cache_seconds=TICKET_SECONDS))
    if put.status != 200:
        return PublicCopyFacts(look, put)
    try:
        if cdn_base_url is None:
            return PublicCopyFacts(look, put)
        first = await _transfer("GET", f"{cdn_base_url}/{key}", {}, body)
        second = await _transfer("GET", f"{cdn_base_url}/{key}", {}, body) if first.status else None
        return PublicCopyFacts(look, put, first, second)
    finally:
        with suppress(Unavailable):
            await uploads.delete(key)


async def _operation(call: Awaitable[object]) -> Transfer:
    """One call of S3's own client."""
    began = time.perf_counter()
    try:
        await call
    except Unavailable as error:
        return Transfer(0, problem=error.reason)
    return Transfer(200, {"total": since_ms(began)}, is_whole=True)


async def _transfer(method: str, url: str, headers: Mapping[str, str], body: bytes) -> Transfer:
    """One exchange on a fresh connection; `body` is sent with PUT, and compared with GET."""
    moments: dict[str, float] = {}
    began = time.perf_counter()
    timeout = aiohttp.ClientTimeout(total=TRANSFER_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(
                timeout=timeout, trust_env=False, auto_decompress=False, trace_configs=[_stopwatch(moments)]
            ) as session,
            session.request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=io.BytesIO(body) if method == "PUT" else None,
                allow_redirects=False,
            ) as answer,
        ):
            moments["first byte"] = since_ms(began)
            received = await answer.content.read(OBJECT_BYTES + 1)
            while piece := await answer.content.read(OBJECT_BYTES):
                received = (received + piece)[: OBJECT_BYTES + 1]
            moments["total"] = since_ms(began)
            return Transfer(
                status=answer.status,
                phases_ms=_phases(moments),
                cache=cache_of(answer),
                skew_seconds=_skew_seconds(answer.headers.get("Date")),
                problem=_error_code(received) if answer.status >= 300 else "",
                is_whole=received == body,
            )
    except TimeoutError:
        return Transfer(0, _phases(moments), problem=f"within {TRANSFER_SECONDS:.0f} s")
    except (aiohttp.ClientError, OSError) as error:
        return Transfer(0, _phases(moments), problem=type(error).__name__)


def _stopwatch(moments: dict[str, float]) -> aiohttp.TraceConfig:
    """Notes how long the name took to resolve, and how long the connection (with TLS) then took."""
    config = aiohttp.TraceConfig()

    def note(begin: Any, end: Any, phase: str) -> None:
        async def on_begin(*_: object) -> None:
            moments[f"{phase} begin"] = time.perf_counter()

        async def on_end(*_: object) -> None:
            moments[phase] = since_ms(moments[f"{phase} begin"])

        begin.append(on_begin)
        end.append(on_end)

    note(config.on_dns_resolvehost_start, config.on_dns_resolvehost_end, "dns")
    note(config.on_connection_create_start, config.on_connection_create_end, "connect")
    return config


def _phases(moments: Mapping[str, float]) -> dict[str, float]:
    phases = {
        phase: moments[phase] for phase in ("dns", "connect", "first byte", "total") if phase in moments
    }
    if "connect" in phases:  # aiohttp counts the look-up as a part of it
        phases["connect"] -= phases.get("dns", 0)
    return phases


def _skew_seconds(date: str | None) -> float | None:
    """The header has whole seconds: on average it is half a second old."""
    try:
        return time.time() - parsedate_to_datetime(date or "").timestamp() - 0.5
    except (TypeError, ValueError):
        return None


def _error_code(body: bytes) -> str:
    found = re.search(rb"<Code>(\w{1,60})</Code>", body)
    return found[1].decode() if found else ""
