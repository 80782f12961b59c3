"""The table that gives each failure code its HTTP status."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from growbin.errors import Rejected
from growbin.gateway.problems import CODE_TOLD, STATUS, answer_problems
from growbin.messages import problem_title

SOURCE = Path(__file__).parents[2] / "src"


def rejections() -> Iterator[tuple[str, ast.expr]]:
    """Each `Rejected(…)` in src: its place and its code."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Rejected":
                yield f"{path.relative_to(SOURCE)}:{node.lineno}", node.args[0]


def test_each_code_that_is_raised_stands_in_the_table_and_no_other() -> None:
    """A code without a status would be a 500 that nobody meant; a status without a code is dead."""
    codes = {place: code.value for place, code in rejections() if isinstance(code, ast.Constant)}
    assert [place for place, _ in rejections() if place not in codes] == []  # for grep, and for this test
    assert set(codes.values()) == set(STATUS)


def test_each_code_that_clients_read_has_a_title_of_its_own() -> None:
    """Else a plain refusal would be headed as if we were broken."""
    told = {CODE_TOLD.get(code, code) for code in STATUS} - {"not_failed"}  # only an operator's
    assert [code for code in sorted(told) if problem_title(code) == problem_title("internal")] == []


@pytest.mark.parametrize(
    ("code", "status", "told"),
    [
        ("not_found", 404, "not_found"),
        ("body_too_slow", 408, "bad_request"),
        ("too_many_streams", 429, "too_many_streams"),
        ("every_stream_taken", 503, "too_many_streams"),
    ],
)
async def test_refusal_has_its_status_and_the_code_that_clients_know(
    code: str, status: int, told: str
) -> None:
    """A body's `code` is stable: where ours is finer, the client reads the wider one."""

    async def refuse(_request: web.Request) -> web.Response:
        raise Rejected(code, "Do this.", retry_after_seconds=5)

    app = web.Application(middlewares=[answer_problems])
    app.router.add_get("/", refuse)
    async with TestClient(TestServer(app)) as client:
        answer = await client.get("/")
        body = await answer.json(content_type="application/problem+json")
    assert (answer.status, body["status"], body["code"]) == (status, status, told)
    assert body["type"] == f"urn:growbin:problem:{told}"
    assert answer.headers["Retry-After"] == "5"
