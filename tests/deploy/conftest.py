"""What is dear to make: the image, and the servers that its processes run on."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.deploy.image import Image
from tests.faults.cluster import Servers


@pytest.fixture(scope="session")
def image() -> Iterator[Image]:
    """Built once by the Dockerfile's own commands."""
    with tempfile.TemporaryDirectory(prefix="growbin-image-", ignore_cleanup_errors=True) as folder:
        built = Image(Path(folder))
        built.build()
        yield built


@pytest_asyncio.fixture(scope="session")
async def servers() -> AsyncIterator[Servers]:
    """RabbitMQ, Valkey, SeaweedFS and nginx."""
    with tempfile.TemporaryDirectory(prefix="growbin-deploy-") as folder:
        async with Servers.running(Path(folder)) as running:
            yield running
