"""The probes: alive, ready, measured."""

from __future__ import annotations

import asyncio

from aiohttp.test_utils import TestClient, TestServer

from growbin import probes
from growbin.probes import build_probes


async def yes() -> bool:
    return True


async def no() -> bool:
    return False


async def broken() -> bool:
    raise RuntimeError


async def test_ready_while_every_required_part_answers() -> None:
    """What is only shown does not decide."""
    app = build_probes({"redis": yes}, shown={"rabbitmq": no})
    async with TestClient(TestServer(app)) as client:
        response = await client.get("/readyz")
        assert response.status == 200
        assert await response.json() == {"ready": True, "parts": {"redis": True, "rabbitmq": False}}


async def test_not_ready_when_a_required_part_fails_or_breaks() -> None:
    """A check that raises counts as false; being alive is another question."""
    for check in (no, broken):
        async with TestClient(TestServer(build_probes({"redis": check}))) as client:
            assert (await client.get("/readyz")).status == 503
            assert (await client.get("/healthz")).status == 200


async def test_frozen_part_cannot_hold_the_answer_back() -> None:
    """A check that does not come back is false after its time."""

    async def frozen() -> bool:
        await asyncio.sleep(60)
        return True

    async with TestClient(TestServer(build_probes({"redis": frozen}))) as client:
        async with asyncio.timeout(probes.CHECK_TIMEOUT_SECONDS + 2):
            assert (await client.get("/readyz")).status == 503


async def test_metrics_are_in_the_text_format() -> None:
    """Every declared metric is there to be scraped."""
    async with TestClient(TestServer(build_probes({}))) as client:
        response = await client.get("/metrics")
        assert response.headers["Content-Type"].startswith("text/plain")
        assert "growbin_open_streams" in await response.text()
