"""What surrounds every call: problems, headers, origins, the API's description, the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from growbin.gateway import openapi
from growbin.gateway.answers import JobView
from growbin.gateway.app import CALLS
from growbin.gateway.problems import CODE_TOLD, STATUS
from tests.unit.conftest import Start
from tests.unit.gateway_node import Client, Node, problem

ANALYZE = "/api/v1/waste/analyze"
MESSAGES = Path(__file__).parents[2] / "src/growbin/data/messages.json"
OPENAPI_FILE = Path(__file__).parents[2] / "docs" / "openapi.json"


# --- problems ----------------------------------------------------------------------------------


async def test_unknown_address_and_method_are_problems_too(client: Client) -> None:
    """404 and 405 have the shape of every error; 405 names the methods that are taken."""
    await problem(await client.get("/nowhere"), 404, "not_found")
    wrong = await client.patch(ANALYZE)
    await problem(wrong, 405, "method_not_allowed")
    assert wrong.headers["Allow"] == "POST"


async def test_bug_is_a_500_that_tells_nothing(node: Node, client: Client) -> None:
    """The traceback goes to the log; the client gets a request id to name."""
    node.records.uploads = None  # type: ignore[assignment]  # breaks the fake on purpose
    await node.client()
    response = await client.post(ANALYZE)
    body = await problem(response, 500, "internal")
    assert "NoneType" not in json.dumps(body)
    assert response.headers["X-Request-ID"] == body["request_id"]


async def test_request_id_of_the_caller_is_kept_if_it_is_one(client: Client) -> None:
    """A sensible id goes through; anything else is replaced."""
    kept = await client.get("/nowhere", headers={"X-Request-ID": "edge-0123456789"})
    assert kept.headers["X-Request-ID"] == "edge-0123456789"
    for odd in ("short", "x" * 65, 'quo"te-12345', "\u00fc\u00fc\u00fc\u00fc\u00fc\u00fc\u00fc\u00fc"):
        replaced = await client.get("/nowhere", headers={"X-Request-ID": odd})
        assert re.fullmatch("[0-9a-f]{32}", replaced.headers["X-Request-ID"])


# --- headers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/app.js", "/docs", "/openapi.json", "/nowhere", "/api/v1/waste/jobs"])
async def test_every_answer_is_guarded_by_headers(client: Client, path: str) -> None:
    """No sniffing, no referrer, a strict content policy, no word about the server."""
    response = await client.get(path)
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "camera=()" in response.headers["Permissions-Policy"]
    assert "Server" not in response.headers


async def test_page_may_upload_and_show_photos_and_nothing_more(client: Client) -> None:
    """Its policy names the bucket and the CDN, by origin."""
    response = await client.get("/")
    policy = response.headers["Content-Security-Policy"]
    assert response.content_type == "text/html"
    assert "connect-src 'self' https://bucket.test;" in policy
    assert "img-src 'self' blob: data: https://cdn.test;" in policy
    assert "script-src 'self';" in policy


# --- origins -----------------------------------------------------------------------------------


async def test_page_of_another_origin_may_not_write(node: Node, client: Client) -> None:
    """A hostile page cannot act with the user's cookie, whatever the browser lets through."""
    own = str(client.make_url("/")).rstrip("/")
    for origin in ("https://evil.test", "null", "https://app.test.evil.test"):
        response = await client.post(ANALYZE, headers={"Origin": origin})
        await problem(response, 403, "forbidden_origin")
        assert "Access-Control-Allow-Origin" not in response.headers
    assert not node.records.uploads
    for origin in (own, "https://app.test"):
        assert (await client.post(ANALYZE, headers={"Origin": origin})).status == 201


