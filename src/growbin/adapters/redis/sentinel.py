"""Redis behind sentinels: whoever connects asks them first who the primary is now.

    redis+sentinel://user:password@sentinel-1:26379,sentinel-2:26379/service/database
    rediss+sentinel://…                      TLS, to the sentinels as well
    …?sentinel_password=…                    where the sentinels have one of their own

The rest is as with one address: an answer that says "not I" drops the connections (connection.py).
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

SENTINEL_PORT = 26379
ASK_TIMEOUT_SECONDS = 0.5  # the next sentinel is asked while there is still time for the call itself


class PrimaryConnection(Connection):
    """Goes to the primary of a service."""

    def __init__(self, *, sentinels: list[tuple[str, int]], asking: dict[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self._sentinels = sentinels
        self._asking = asking
        self._service = self.host

    async def _connect(self) -> None:
        # Asked anew each time, over connections that are not kept: it is seldom, and an old answer misleads.
        # Raises MasterNotFoundError, a ConnectionError, where no sentinel knows of a primary.
        async with Sentinel(self._sentinels, sentinel_kwargs=self._asking) as sentinel:  # type: ignore[no-untyped-call]
            self.host, self.port = await sentinel.discover_master(self._service)
        await super()._connect()  # type: ignore[no-untyped-call]


class TlsPrimaryConnection(PrimaryConnection, SSLConnection):
    """The same over TLS."""


def pool_options(url: str) -> tuple[str, dict[str, Any]]:
    """What the library's pools take: a URL, and for one that names sentinels options besides."""
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if kind != "sentinel":
        return url, {}
    user, at, places = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    query = dict(parse_qsl(parts.query))
    asking: dict[str, Any] = {
        "socket_timeout": ASK_TIMEOUT_SECONDS,
        "socket_connect_timeout": ASK_TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        "password": query.pop("sentinel_password", None),
    }
    if is_tls := scheme == "rediss":
        asking |= {"ssl": True} | {name: value for name, value in query.items() if name.startswith("ssl_")}
    return urlunsplit(("redis", f"{user}{at}{service}", f"/{database or 0}", urlencode(query), "")), {
        "connection_class": TlsPrimaryConnection if is_tls else PrimaryConnection,
        "sentinels": [_address_of(place) for place in places.split(",")],
        "asking": asking,
    }


def _address_of(place: str) -> tuple[str, int]:
    parsed = urlsplit(f"//{place}")
    return parsed.hostname or "127.0.0.1", parsed.port or SENTINEL_PORT
