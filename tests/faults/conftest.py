"""Servers that may be hurt: one set for all fault tests, apart from those of the other tests."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.faults.cluster import Servers

CLEANED_UP_SECONDS = 60


@pytest_asyncio.fixture(scope="session")
async def servers() -> AsyncIterator[Servers]:
    """RabbitMQ, Valkey, SeaweedFS and nginx; see cluster.py for what runs on them."""
    with tempfile.TemporaryDirectory(prefix="growbin-faults-") as folder:
        async with Servers.running(Path(folder)) as running:
            yield running


@pytest_asyncio.fixture(autouse=True)
async def no_row_goes_on() -> AsyncIterator[None]:
    """A row that has run out of its time is left where it stands. Cancelled here it ends its processes;
    else it would go on beneath the next row, on the same servers."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=CLEANED_UP_SECONDS)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with each failure what RabbitMQ complains of: a broken one fails each row that comes after."""
    report = yield
    servers = item.funcargs.get("servers")
    if report.failed and isinstance(servers, Servers) and servers.rabbitmq.log.exists():
        lines = servers.rabbitmq.log.read_text(errors="replace").splitlines()
        complaints = [line for line in lines if "[error]" in line]
        report.sections.append(("errors of RabbitMQ", "\n".join(complaints[-60:])))
    return report
