"""Nothing here or in the tests beside it imports growbin: they see what a stranger sees."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator

import pytest
import pytest_asyncio

from tests.e2e.client import Client, browsing
from tests.e2e.system import System, logs, running_system
from tests.processes import tail


@pytest_asyncio.fixture(scope="session")
async def system(parts: dict[str, str]) -> AsyncIterator[System]:
    """A gateway and a consumer with the default settings but the rates, shared by the run."""
    async with running_system(parts) as running:
        yield running


@pytest_asyncio.fixture
async def client(system: System) -> AsyncIterator[Client]:
    """A browser that has never been here."""
    async with browsing(system.base_url) as newcomer:
        yield newcomer


@pytest_asyncio.fixture
async def stranger(system: System) -> AsyncIterator[Client]:
    """Another browser, with a session of its own."""
    async with browsing(system.base_url) as newcomer:
        yield newcomer


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the processes' logs with each failure."""
    report = yield
    if report.failed:
        for label, log in logs.items():
            report.sections.append((f"log of {label}", tail(log)))
    return report
