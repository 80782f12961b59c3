"""What `growbin doctor` measures: each part used once, as growbin uses it. Nothing is judged here.

What is written is removed again. A function raises Unavailable when its part does not answer at all.
"""

from __future__ import annotations

import asyncio
import io
import re
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import aio_pika
import aiohttp
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelNotFoundEntity, ChannelPreconditionFailed
from PIL import Image
from yarl import URL

from growbin.adapters.model.analyst import OPENAI_URL, OpenAIAnalyst
from growbin.adapters.photos.photo_source import READER_HEADER
from growbin.adapters.photos.upload_store import S3UploadStore
from growbin.adapters.rabbitmq.topology import Topology, refusal
from growbin.adapters.redis import keys
from growbin.adapters.redis.connection import ask, open_redis
from growbin.capabilities import Effort
from growbin.errors import JobFailed, Throttled, Unavailable
from growbin.job import CleanPhoto
from growbin.measurements import BrokerFacts, ModelFacts, PhotoFacts, RedisFacts, TopologyFacts, Transfer

CONNECT_SECONDS = 4.0
ROUND_TRIP_SECONDS = 4.0
TOPOLOGY_SECONDS = 15.0
TRANSFER_SECONDS = 4.0
OBJECT_BYTES = 32 * 1024
TICKET_SECONDS = 60


# --- RabbitMQ ----------------------------------------------------------------------------------


async def use_broker(url: str) -> BrokerFacts:
    """Publish, await the confirm, and get it back."""
    began = time.perf_counter()
    async with _connected(url, ROUND_TRIP_SECONDS) as connection:
        connect_ms = _since_ms(began)
        assert connection.transport is not None
        version = connection.transport.connection.server_properties.get("version", "unknown")
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        queue = await channel.declare_queue(exclusive=True, auto_delete=True)
        arrived = asyncio.Event()

        async def note(_message: AbstractIncomingMessage) -> None:
            arrived.set()

        await queue.consume(note, no_ack=True)
        began = time.perf_counter()
        await channel.default_exchange.publish(aio_pika.Message(b"doctor"), queue.name, mandatory=True)
        await arrived.wait()
        return BrokerFacts(str(version), connect_ms, _since_ms(began))


async def compare_topology(urls: list[str], queue_name: str) -> TopologyFacts:
    """Ask for everything that growbin declares, on the first node that answers; create nothing."""
    topology = Topology(queue_name)
    missing: list[str] = []
    different: list[str] = []
    async with _connected(await _first_that_answers(urls), TOPOLOGY_SECONDS) as connection:
        for name in topology.names():
            channel = await connection.channel()
            try:
                await topology.find_one(name, channel)
                # It exists: to declare it anew creates nothing, and compares the arguments.
                await topology.declare_one(name, channel)
            except ChannelNotFoundEntity:
                missing.append(name)
            except ChannelPreconditionFailed as error:
                different.append(refusal(error))
    return TopologyFacts(len(topology.names()), missing, different)


async def read_alarms(management_url: str) -> list[str]:
    """`node: memory` or `node: disk` of each node that blocks its publishers."""
    base = URL(management_url)
    headers = {"Authorization": aiohttp.encode_basic_auth(base.user or "", base.password or "")}
    timeout = aiohttp.ClientTimeout(total=TRANSFER_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(base.with_user(None) / "api/nodes", headers=headers) as answer,
        ):
            answer.raise_for_status()
            nodes = await answer.json()
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise Unavailable("rabbitmq management", f"{type(error).__name__}: {error}") from error
    alarms = (("memory", "mem_alarm"), ("disk", "disk_free_alarm"))
    return [f"{node['name']}: {what}" for node in nodes for what, field in alarms if node.get(field)]


@asynccontextmanager
async def _connected(url: str, work_seconds: float) -> AsyncIterator[AbstractConnection]:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            connection = await aio_pika.connect(url, client_properties={"connection_name": "growbin-doctor"})
    except TimeoutError as error:
        raise Unavailable("rabbitmq", f"not connected within {CONNECT_SECONDS:.0f} s") from error
    except CONNECTION_EXCEPTIONS as error:
        raise Unavailable("rabbitmq", f"{type(error).__name__}: {error}") from error
    try:
        async with asyncio.timeout(work_seconds):
            yield connection
    except TimeoutError as error:
        raise Unavailable(
            "rabbitmq", f"connected, but nothing was confirmed in {work_seconds:.0f} s"
        ) from error
    except CONNECTION_EXCEPTIONS as error:
        raise Unavailable("rabbitmq", f"{type(error).__name__}: {error}") from error
    finally:
        with suppress(*CONNECTION_EXCEPTIONS, TimeoutError):
            async with asyncio.timeout(1):
                await connection.close()


async def _first_that_answers(urls: list[str]) -> str:
    for url in urls[:-1]:
        with suppress(Unavailable):
            async with _connected(url, CONNECT_SECONDS):
                return url
    return urls[-1]


# --- Redis -------------------------------------------------------------------------------------


