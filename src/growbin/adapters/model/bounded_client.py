"""The HTTP client below `openai`: it sends the photo in pieces, and reads so much of an answer, no more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import httpx2
import openai
from aiohttp.http_exceptions import ContentEncodingError
from yarl import URL

from growbin.adapters.model.picture import Picture
from growbin.nearby import proxy_of

MOST_BODY_BYTES = 1024 * 1024  # an honest answer has a hundredth of it
LONGEST_HEADER_BYTES = 64 * 1024
IDLE_SECONDS = 5.0  # a connection that was kept for longer may have been closed at the other end
_MARK = "Growbin-Picture"  # a header of ours; taken off before the request is made
_OF_THE_WIRE = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})
# What it is to httpx2, and so to `openai`; the first that fits.
_ERRORS: tuple[tuple[type[Exception], type[httpx2.RequestError]], ...] = (
    (aiohttp.ConnectionTimeoutError, httpx2.ConnectTimeout),
    (aiohttp.ClientConnectorError, httpx2.ConnectError),
    (aiohttp.ClientHttpProxyError, httpx2.ProxyError),
    (aiohttp.NonHttpUrlClientError, httpx2.UnsupportedProtocol),
    (ValueError, httpx2.LocalProtocolError),
    (aiohttp.ServerTimeoutError, httpx2.ReadTimeout),
    (aiohttp.ClientError, httpx2.ReadError),
    (OSError, httpx2.ReadError),
)


class BoundedClient(openai.DefaultAsyncHttpxClient):
    """Follows no redirect: that would send the photo once more, to somewhere nobody configured."""

    def __init__(self, base_url: str) -> None:
        """Through the environment's proxy, unless the server is nearby."""
        # A transport that is never used; its own would load every certificate.
        super().__init__(transport=httpx2.AsyncBaseTransport(), trust_env=False)
        self._pictures: dict[str, Picture] = {}
        self._session = aiohttp.ClientSession(
            # Compressed, a small body may become a large one, and these are small anyway.
            headers={"Accept-Encoding": "identity"},
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=proxy_of(base_url),
            max_field_size=LONGEST_HEADER_BYTES,
        )

    @contextmanager
    def carrying(self, picture: Picture) -> Iterator[dict[str, str]]:
        """The headers of a request whose body has `picture`'s mark. A context variable would not do: a
        connection keeps the context that it was opened in, and the photo with it."""
        self._pictures[picture.mark] = picture
        try:
            yield {_MARK: picture.mark}
        finally:
            del self._pictures[picture.mark]

    def build_request(self, *_: Any, **given: Any) -> httpx2.Request:
        """With the picture in its mark's place; of the body nothing is kept once it is sent."""
        headers = httpx2.Headers(given["headers"])
        length, pieces = self._pictures[headers.pop(_MARK)].spliced_into(given["content"])
        headers["Content-Length"] = str(length)
        return httpx2.Request(
            given["method"],
            given["url"],
            headers=headers,
            stream=_Pieces(pieces),
            extensions={"timeout": given["timeout"].as_dict()},
        )

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """The whole answer, also where a stream of it is asked for. A body longer than MOST_BODY_BYTES is cut
        somewhere beyond: who reads it tells it by its length."""
        limits = request.extensions["timeout"]
        try:
            async with self._session.post(
                URL(str(request.url), encoded=True),
                headers=[(name.decode(), value.decode()) for name, value in request.headers.raw],
                data=request.stream,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(connect=limits["connect"], sock_read=limits["read"]),
            ) as answer:
                body = await _read(answer)
        except tuple(error for error, _ in _ERRORS) as error:
            # No error's text is kept: it may quote the key.
            raise next(to for of, to in _ERRORS if isinstance(error, of))("", request=request) from None
        kept = [header for header in answer.raw_headers if header[0].lower() not in _OF_THE_WIRE]
        return httpx2.Response(answer.status, headers=kept, content=body, request=request)

    async def aclose(self) -> None:
        await self._session.close()
        await super().aclose()


class _Pieces(httpx2.AsyncByteStream):
    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces


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
