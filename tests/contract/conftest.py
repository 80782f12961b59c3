"""What all contract tests share."""

from __future__ import annotations

import pytest

from growbin.adapters.photos import photo_cache
from growbin.adapters.rabbitmq import connection as broker_connection
from growbin.adapters.rabbitmq import job_queue, letters
from growbin.adapters.redis import connection, progress_feed


@pytest.fixture(autouse=True)
def patient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine Redis, the broker and the CDN are slow and not away; a row that is about Redis'
    silence is `impatient`."""
    for owner, name in (
        (broker_connection, "CLOSE_TIMEOUT_SECONDS"),
        (job_queue, "CHANGE_TIMEOUT_SECONDS"),
        (letters, "STEP_TIMEOUT_SECONDS"),
        (photo_cache, "TIMEOUT_SECONDS"),
    ):
        monkeypatch.setattr(owner, name, 20.0)
    if "impatient" in request.fixturenames:
        return
    for name in ("CALL_TIMEOUT_SECONDS", "CONNECT_TIMEOUT_SECONDS"):
        monkeypatch.setattr(connection, name, 20.0)
    monkeypatch.setattr(connection._calls, "_seconds", 20.0)
    for name in ("CONFIRM_TIMEOUT_SECONDS", "DEAF_AFTER_SECONDS"):
        monkeypatch.setattr(progress_feed, name, 20.0)


@pytest.fixture
def impatient() -> None:
    """Time-outs as they are."""
