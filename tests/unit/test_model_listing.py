"""The day a model is shut down, as its provider's list of models tells it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import date
from typing import Any

import pytest
from aiohttp import web

from growbin.adapters.model.checkup import LISTING_SECONDS, read_shutdown_date
from tests.loopback import served

DAY = date(2027, 1, 14)


@asynccontextmanager
async def listing(pages: Mapping[str, Any]) -> AsyncIterator[tuple[str, list[str]]]:
    """A server with these pages by their raw paths; yields its address, and what it is asked."""
    asked: list[str] = []

    async def serve(request: web.BaseRequest) -> web.Response:
        assert request.headers["Authorization"] == "Bearer sk-x"
        asked.append(request.raw_path)
        page = pages.get(request.raw_path)
        if page is None:
            return web.json_response({"error": {"code": "not_found"}}, status=404)
        return web.Response(text=page if isinstance(page, str) else json.dumps(page))

    async with served(serve) as url:
        yield f"{url}/v1", asked


async def read(pages: Mapping[str, Any], model: str = "m") -> date | None:
    async with listing(pages) as (url, _):
        return await read_shutdown_date(api_key="sk-x", base_url=url, model=model)


@pytest.mark.parametrize(
    ("told", "day"),
    [
        ("2027-01-14", DAY),
        ("2027-01-14T00:00:00Z", DAY),
        ("2027-01-14T23:30:00-05:00", date(2027, 1, 15)),
        ("2027-01-14T12:00:00.25+00:00", DAY),
        ("2027-01-14T12:00:00", DAY),
        (1799884800, DAY),
        (1799884800.5, DAY),
        ("1799884800", DAY),
        (None, None),
        ("", None),
        ("soon", None),
        (True, None),
        (10**30, None),
        (float("nan"), None),
        ([2027, 1, 14], None),
        ({}, None),
    ],
)
async def test_date_is_read_in_each_of_its_forms(told: object, day: date | None) -> None:
    """Text, RFC 3339 or seconds; what is none of them is no date, and no trouble."""
    assert await read({"/v1/models/m": {"id": "m", "shutdown_date": told}}) == day


async def test_name_with_a_slash_is_one_part_of_the_path() -> None:
    """As compatible servers have it: `openai/gpt-4o`."""
    async with listing({"/v1/models/org%2Fm%3A1": {"shutdown_date": "2027-01-14"}}) as (url, asked):
        assert await read_shutdown_date(api_key="sk-x", base_url=url, model="org/m:1") == DAY
    assert asked == ["/v1/models/org%2Fm%3A1"]


@pytest.mark.parametrize("single", [None, "<html>not here</html>", [], "{"])
async def test_list_is_asked_where_the_single_model_is_not_served(single: Any) -> None:
    """The entry with exactly this name counts, whatever stands beside it."""
    others = [
        "m",
        None,
        {"id": "m-2", "shutdown_date": "2026-01-01"},
        {"id": "m", "shutdown_date": "2027-01-14"},
    ]
    assert await read({"/v1/models/m": single, "/v1/models": {"data": others}}) == DAY


@pytest.mark.parametrize("body", [None, [], {}, {"data": None}, {"data": {}}, {"data": []}, "<html>"])
async def test_list_without_the_model_tells_nothing(body: Any) -> None:
    """Absent, or of another shape: no date, no trouble."""
    assert await read({"/v1/models": body}) is None


async def test_server_that_is_away_or_silent_tells_nothing_in_time() -> None:
    """The listing is never the reason why a doctor does not come to an end."""
    assert await read_shutdown_date(api_key="", base_url="http://127.0.0.1:1/v1", model="m") is None
    connected = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read(-1)
        writer.close()

    async with await asyncio.start_server(hold, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        async with asyncio.timeout(LISTING_SECONDS + 30):
            assert await read_shutdown_date(api_key="", base_url=f"http://{host}:{port}", model="m") is None
    assert connected.is_set()
