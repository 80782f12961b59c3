"""The broker's management API: what AMQP does not tell."""

from __future__ import annotations

from typing import Any

import aiohttp
from yarl import URL

from growbin.errors import Unavailable


def vhost_of(broker_url: str) -> str:
    """As the AMQP library reads it: `/%2Fprod` is the vhost `/prod`, and no path the vhost `/`."""
    return URL(broker_url).path[1:].replace("%2F", "/") or "/"


async def ask_management(management_url: str, path: str, timeout_seconds: float) -> Any:
    """The JSON under `path`, which is quoted already. Raises Unavailable."""
    base = URL(management_url)
    address = URL(f"{str(base.with_user(None)).rstrip('/')}/api/{path}", encoded=True)
    headers = {"Authorization": aiohttp.encode_basic_auth(base.user or "", base.password or "")}
    timeout = aiohttp.ClientTimeout(total=timeout_seconds)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(address, headers=headers) as answer,
        ):
            answer.raise_for_status()
            return await answer.json()
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise Unavailable("rabbitmq management", f"{type(error).__name__}: {error}") from error
