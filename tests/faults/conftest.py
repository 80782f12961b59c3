"""Servers that may be hurt: one set for all fault tests, apart from those of the other tests."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.faults.cluster import Servers


@pytest_asyncio.fixture(scope="session")
async def servers() -> AsyncIterator[Servers]:
    """RabbitMQ, Valkey, SeaweedFS and nginx; see cluster.py for what runs on them."""
    with tempfile.TemporaryDirectory(prefix="growbin-faults-") as folder:
        async with Servers.running(Path(folder)) as running:
            yield running
