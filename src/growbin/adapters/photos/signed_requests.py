"""Requests to one bucket, signed by botocore's own signers and sent over its client's own connections.

The client finds the endpoint, the credentials (and renews them), TLS and proxies; what it does besides for
each call, to know, check and translate any operation of any service, costs ten times the signature.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import aioboto3
import aiohttp
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.exceptions import HTTPClientError, NoCredentialsError
from botocore.utils import percent_encode

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

NOBODY = "nobody"
MAX_PAUSE_SECONDS = 0.5  # before the second try
LONGEST_REFUSAL_BYTES = 16 * 1024
# As the client's own retries have it.
_MAY_PASS = frozenset({"SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "Throttling", "InternalError"})


OpenClient = Callable[..., AbstractAsyncContextManager["S3Client"]]


class Refused(Exception):
    """An answer that is none of 2xx."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code

    @property
    def may_pass(self) -> bool:
        return self.status in (429, 500, 502, 503, 504) or self.code in _MAY_PASS


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the bucket is, and as what requests to it are signed."""

    base_url: str
    region: str
    service: str


class SignedRequests:
    """All to one bucket; the client's time-outs hold for each."""

    def __init__(
        self, session: aioboto3.Session, client: S3Client, open_client: OpenClient, bucket: str
    ) -> None:
        """`client` is what `open_client` makes in `session`."""
        self._session = session
        self._client = client
        self._open_client = open_client
        self._bucket = bucket
        self._place: _Place | None = None

    async def origin(self) -> str:
        """Scheme and host of every address; no credentials are needed."""
        parts = urlsplit((await self._find_place()).base_url)
        return f"{parts.scheme}://{parts.netloc}"

    async def presigned(
        self, method: str, key: str, expires_seconds: int, headers: Mapping[str, str] | None = None
    ) -> str:
        """An address that anybody may use, with `headers` as they are."""
        place, credentials = await self._find_place(), await self._credentials()
        request = AWSRequest(method=method, url=_address(place, key), headers=dict(headers or {}))
        S3SigV4QueryAuth(credentials, place.service, place.region, expires=expires_seconds).add_auth(request)
        return str(request.url)

    @asynccontextmanager
    async def answered(
        self, method: str, key: str, headers: Mapping[str, str], body: bytes = b""
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer, its body unread; tried once more where that may help. Raises Refused, and what the
        client itself raises where there is no answer."""
        try:
            answer = await self._send(method, key, headers, body)
        except (Refused, BotoConnectionError, HTTPClientError) as error:
            if isinstance(error, Refused) and not error.may_pass:
                raise
            await asyncio.sleep(random.uniform(0, MAX_PAUSE_SECONDS))  # noqa: S311  # jitter, not a secret
            answer = await self._send(method, key, headers, body)
        async with answer:  # closed also when it is left early, or the pool runs dry
            yield answer

    async def _send(
        self, method: str, key: str, headers: Mapping[str, str], body: bytes
    ) -> aiohttp.ClientResponse:
        place, credentials = await self._find_place(), await self._credentials()
        request = AWSRequest(method=method, url=_address(place, key), headers=dict(headers), data=body)
        S3SigV4Auth(credentials, place.service, place.region).add_auth(request)
        # Over the client's own session: with its pool, TLS, proxies and time-outs.
        http = self._client._endpoint.http_session  # type: ignore[attr-defined]  # noqa: SLF001
        sent = await http.send(AWSPreparedRequest(method, str(request.url), request.headers, body, True))
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

    async def _find_place(self) -> _Place:
        """Told by an address that a client has signed for nobody: it alone knows all partitions."""
        if self._place is None:
            async with self._open_client(aws_access_key_id=NOBODY, aws_secret_access_key=NOBODY) as client:
                told = await client.generate_presigned_url(
                    "get_object", Params={"Bucket": self._bucket, "Key": "key"}
                )
            scope = parse_qs(urlsplit(told).query)["X-Amz-Credential"][0].split("/")
            self._place = _Place(told.partition("?")[0].removesuffix("key"), scope[-3], scope[-2])
        return self._place


def _address(place: _Place, key: str) -> str:
    return f"{place.base_url}{percent_encode(key, safe='/~')}"
