"""Requests to one bucket, signed, and sent over botocore's own connections.

Its session finds the credentials (and renews them), TLS and proxies. What its client and its signers do
besides for each call, to know, check and translate any operation of any service, costs many times what is
needed.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from html import unescape
from types import SimpleNamespace
from typing import Any, Self
from urllib.parse import quote

import aioboto3
import aiohttp
from aiobotocore.endpoint import AioEndpointCreator
from botocore.awsrequest import AWSPreparedRequest
from botocore.exceptions import BotoCoreError, HTTPClientError, NoCredentialsError
from botocore.exceptions import ConnectionError as BotoConnectionError

from growbin.adapters.photos.bucket_place import Place, place_of
from growbin.adapters.photos.signatures import Signer
from growbin.errors import Unavailable

MOST_CONNECTIONS = 64
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

    def __init__(self, session: aioboto3.Session, http: Any, place: Place) -> None:
        self._session = session
        self._http = http
        self._signer = Signer(place)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        session: aioboto3.Session,
        bucket: str,
        *,
        region: str,
        endpoint_url: str | None,
        proxies: Mapping[str, str] | None,
        connect_timeout_seconds: float,
        read_timeout_seconds: float,
    ) -> AsyncIterator[Self]:
        """`proxies`: None for those of the environment. Raises Unavailable where no such bucket can be."""
        inner: Any = session._session  # noqa: SLF001  # botocore's, which it does not show
        try:
            place = place_of(inner, bucket, region, endpoint_url)
        except BotoCoreError as error:
            raise Unavailable("s3", str(error)) from None
        creator: Any = AioEndpointCreator(inner.get_component("event_emitter"))
        endpoint = creator.create_endpoint(
            SimpleNamespace(endpoint_prefix=place.service),
            place.region,
            place.base_url,
            verify=inner.get_config_variable("ca_bundle"),
            timeout=(connect_timeout_seconds, read_timeout_seconds),
            max_pool_connections=MOST_CONNECTIONS,
            proxies=proxies,
        )
        async with endpoint.http_session as http:
            yield cls(session, http, place)

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
        """The answer, its body unread; tried once more where that may help. Raises Refused, and what the
        client itself raises where there is no answer."""
        try:
            answer = await self._send(method, key, headers, body, query)
        except (Refused, BotoConnectionError, HTTPClientError) as error:
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
        signed: Any = self._signer.signed(await self._credentials(), method, key, headers, body, query)
        address = self._signer.address(key, query)
        sent = await self._http.send(AWSPreparedRequest(method, address, signed, body, True))
        answer: aiohttp.ClientResponse = sent.raw
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
