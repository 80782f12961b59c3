"""The service under test: the one at GROWBIN_URL, else one of our own, with a model that can be held.

Nothing here knows the service from inside. Against GROWBIN_URL the tests that need a service of their own
(marked `own_service`) are left out.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.e2e import conftest as end_to_end
from tests.e2e.system import System, logs, running_system
from tests.load_profile import LOAD_PROFILE
from tests.stream_conformance.scripted_model import ScriptedModel
from tests.stream_conformance.visitor import Visitor, visiting

# Show the processes' logs with each failure here, too.
pytest_runtest_makereport = end_to_end.pytest_runtest_makereport

GIVEN_URL = os.environ.get("GROWBIN_URL", "").rstrip("/")


@dataclass(frozen=True)
class Service:
    """`heartbeat_seconds` is the longest silence it promises, `streams` are allowed to one session."""

    base_url: str
    heartbeat_seconds: float
    streams: int


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "own_service: holds the model, or needs settings of its own")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if GIVEN_URL:
        own = [item for item in items if item.get_closest_marker("own_service")]
        config.hook.pytest_deselected(items=own)
        items[:] = [item for item in items if item not in own]


@pytest_asyncio.fixture(scope="session")
async def model() -> ScriptedModel:
    return ScriptedModel()


@pytest_asyncio.fixture(scope="session")
async def own_system(parts: dict[str, str], model: ScriptedModel) -> AsyncIterator[System]:
    """Short waits, and room for many readers."""
    settings = LOAD_PROFILE | {
        "STREAM_HEARTBEAT_SECONDS": "1",
        "STREAM_WRITE_TIMEOUT_SECONDS": "2",
    }
    async with (
        model.serving() as model_url,
        running_system(parts, OPENAI_BASE_URL=model_url, **settings) as running,
    ):
        yield running
        model.release_all()
        for label, log in logs.items():
            for line in log.read_text().splitlines():
                # The HTTP library tells of malformed requests in its own way.
                is_ours = '"exception"' in line
                assert not is_ours, f"{label} met something unexpected: {line}"


@pytest.fixture(scope="session")
def service(request: pytest.FixtureRequest) -> Service:
    if GIVEN_URL:
        return Service(GIVEN_URL, heartbeat_seconds=15, streams=4)
    system: System = request.getfixturevalue("own_system")
    return Service(system.base_url, heartbeat_seconds=1, streams=int(LOAD_PROFILE["MAX_STREAMS_PER_SESSION"]))


@pytest_asyncio.fixture
async def visitor(service: Service) -> AsyncIterator[Visitor]:
    async with visiting(service.base_url) as newcomer:
        yield newcomer
