"""The real parts for every test that asks for them: started once per run, stopped without a trace."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Stack, command


@pytest.fixture(scope="session")
def parts() -> Iterator[dict[str, str]]:
    """The environment that leads growbin to RabbitMQ, Valkey, SeaweedFS, nginx and the model server.

    They are shared by the whole run: take fresh names (queues, jobs, keys), never flush.
    """
    with tempfile.TemporaryDirectory(prefix="growbin-parts-") as folder:
        stack = Stack(Path(folder), command("stack", "--parts-only"))
        try:
            stack.wait_until_ready()
            yield stack.settings
        finally:
            stack.stop()