async def test_allowed_origin_may_read_with_credentials(client: Client) -> None:
    """The exact origin is named, never `*`, also on problems; others get no permission."""
    for path in ("/api/v1/waste/jobs", "/nowhere"):
        allowed = await client.get(path, headers={"Origin": "https://app.test"})
        assert allowed.headers["Access-Control-Allow-Origin"] == "https://app.test"
        assert allowed.headers["Access-Control-Allow-Credentials"] == "true"
        assert allowed.headers["Vary"] == "Origin"
        other = await client.get(path, headers={"Origin": "https://evil.test"})
        assert "Access-Control-Allow-Origin" not in other.headers


async def test_preflight_allows_every_method_and_harmless_header(client: Client) -> None:
    """Deleting as well, and what a page's tracing adds; to other origins nothing is offered."""
    traced = "authorization, baggage, content-type, sentry-trace, traceparent, x-request-id"
    asked = f"{traced}, wor\u00e4ds, <b>, {'x' * 65}"
    ask = {
        "Origin": "https://app.test",
        "Access-Control-Request-Method": "DELETE",
        "Access-Control-Request-Headers": asked,
    }
    response = await client.options(ANALYZE, headers=ask)
    assert response.status == 204
    methods = set(response.headers["Access-Control-Allow-Methods"].split(", "))
    assert methods == {call.method for call in CALLS}
    assert response.headers["Access-Control-Allow-Headers"] == traced
    refused = await client.options(ANALYZE, headers={**ask, "Origin": "https://evil.test"})
    assert "Access-Control-Allow-Methods" not in refused.headers
    assert "Access-Control-Allow-Headers" not in refused.headers


async def test_page_behind_a_proxy_that_changes_the_host_may_write(client: Client) -> None:
    """The name that the browser used counts, where a trusted proxy tells it; each proxy adds to the right."""
    for origin, host, forwarded, status in (
        ("https://bins.test", "10.0.0.7:8080", "bins.test", 201),
        ("https://bins.test", "10.0.0.7:8080", "BINS.test:443, inner.test", 201),
        ("https://bins.test:8443", "10.0.0.7:8080", "bins.test:8443", 201),
        ("https://bins.test", "bins.test", "", 201),
        ("https://bins.test", "10.0.0.7:8080", "other.test", 403),
        ("https://inner.test", "10.0.0.7:8080", "bins.test, inner.test", 403),
        ("https://bins.test:8443", "10.0.0.7:8080", "bins.test", 403),
    ):
        headers = {"Origin": origin, "Host": host} | ({"X-Forwarded-Host": forwarded} if forwarded else {})
        assert (await client.post(ANALYZE, headers=headers)).status == status, headers


async def test_forwarded_host_of_a_stranger_counts_for_nothing(start: Start) -> None:
    """Only who stands in the list of proxies may say by which name we were called."""
    client = await (await start(trusted_proxies=())).client()
    headers = {"Origin": "https://evil.test", "X-Forwarded-Host": "evil.test"}
    await problem(await client.post(ANALYZE, headers=headers), 403, "forbidden_origin")


async def test_browser_that_names_no_origin_is_believed_about_the_site(client: Client) -> None:
    """No page can forge Sec-Fetch-Site; programs do not send it."""
    for site, status in (
        ("cross-site", 403),
        ("same-site", 403),
        ("same-origin", 201),
        ("none", 201),
        (None, 201),
    ):
        headers = {"Sec-Fetch-Site": site} if site else {}
        assert (await client.post(ANALYZE, headers=headers)).status == status
        assert (await client.get("/api/v1/waste/jobs", headers=headers)).status == 200


@pytest.mark.parametrize(("takes_questions", "told"), [(True, "yes"), (False, "no")])
async def test_page_knows_whether_the_model_answers_questions(
    start: Start, takes_questions: bool, told: str
) -> None:
    """So that it offers no field that nobody would read."""
    node = await start(takes_questions=takes_questions)
    client = await node.client()
    for path in ("/", "/index.html"):
        text = await (await client.get(path)).text()
        assert f' data-questions="{told}"' in text.partition("<html")[2].partition(">")[0]


# --- the API described -------------------------------------------------------------------------


