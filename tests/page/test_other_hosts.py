"""The page where others put it: behind a proxy that renames the host, with a dotted bucket; and a page of
another origin that calls the service, with the headers that its tracing adds."""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aioboto3
import aiohttp
import pytest
from aiobotocore.config import AioConfig
from aiohttp import web
from botocore.exceptions import ClientError
from playwright.async_api import expect

from tests.e2e.photos import COFFEE_CUP
from tests.e2e.system import running_system
from tests.loopback import served
from tests.page.conftest import COFFEE, HeldModel, Visiting

HOP_BY_HOP = ("Connection", "Content-Length", "Host", "Keep-Alive", "Transfer-Encoding", "Upgrade")
BEHIND = {"TRUSTED_PROXIES": "127.0.0.1/32"}
# What a page of another origin does, by a token, since its browser sends it no cookie of ours.
CALLS = """async ([service, photo]) => {
  const traced = {
    traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    tracestate: "vendor=1", baggage: "release=7", "sentry-trace": "1-2-1", "x-datadog-trace-id": "42",
  };
  const told = [];
  let token = "";
  const call = async (method, path, body) => {
    const headers = {...traced, ...(token && {Authorization: `Bearer ${token}`})};
    if (body) headers["Content-Type"] = "application/json";
    const answer = await fetch(service + path, {method, headers, body: body && JSON.stringify(body)});
    told.push(`${method} ${answer.status}`);
    return answer;
  };
  token = (await (await call("POST", "/api/v1/sessions")).json()).token;
  const bytes = Uint8Array.from(atob(photo), (letter) => letter.charCodeAt(0));
  const upload = async () => {
    const answer = await call("POST", "/api/v1/waste/analyze", {content_type: "image/jpeg"});
    const ticket = await answer.json();
    const put = await fetch(ticket.upload_url, {method: "PUT", headers: ticket.upload_headers, body: bytes});
    told.push(`PUT ${put.status}`);
    return [ticket, answer.headers.get("RateLimit")];
  };
  const [ticket, left] = await upload();
  await call("POST", ticket.links.upload_complete);
  const stream = await (await call("GET", ticket.links.events)).text();
  const [other] = await upload();
  await call("POST", `${other.links.self}/cancel`);
  await call("DELETE", ticket.links.self);
  const gone = await (await call("GET", ticket.links.self)).json();
  return {told, left, ends: stream.match(/^event: (?!progress).*/gm), gone: gone.code};
}"""


@asynccontextmanager
async def renaming(upstream: str) -> AsyncIterator[str]:
    """A proxy that calls the service by a name of its own, and tells by which one it was called."""
    async with aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()) as http:

        async def pass_on(request: web.BaseRequest) -> web.StreamResponse:
            headers = {name: value for name, value in request.headers.items() if name not in HOP_BY_HOP}
            headers |= {"Host": "growbin.internal", "X-Forwarded-Host": request.host}
            headers |= {"X-Forwarded-For": "198.18.0.7", "X-Forwarded-Proto": "http"}
            async with http.request(
                request.method,
                upstream + request.raw_path,
                headers=headers,
                data=await request.read(),
                allow_redirects=False,
            ) as answer:
                response = web.StreamResponse(status=answer.status)
                for name, value in answer.headers.items():
                    if name not in HOP_BY_HOP:
                        response.headers.add(name, value)
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
                return response

        async with served(pass_on) as url:
            yield url


@asynccontextmanager
async def dotted_bucket(parts: dict[str, str]) -> AsyncIterator[dict[str, str]]:
    """The settings of a bucket with dots in its name, and of what shows its public photos."""
    bucket = f"photos.{uuid.uuid4().hex[:8]}.example"
    session = aioboto3.Session(
        aws_access_key_id=parts["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=parts["AWS_SECRET_ACCESS_KEY"],
        region_name=parts["AWS_REGION"],
    )
    config = AioConfig(s3={"addressing_style": "path"}, proxies={})
    async with session.client("s3", endpoint_url=parts["S3_ENDPOINT_URL"], config=config) as s3:
        await s3.create_bucket(Bucket=bucket)
        rule = {"AllowedOrigins": ["*"], "AllowedMethods": ["PUT"], "AllowedHeaders": ["*"]}
        await s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule]})  # type: ignore[list-item]  # its methods are literals

        async def show(request: web.BaseRequest) -> web.StreamResponse:
            try:
                found = await s3.get_object(Bucket=bucket, Key=request.path.removeprefix("/"))
            except ClientError:
                return web.Response(status=404)
            return web.Response(body=await found["Body"].read(), content_type="image/jpeg")

        async with served(show) as url:
            yield {"S3_BUCKET_NAME": bucket, "CDN_ENABLED": "false", "CDN_BASE_URL": url}


async def test_page_works_behind_a_proxy_that_renames_the_host(
    parts: dict[str, str], model: HeldModel, visiting: Visiting
) -> None:
    """Upload, stream, cancel and delete, with dots in the bucket's name; no page breaks its own policy."""
    async with (
        model.serving() as model_url,
        dotted_bucket(parts) as bucket,
        running_system({**parts, "OPENAI_BASE_URL": model_url}, **bucket, **BEHIND) as system,
        renaming(system.base_url) as address,
        visiting(address) as visit,
    ):
        async with model.held():
            await visit.choose(COFFEE)
            card = await visit.reaches("analysing")
            await card.get_by_role("button", name="취소").click()
            await visit.reaches("cancelled")
        await visit.card.get_by_role("button", name="다시 시도").click()
        card = await visit.reaches("done")
        await expect(card.locator("img")).to_have_attribute("src", re.compile(f"^{bucket['CDN_BASE_URL']}/"))
        await card.get_by_role("button", name="지우기").click()
        await expect(visit.page.locator(".job[data-stage=done]")).to_have_count(0)
        for path in ("/docs", "/openapi.json", "/asyncapi.json", "/nowhere"):
            answer = await visit.page.goto(path)
            assert answer is not None
            assert "default-src 'none'" in answer.headers["content-security-policy"]
        visit.errors[:] = [error for error in visit.errors if "404" not in error]  # /nowhere


async def test_page_of_an_allowed_origin_may_do_everything_with_its_tracing(
    parts: dict[str, str], visiting: Visiting
) -> None:
    """Preflights let its headers and every method through; it may read what is left of its rates. A page of
    an origin that is not allowed cannot even begin."""

    async def blank(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(
            text="<!doctype html><title>app</title><link rel=icon href=data:,>", content_type="text/html"
        )

    photo = base64.b64encode(COFFEE_CUP.read_bytes()).decode()
    async with (
        served(blank) as app,
        served(blank) as stranger,
        running_system(parts, ALLOWED_ORIGINS=app) as system,
    ):
        async with visiting(app) as visit:
            told: dict[str, Any] = await visit.page.evaluate(CALLS, [system.base_url, photo])
            visit.errors[:] = [error for error in visit.errors if "404" not in error]  # what was deleted
        assert told["told"] == [
            *("POST 201", "POST 201", "PUT 200", "POST 202", "GET 200"),
            *("POST 201", "PUT 200", "POST 202", "DELETE 204", "GET 404"),
        ]
        assert told["ends"] == ["event: done"]
        assert told["gone"] == "not_found"
        assert '"session"' in told["left"]
        async with visiting(stranger) as visit:
            with pytest.raises(Exception, match="Failed to fetch"):
                await visit.page.evaluate(CALLS, [system.base_url, photo])
            visit.errors.clear()
