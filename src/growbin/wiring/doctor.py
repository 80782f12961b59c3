"""`growbin doctor`: which parts are tried, with which settings."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Literal
from urllib.parse import urlsplit

import structlog

from growbin.adapters.model.analyst import OPENAI_URL
from growbin.adapters.model.checkup import read_shutdown_date, use_model
from growbin.adapters.photos.checkup import use_photos, use_public_copy
from growbin.adapters.rabbitmq.checkup import compare_topology, read_alarms, use_broker
from growbin.adapters.redis.checkup import use_redis
from growbin.adapters.redis.outages import RedisOutages
from growbin.capabilities import EffortRefused
from growbin.commands import doctor
from growbin.config import Settings
from growbin.errors import PARTS, Unavailable
from growbin.nearby import proxy_before
from growbin.wiring.parts import open_uploads

log = structlog.get_logger()

DOCTOR_MODEL_SECONDS = 20.0
ROLES = ("jobs", "progress", "sessions")

Role = Literal["gateway", "consumer"]


def run_doctor(settings: Settings, say: Callable[[str], None], role: Role | None, *, as_json: bool) -> int:
    """`growbin doctor`; returns the exit status. With a role, only what that process has keys and ways to."""
    logging.disable()  # what fails is said as a finding
    return asyncio.run(doctor.examine(_checks(settings, role), say, as_json=as_json))


def _checks(settings: Settings, role: Role | None) -> list[doctor.Check]:
    async def broker(name: str, url: str) -> list[doctor.Finding]:
        return doctor.judge_broker(name, await use_broker(url))

    async def topology() -> list[doctor.Finding]:
        return doctor.judge_topology(await compare_topology(settings.rabbitmq_urls, settings.queue_name))

    async def alarms() -> list[doctor.Finding]:
        return doctor.judge_alarms(await read_alarms(settings.rabbitmq_management_url or ""))

    async def redis(name: str, url: str) -> list[doctor.Finding]:
        return doctor.judge_redis(name, await use_redis(url))

    async def outages() -> list[doctor.Finding]:
        async with RedisOutages.open(url=settings.redis_progress_url) as known:
            with suppress(Unavailable):  # Redis has a line of its own
                return doctor.judge_outages(await known.away(PARTS))
        return []

    async def photos() -> list[doctor.Finding]:
        async with open_uploads(settings) as uploads:
            cdn = settings.cdn_base_url if settings.cdn_enabled else None
            if role == "consumer":
                return doctor.judge_public_copy(await use_public_copy(uploads, cdn_base_url=cdn))
            secret = settings.cdn_reader_secret.get_secret_value()
            return doctor.judge_photos(await use_photos(uploads, cdn_base_url=cdn, reader_secret=secret))

    async def proxies() -> list[doctor.Finding]:
        async with open_uploads(settings) as uploads:
            s3 = uploads.origin
        addresses = {
            "s3": s3,
            **({} if role == "gateway" else {"model": settings.openai_base_url or OPENAI_URL}),
        }
        return doctor.judge_proxies({part: proxy_before(url) for part, url in addresses.items()})

    checks = []
    for url in settings.rabbitmq_urls:
        name = f"rabbitmq {_server(url)}"
        checks.append(doctor.Check(name, partial(broker, name, url), doctor.BROKER_AWAY))
    checks.append(doctor.Check("rabbitmq topology", topology, doctor.BROKER_AWAY))
    if settings.rabbitmq_management_url:
        checks.append(doctor.Check("rabbitmq alarms", alarms, doctor.MANAGEMENT_AWAY))
    for url, roles in _redis_servers(settings).items():
        name = "redis" if len(roles) == len(ROLES) else f"redis {'+'.join(roles)}"
        checks.append(doctor.Check(name, partial(redis, name, url), doctor.REDIS_AWAY))
    checks.append(doctor.Check("outages", outages, doctor.REDIS_AWAY))
    checks.append(doctor.Check("proxies", proxies, doctor.STORE_AWAY))
    checks.append(doctor.Check("photos", photos, doctor.STORE_AWAY))
    if role != "gateway":  # it has no key, and no way to it
        checks.append(doctor.Check("model", partial(_judge_model, settings), doctor.MODEL_AWAY))
    return checks


async def _judge_model(settings: Settings) -> list[doctor.Finding]:
    name, base_url = settings.openai_model, settings.openai_base_url
    key = settings.openai_api_key.get_secret_value()
    try:
        facts = await use_model(
            api_key=key,
            base_url=base_url,
            model=name,
            wishes=settings.call_wishes,
            timeout_seconds=min(settings.model_timeout_seconds, DOCTOR_MODEL_SECONDS),
        )
        answers = doctor.judge_model(facts)
    except EffortRefused as error:
        answers = doctor.judge_effort(str(error))
    lives_until = await read_shutdown_date(api_key=key, base_url=base_url, model=name)
    return answers + doctor.judge_shutdown(name, lives_until, datetime.now(UTC).date())


def _server(url: str) -> str:
    """Host and port, without user and password."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _redis_servers(settings: Settings) -> dict[str, list[str]]:
    """One URL for each server, with the roles that it has."""
    servers: dict[str, tuple[str, list[str]]] = {}
    for role in ROLES:
        url: str = getattr(settings, f"redis_{role}_url")
        servers.setdefault(_server(url), (url, []))[1].append(role)
    return dict(servers.values())
