"""Requests to S3 as they arrive, and addresses, beside what botocore's own client makes of the same."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aioboto3
import pytest
from aiobotocore.config import AioConfig
from aiohttp import web
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.httpsession import get_cert_path
from botocore.session import get_session
from types_aiobotocore_s3 import S3Client

from growbin.adapters.photos.signed_requests import Refused, SignedRequests, _believed
from tests.loopback import Handler, served

KEYS = [
    "incoming/0d1c2b3a-0000-4000-8000-000000000000",
    "x.jpg",
    "a b+c&d=e?f#g%h",
    "사진/한 장.jpg",
    "tilde~(brackets)!*'",
    "two//slashes/",
]
DECLARATIONS: list[dict[str, object]] = [
    {},
    {"ContentType": "image/jpeg", "ContentLength": 5, "IfNoneMatch": "*"},
    {"ContentLength": 2**31},
]
ODD_TOKEN = "to/ken+with==&odd characters"
# Region, session token, endpoint and bucket; no certificate covers a bucket's dots.
PLACES = [
    ("ap-northeast-2", None, None, "photos"),
    ("ap-northeast-2", ODD_TOKEN, None, "photos.with.dots"),
    ("us-east-1", "token", None, "photos"),
    ("cn-north-1", ODD_TOKEN, None, "photos"),
    ("us-gov-west-1", None, "http://127.0.0.1:8333", "photos"),
    ("eu-central-1", "token", "https://s3.example:9000/base", "photos.with.dots"),
]


def config_for(endpoint_url: str | None) -> AioConfig:
    style = "path" if endpoint_url else "virtual"
    return AioConfig(signature_version="s3v4", s3={"addressing_style": style}, proxies={})


@asynccontextmanager
async def opened(
    region: str = "ap-northeast-2",
    token: str | None = None,
    endpoint_url: str | None = None,
    bucket: str = "photos",
) -> AsyncIterator[tuple[SignedRequests, S3Client]]:
    session = aioboto3.Session(
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key="wJalr/secret+key",
        aws_session_token=token,
        region_name=region,
    )
    async with (
        session.client("s3", endpoint_url=endpoint_url, config=config_for(endpoint_url)) as client,
        SignedRequests.open(
            session,
            bucket,
            region=region,
            endpoint_url=endpoint_url,
            is_proxied=False,
            connect_timeout_seconds=2,
            read_timeout_seconds=5,
        ) as requests,
    ):
        yield requests, client


async def both_in_one_second(
    requests: SignedRequests, client: S3Client, bucket: str, key: str, declared: dict[str, object]
) -> tuple[str, str]:
    """The same address from each; once more should the second have changed in between."""
    headers = {HEADERS[name]: str(value) for name, value in declared.items()}
    while True:
        ours = await requests.presigned("PUT", key, 300, headers)
        theirs = await client.generate_presigned_url(
            "put_object", Params={"Bucket": bucket, "Key": key, **declared}, ExpiresIn=300
        )
        if date_of(ours) == date_of(theirs):
            return ours, theirs


HEADERS = {"ContentType": "Content-Type", "ContentLength": "Content-Length", "IfNoneMatch": "If-None-Match"}


def date_of(url: str) -> str:
    return parse_qs(urlsplit(url).query)["X-Amz-Date"][0]


@pytest.mark.parametrize(("region", "token", "endpoint_url", "bucket"), PLACES)
async def test_address_is_the_clients_own_to_the_letter(
    region: str, token: str | None, endpoint_url: str | None, bucket: str
) -> None:
    """In each partition, with and without a session token, for keys of any characters, whatever is
    declared."""
    async with opened(region, token, endpoint_url, bucket) as (requests, client):
        for key in KEYS:
            for declared in DECLARATIONS:
                ours, theirs = await both_in_one_second(requests, client, bucket, key, declared)
                assert ours == theirs


@pytest.mark.parametrize(
    ("region", "environment"),
    [
        ("us-east-1", {"AWS_S3_US_EAST_1_REGIONAL_ENDPOINT": "regional"}),
        ("eu-central-1", {"AWS_USE_DUALSTACK_ENDPOINT": "true"}),
        ("us-gov-west-1", {"AWS_USE_FIPS_ENDPOINT": "true"}),
        ("eu-central-1", {"AWS_ENDPOINT_URL_S3": "https://s3.example", "AWS_USE_FIPS_ENDPOINT": "true"}),
        ("eu-central-1", {"AWS_ENDPOINT_URL": "http://127.0.0.1:8333"}),
        (
            "eu-central-1",
            {"AWS_ENDPOINT_URL": "http://a.example", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
        ),
    ],
)
async def test_what_the_environment_says_moves_it_as_it_moves_the_client(
    monkeypatch: pytest.MonkeyPatch, region: str, environment: dict[str, str]
) -> None:
    """AWS's own variables count, each and together."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    async with opened(region) as (requests, client):
        ours, theirs = await both_in_one_second(requests, client, "photos", "x.jpg", {})
    assert ours == theirs


def signature(request: web.BaseRequest, body: bytes, token: str | None) -> str:
    """Of a request as it arrived, by its own date, over the headers that it says are signed."""
    authorization = request.headers["Authorization"]
    signed = re.search(r"SignedHeaders=([^,]+)", authorization)
    region = re.search(r"Credential=[^/]+/\d+/([^/]+)/s3", authorization)
    assert signed is not None
    assert region is not None
    arrived = AWSRequest(
        method=request.method,
        url=f"http://{request.host}{request.raw_path}",
        headers={name: request.headers[name] for name in signed[1].split(";") if name != "host"},
        data=body,
    )
    arrived.context["timestamp"] = request.headers["X-Amz-Date"]
    signer = S3SigV4Auth(ReadOnlyCredentials("AKIDEXAMPLE", "wJalr/secret+key", token), "s3", region[1])
    return str(signer.signature(signer.string_to_sign(arrived, signer.canonical_request(arrived)), arrived))