async def test_description_is_the_one_in_docs(client: Client) -> None:
    """docs/openapi.json is what the gateway serves: after a change, save the new /openapi.json there."""
    served = await (await client.get("/openapi.json")).json()
    assert served == json.loads(OPENAPI_FILE.read_text())


async def test_each_call_is_described_and_each_reference_leads_somewhere(client: Client) -> None:
    """Routes, models and references agree."""
    document = await (await client.get("/openapi.json")).json()
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert described == {(call.method, call.path) for call in CALLS}
    text = json.dumps(document)
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        assert name in document["components"]["schemas"]
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)


def test_every_error_code_is_described_with_an_example() -> None:
    """By its status; and no code that has words is missing."""
    responses = openapi.describe(CALLS)["components"]["responses"]
    told: set[str] = set()
    for response in responses.values():
        content = response["content"]["application/problem+json"]
        codes = content["schema"]["allOf"][1]["properties"]["code"]["enum"]
        assert list(content["examples"]) == codes
        told |= set(codes)
    assert told == set(json.loads(MESSAGES.read_text(encoding="utf-8"))["problems"]) - {"method_not_allowed"}


async def test_described_headers_are_sent(node: Node, client: Client) -> None:
    """Each answer has those that its call's description names."""
    document = await (await client.get("/openapi.json")).json()
    job = await node.submitted(client)
    for method, path in (
        ("POST", ANALYZE),
        ("POST", "/upload-complete/{job_id}"),
        ("GET", "/api/v1/waste/jobs/{job_id}"),
        ("GET", "/api/v1/waste/jobs"),
        ("GET", "/api/v1/waste/advice?category=food"),
        ("POST", "/api/v1/waste/jobs/{job_id}/cancel"),
        ("DELETE", "/api/v1/waste/jobs/{job_id}"),
        ("POST", "/api/v1/sessions"),
        ("DELETE", "/api/v1/sessions/current"),
    ):
        answer = await client.request(
            method, path.format(job_id=job.job_id), headers={"Prefer": "wait=1"} if method == "GET" else {}
        )
        described = document["paths"][path.partition("?")[0]][method.lower()]["responses"][str(answer.status)]
        assert all(name in answer.headers for name in described["headers"]), (method, path)


async def test_job_looks_as_described(node: Node, client: Client) -> None:
    """The answer is a JobView and has nothing beside it."""
    job = await node.submitted(client)
    view = await (await client.get(f"/api/v1/waste/jobs/{job.job_id}")).json()
    assert JobView.model_validate(view).job_id == job.job_id
    assert set(view) <= set(JobView.model_fields)


async def test_docs_page_names_the_address_that_was_asked(client: Client) -> None:
    """So that its examples work as they are, also where no script runs; whatever a client calls us, it is
    text."""
    ours = f"http://{client.host}:{client.port}"
    assert f"api={ours}\n" in await (await client.get("/docs")).text()
    for host, shown in (("bins.test", "http://bins.test"), ("<b>&", "http://&lt;b&gt;&amp;")):
        text = await (await client.get("/docs", headers={"Host": host})).text()
        assert f"api={shown}\n" in text
        assert "127.0.0.1:8080" not in text
    forwarded = {"X-Forwarded-Host": "bins.test", "X-Forwarded-Proto": "https"}
    assert "api=https://bins.test\n" in await (await client.get("/docs", headers=forwarded)).text()


async def test_docs_page_needs_nothing_from_elsewhere(client: Client) -> None:
    """Its style and script are the gateway's own; every call and every code has its row."""
    response = await client.get("/docs")
    text = await response.text()
    assert all(call.path in text for call in CALLS)
    assert all(f"<code>{code}</code>" in text for code in STATUS if code not in ("not_failed", *CODE_TOLD))
    assert not re.findall(r'(?:src|href)="(?!/|#)', text)
    assert "script-src 'self'" in response.headers["Content-Security-Policy"]
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    assert "{{" not in text