async def use_redis(url: str) -> RedisFacts:
    """Write and read a key that lives a minute. INFO tells the rest, also where CONFIG is forbidden."""
    async with open_redis(url) as redis:
        await ask(redis.ping())
        began = time.perf_counter()
        await ask(redis.set(keys.READINESS, "1", ex=keys.READINESS_SECONDS))
        await ask(redis.get(keys.READINESS))
        round_trip_ms = _since_ms(began)
        before = time.time()
        seconds, microseconds = await ask(redis.time())
        here = (before + time.time()) / 2
        known = await ask(redis.info("everything"))
    appends = known.get("aof_enabled")
    return RedisFacts(
        version=str(known.get("valkey_version") or known.get("redis_version") or "unknown"),
        round_trip_ms=round_trip_ms,
        appends=None if appends is None else bool(appends),
        eviction_policy=known.get("maxmemory_policy"),
        skew_seconds=here - (int(seconds) + int(microseconds) / 1e6),
    )


# --- S3 and CDN --------------------------------------------------------------------------------


async def use_photos(uploads: S3UploadStore, *, cdn_base_url: str | None, reader_secret: str) -> PhotoFacts:
    """Write a small object to `incoming/` and read it on every way there is. No CDN when it is None."""
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
            moments["first byte"] = _since_ms(began)
            received = await answer.content.read(OBJECT_BYTES + 1)
            while piece := await answer.content.read(OBJECT_BYTES):
                received = (received + piece)[: OBJECT_BYTES + 1]
            moments["total"] = _since_ms(began)
            return Transfer(
                status=answer.status,
                phases_ms=_phases(moments),
                cache=_cache(answer.headers.get("X-Cache")),
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
            moments[phase] = _since_ms(moments[f"{phase} begin"])

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


def _cache(header: str | None) -> str | None:
    return None if header is None else "hit" if "hit" in header.lower() else "miss"


def _skew_seconds(date: str | None) -> float | None:
    """The header has whole seconds: on average it is half a second old."""
    try:
        return time.time() - parsedate_to_datetime(date or "").timestamp() - 0.5
    except (TypeError, ValueError):
        return None


def _error_code(body: bytes) -> str:
    found = re.search(rb"<Code>(\w{1,60})</Code>", body)
    return found[1].decode() if found else ""


# --- model -------------------------------------------------------------------------------------


async def use_model(
    *, api_key: str, base_url: str | None, model: str, effort: Effort | None, timeout_seconds: float
) -> ModelFacts:
    """Ask about a small grey square: the same call as for a photo, for about the hundredth part of a cent.
    Raises EffortRefused."""
    square = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(square, "JPEG")
    photo = CleanPhoto(square.getvalue(), "image/jpeg", 64, 64)
    async with OpenAIAnalyst.open(
        api_key=api_key, base_url=base_url, model=model, effort=effort, timeout_seconds=timeout_seconds
    ) as analyst:
        try:
            answer = await analyst.ask(photo, None, "en")
        except Throttled as error:
            return ModelFacts(model, problem=error.reason, is_broken=error.broken)
        except JobFailed as error:
            return ModelFacts(model, problem=str(error), is_broken=True)
        except Unavailable as error:
            return ModelFacts(model, problem=error.reason)
    tokens = answer.usage.input_tokens + answer.usage.output_tokens
    return ModelFacts(answer.model, answer.analyse_ms, tokens)


async def read_shutdown_date(*, api_key: str, base_url: str | None, model: str) -> date | None:
    """When the model goes, by its provider's list; None where that does not tell. To ask costs nothing."""
    models_url = f"{base_url or OPENAI_URL}/models"
    headers = {"Authorization": f"Bearer {api_key or 'none'}"}
    # Through the same proxy as the calls of the model.
    async with aiohttp.ClientSession(headers=headers, trust_env=True) as session:
        try:
            async with asyncio.timeout(TRANSFER_SECONDS):
                entry = await _read_object(session, f"{models_url}/{quote(model, safe='')}")
                if entry is None:
                    listed = (await _read_object(session, models_url) or {}).get("data")
                    entries = listed if isinstance(listed, list) else []
                    named = (one for one in entries if isinstance(one, dict) and one.get("id") == model)
                    entry = next(named, {})
        except TimeoutError:
            return None
    return _day(entry.get("shutdown_date"))


async def _read_object(session: aiohttp.ClientSession, url: str) -> dict[str, Any] | None:
    """The JSON object that is served there, if one is."""
    try:
        async with session.get(URL(url, encoded=True), allow_redirects=False) as answer:
            body = await answer.json(content_type=None) if answer.status == 200 else None
    except (aiohttp.ClientError, ValueError):
        return None
    return body if isinstance(body, dict) else None


def _day(told: object) -> date | None:
    """Told as 2027-01-14, as an RFC 3339 time, or in seconds since 1970."""
    try:
        if isinstance(told, str) and not re.fullmatch(r"\d{9,}(\.\d+)?", told):
            moment = datetime.fromisoformat(told)
            return moment.astimezone(UTC).date() if moment.tzinfo else moment.date()
        if isinstance(told, str | int | float) and not isinstance(told, bool):
            return datetime.fromtimestamp(float(told), UTC).date()
    except (ValueError, OverflowError, OSError):
        pass
    return None


def _since_ms(began: float) -> float:
    return (time.perf_counter() - began) * 1000
