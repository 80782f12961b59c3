"""The probes: alive, ready, measured."""

from __future__ import annotations

import asyncio

from aiohttp.test_utils import TestClient, TestServer

from growbin import probes
from growbin.errors import Unavailable
from growbin.probes import build_probes, seldom


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
        parts = {"redis": True, "rabbitmq": False}
        assert await response.json() == {"ready": True, "parts": parts, "reasons": {}}


async def test_not_ready_when_a_required_part_fails_or_breaks() -> None:
    """A check that raises counts as false; being alive is another question."""
    for check in (no, broken):
        async with TestClient(TestServer(build_probes({"redis": check}))) as client:
            assert (await client.get("/readyz")).status == 503
            assert (await client.get("/healthz")).status == 200


async def test_reason_of_a_check_that_raised_is_shown() -> None:
    """Whoever looks reads what the part said, such as that a password was refused."""

    async def refused() -> bool:
        raise Unavailable("redis", "WRONGPASS")

    async with TestClient(TestServer(build_probes({"redis": refused}))) as client:
        answer = await (await client.get("/readyz")).json()
        assert answer["reasons"] == {"redis": "redis: WRONGPASS"}
        assert answer["parts"] == {"redis": False}


async def test_process_that_only_a_restart_heals_is_not_alive() -> None:
    """Not to be ready may pass; not to be alive asks for a restart."""
    async with TestClient(TestServer(build_probes({"redis": yes}, alive=no))) as client:
        assert (await client.get("/healthz")).status == 503
        assert (await client.get("/readyz")).status == 200


async def test_frozen_part_cannot_hold_the_answer_back() -> None:
    """A check that does not come back is false after its time."""

    async def frozen() -> bool:
        await asyncio.sleep(60)
        return True

    async with TestClient(TestServer(build_probes({"redis": frozen}))) as client:
        async with asyncio.timeout(probes.CHECK_TIMEOUT_SECONDS + 30):
            assert (await client.get("/readyz")).status == 503


async def test_metrics_are_in_the_text_format() -> None:
    """Every declared metric is there to be scraped."""
    async with TestClient(TestServer(build_probes({}))) as client:
        response = await client.get("/metrics")
        assert response.headers["Content-Type"].startswith("text/plain")
        assert "growbin_open_streams" in await response.text()


async def test_check_that_costs_something_is_asked_seldom_and_has_failed_while_it_hangs() -> None:
    """In between its last answer stands."""
    asked: list[bool] = []

    async def costly() -> bool:
        asked.append(True)
        if len(asked) == 2:
            await asyncio.sleep(60)
        return True

    check = seldom(costly, 0.5)
    assert [await check(), await check()] == [True, True]
    assert len(asked) == 1
    await asyncio.sleep(0.6)
    hanging = asyncio.ensure_future(check())
    await asyncio.sleep(0)
    assert not await check()
    hanging.cancel()
    await asyncio.sleep(0.6)
    assert await check()
