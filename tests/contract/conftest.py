"""What all contract tests share."""

from __future__ import annotations

import pytest

from growbin.adapters.redis import connection


@pytest.fixture(autouse=True)
def patient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine Redis is slow and not away; a row that is about its silence is `impatient`."""
    if "impatient" in request.fixturenames:
        return
    for name in ("CALL_TIMEOUT_SECONDS", "CONNECT_TIMEOUT_SECONDS"):
        monkeypatch.setattr(connection, name, 20.0)
    monkeypatch.setattr(connection._calls, "_seconds", 20.0)


@pytest.fixture
def impatient() -> None:
    """Time-outs as they are."""