@pytest.mark.parametrize(("region", "token"), [("ap-northeast-2", None), ("us-east-1", ODD_TOKEN)])
async def test_request_arrives_as_it_was_signed(region: str, token: str | None) -> None:
    """Method, path, headers and body, whatever the key: nothing is changed on the way, and nothing that
    matters is left unsigned."""
    arrived = list[tuple[str, str, bool, str]]()

    async def look(request: web.BaseRequest) -> web.Response:
        body = await request.read()
        is_true = request.headers["Authorization"].endswith("=" + signature(request, body, token))
        arrived.append((request.method, request.raw_path, is_true, request.headers["Authorization"]))
        return web.Response(headers={"ETag": '"e"'})

    sent = [
        ("GET", {"Range": "bytes=0-63"}, b""),
        ("GET", {"If-Match": '"etag"'}, b""),
        ("PUT", {"Content-Type": "image/jpeg", "Cache-Control": "public, max-age=60"}, b"\xff\xd8" * 9000),
        ("PUT", {"Content-Type": "image/jpeg"}, b""),
        ("DELETE", {}, b""),
    ]
    async with served(look) as url, opened(region, token, url) as (requests, _):
        for key in KEYS:
            for method, headers, body in sent:
                async with requests.answered(method, key, headers, body):
                    pass
                assert arrived[-1][0] == method
                assert arrived[-1][2], (key, method)
                for name in (*headers, "X-Amz-Content-SHA256", *(["X-Amz-Security-Token"] if token else [])):
                    assert name.lower() in arrived[-1][3]
            assert await requests.listed(key) == []
            assert arrived[-1][2], key


async def test_renewed_credentials_sign_the_next_request() -> None:
    """The session's are asked for each time: those of a role change within the hour."""
    async with opened() as (requests, _):
        before = await requests.presigned("GET", "x.jpg", 60)
        requests._session._session.set_credentials("AKIDRENEWED", "another", "token")
        async with requests._session.client("s3", config=config_for(None)) as renewed:
            after, theirs = await both_in_one_second(requests, renewed, "photos", "x.jpg", {})
    assert "AKIDEXAMPLE" in before
    assert "AKIDRENEWED" in after
    assert "X-Amz-Security-Token=token" in after
    assert after == theirs


@pytest.mark.parametrize(
    ("status", "text", "code", "asked"),
    [
        (404, "<Error><Code>NoSuchKey</Code></Error>", "NoSuchKey", 1),
        (403, "<Error><Code>AccessDenied</Code></Error>", "AccessDenied", 1),
        (400, "<Error><Code>RequestTimeout</Code></Error>", "RequestTimeout", 2),
        (503, "", "503", 2),
        (500, "no XML", "500", 2),
        (301, "<Error><Code>PermanentRedirect</Code></Error>", "PermanentRedirect", 1),
    ],
)
async def test_refusal_is_tried_again_only_where_that_may_help(
    status: int, text: str, code: str, asked: int
) -> None:
    """As the client's own retries have it; the code is S3's, or the status where it gives none."""
    answers = 0

    async def refuse(request: web.BaseRequest) -> web.Response:
        nonlocal answers
        answers += 1
        return web.Response(status=status, text=text)

    assert await refused(refuse) == (status, code)
    assert answers == asked


async def refused(handler: Handler) -> tuple[int, str]:
    async with served(handler) as url, opened(endpoint_url=url) as (requests, _):
        with pytest.raises(Refused) as refusal:
            async with requests.answered("GET", "x.jpg", {}):
                pass
    return refusal.value.status, refusal.value.code


async def test_connection_that_was_closed_meanwhile_costs_nothing() -> None:
    """S3 closes what is idle: the request that meets that is made once more."""
    asked = 0

    async def answer_once(request: web.BaseRequest) -> web.Response:
        nonlocal asked
        asked += 1
        if asked == 2:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(text="body")

    async with served(answer_once) as url, opened(endpoint_url=url) as (requests, _):
        for _ in range(2):
            async with requests.answered("GET", "x.jpg", {}) as answer:
                assert await answer.read() == b"body"
    assert asked == 3


async def test_proxy_of_the_environment_is_asked_for_what_lies_outside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole address is its to resolve, also when a redirect comes back: that is S3's refusal."""
    asked = list[str]()

    async def proxy(request: web.BaseRequest) -> web.Response:
        asked.append(f"{request.host} {request.path}")
        return web.Response(status=307, headers={"Location": "http://elsewhere.example/"})

    session = aioboto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="eu-west-1")
    async with served(proxy) as url:
        monkeypatch.setenv("http_proxy", url)
        async with SignedRequests.open(
            session,
            "photos",
            region="eu-west-1",
            endpoint_url="http://s3.example",
            is_proxied=True,
            connect_timeout_seconds=2,
            read_timeout_seconds=5,
        ) as requests:
            with pytest.raises(Refused, match="307"):
                async with requests.answered("GET", "x.jpg", {}):
                    pass
    assert asked == ["s3.example /photos/x.jpg"]


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_certificates_of_the_environment_are_believed_instead(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    """As by every client of AWS; else those that botocore brings along or finds."""
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    known = Path(str(get_cert_path(True))).read_text(encoding="utf-8")
    first, end, _ = known.partition("-----END CERTIFICATE-----")
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(first[first.index("-----BEGIN") :] + end, encoding="utf-8")
    assert len(_believed(get_session()).get_ca_certs()) > 100
    monkeypatch.setenv(variable, str(bundle))
    context = _believed(get_session())
    assert len(context.get_ca_certs()) == 1
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
