"""The HTTP client of the model: it sends the photo in pieces, and reads so much of an answer and no more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from aiohttp.http_exceptions import ContentEncodingError

from growbin.adapters.model.refusals import Trouble
from growbin.adapters.model.reply import MOST_BODY_BYTES
from growbin.adapters.model.request import Body
from growbin.nearby import proxy_of

IDLE_SECONDS = 5.0  # a connection that was kept for longer may have been closed at the other end
LONGEST_HEADER_BYTES = 64 * 1024
# Raised before a byte of the request is on its way.
_NEVER_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ServerFingerprintMismatch,
)
_UNSENDABLE = (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, ValueError)


@dataclass(frozen=True, slots=True)
class Answered:
    """`headers` are looked up in any case. A body longer than MOST_BODY_BYTES is cut somewhere beyond: who
    reads it tells it by its length."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class BoundedClient:
    """Follows no redirect: that would send the photo once more, to somewhere nobody configured."""

    def __init__(self, session: aiohttp.ClientSession, url: str, api_key: str) -> None:
        self._session = session
        self._url = url
        self._api_key = api_key

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, api_key: str, connect_seconds: float) -> AsyncIterator[BoundedClient]:
        """Through the environment's proxy, unless the server is nearby."""
        async with aiohttp.ClientSession(
            # Compressed, a small body may become a large one, and these are small anyway.
            headers={"Accept-Encoding": "identity", "Content-Type": "application/json"},
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=proxy_of(url),
            max_field_size=LONGEST_HEADER_BYTES,
        ) as session:
            yield cls(session, url, api_key)

    async def post(self, body: Body) -> Answered | Trouble:
        """No error's text is kept: it may quote the key."""
        if not (self._api_key.isascii() and self._api_key.isprintable()):  # no header takes it
            return "unsendable"
        headers = {"Authorization": f"Bearer {self._api_key}", "Content-Length": str(body.length)}
        try:
            async with self._session.post(
                self._url, data=body.pieces(), headers=headers, allow_redirects=False
            ) as answer:
                return Answered(answer.status, answer.headers, await _read(answer))
        except _NEVER_SENT:
            return "never sent"
        except _UNSENDABLE:
            return "unsendable"
        except aiohttp.ServerTimeoutError:
            return "timed out"
        except (aiohttp.ClientError, OSError):
            return "cut"


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    try:
        async for part in answer.content.iter_any():
            body += part
            if len(body) > MOST_BODY_BYTES:
                break
    except aiohttp.ClientPayloadError as error:
        if isinstance(error.__cause__, ContentEncodingError):  # it arrived, and says nothing
            return b""
        raise
    return bytes(body)
