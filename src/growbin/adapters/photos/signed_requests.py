"""Requests to one bucket, signed, and sent over connections that are kept.

The session of aioboto3 finds the credentials and renews them. What its client does besides for each call, to
know, check and translate any operation of any service, costs many times what is needed.
"""

from __future__ import annotations

import asyncio
import random
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from html import unescape
from typing import Any, Self
from urllib.parse import quote, urlsplit

import aioboto3
import aiohttp
from botocore.endpoint import EndpointCreator
from botocore.exceptions import BotoCoreError, NoCredentialsError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies
from yarl import URL

from growbin.adapters.photos.bucket_place import place_of
from growbin.adapters.photos.signatures import Signer
from growbin.errors import Unavailable

MOST_CONNECTIONS = 64
KEPT_SECONDS = 12  # S3 closes what is idle for twenty
MAX_PAUSE_SECONDS = 0.5  # before the second try
LONGEST_REFUSAL_BYTES = 16 * 1024
# As the client's own retries have it.
_MAY_PASS = frozenset({"SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "Throttling", "InternalError"})


class Refused(Exception):
    """An answer that is none of 2xx."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code

    @property
    def may_pass(self) -> bool:
        return self.status in (429, 500, 502, 503, 504) or self.code in _MAY_PASS


class SignedRequests:
    """All to one bucket; the time-outs hold for each."""

    def __init__(
        self, session: aioboto3.Session, http: aiohttp.ClientSession, signer: Signer, proxy: str | None
    ) -> None:
        self._session = session
        self._http = http
        self._signer = signer
        self._proxy = proxy

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        session: aioboto3.Session,
        bucket: str,
        *,
        region: str,
        endpoint_url: str | None,
        is_proxied: bool,
        connect_timeout_seconds: float,
        read_timeout_seconds: float,
    ) -> AsyncIterator[Self]:
        """`is_proxied`: by what the environment says. Raises Unavailable where no such bucket can be."""
        inner: Any = session._session  # noqa: SLF001  # botocore's, which it does not show
        try:
            place = place_of(inner, bucket, region, endpoint_url)
        except BotoCoreError as error:
            raise Unavailable("s3", str(error)) from None
        proxies = get_environ_proxies(place.base_url) if is_proxied else {}
        scheme = urlsplit(place.base_url).scheme
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=MOST_CONNECTIONS,
                keepalive_timeout=KEPT_SECONDS,
                ssl=_believed(inner) if scheme == "https" else True,
            ),
            timeout=aiohttp.ClientTimeout(
                sock_connect=connect_timeout_seconds, sock_read=read_timeout_seconds
            ),
            headers={"Accept-Encoding": "identity"},
            skip_auto_headers={"Content-Type"},
            auto_decompress=False,
        ) as http:
            yield cls(session, http, Signer(place), proxies.get(scheme))

    @property
    def origin(self) -> str:
        """Scheme and host of every address; no credentials are needed."""
        return self._signer.origin

    async def presigned(
        self, method: str, key: str, expires_seconds: int, headers: Mapping[str, str] | None = None
    ) -> str:
        """An address that anybody may use, with `headers` as they are."""
        return self._signer.presigned(await self._credentials(), method, key, expires_seconds, headers or {})

    @asynccontextmanager
    async def answered(
        self, method: str, key: str, headers: Mapping[str, str], body: bytes = b"", query: str = ""
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer, its body unread; tried once more where that may help. Raises Refused, and
        aiohttp.ClientError or OSError where there is no answer."""
        try:
            answer = await self._send(method, key, headers, body, query)
        except (Refused, aiohttp.ClientError, OSError) as error:
            if isinstance(error, Refused) and not error.may_pass:
                raise
            await asyncio.sleep(random.uniform(0, MAX_PAUSE_SECONDS))  # noqa: S311  # jitter, not a secret
            answer = await self._send(method, key, headers, body, query)
        async with answer:  # closed also when it is left early, or the pool runs dry
            yield answer

    async def listed(self, prefix: str) -> list[str]:
        """The first thousand keys that begin so. Raises as `answered`."""
        query = f"list-type=2&prefix={quote(prefix, safe='')}"
        async with self.answered("GET", "", {}, query=query) as answer:
            found = re.findall(r"<Key>([^<]+)</Key>", await answer.text())
            return [unescape(key) for key in found]

    async def _send(
        self, method: str, key: str, headers: Mapping[str, str], body: bytes, query: str
    ) -> aiohttp.ClientResponse:
        signed = self._signer.signed(await self._credentials(), method, key, headers, body, query)
        answer = await self._http.request(
            method,
            URL(self._signer.address(key, query), encoded=True),
            headers=signed,
            data=body,
            proxy=self._proxy,
            allow_redirects=False,
        )
        if answer.status < 300:
            return answer
        async with answer:
            told = await answer.content.read(LONGEST_REFUSAL_BYTES)
            found = re.search(rb"<Code>(\w{1,60})</Code>", told)
            raise Refused(answer.status, found[1].decode() if found else str(answer.status))

    async def _credentials(self) -> Any:
        """As they are now: the session renews those that run out."""
        credentials: Any = await self._session.get_credentials()  # type: ignore[misc]
        if credentials is None:
            raise NoCredentialsError
        return await credentials.get_frozen_credentials()


def _believed(session: Any) -> ssl.SSLContext:
    """The certificates that botocore believes, by AWS's variables and files or its own."""
    creator: Any = EndpointCreator
    told = creator(None)._get_verify_value(session.get_config_variable("ca_bundle"))  # noqa: SLF001
    return ssl.create_default_context(cafile=get_cert_path(told))
