"""The real parts for every test that asks for them: started once per run, stopped without a trace."""

from __future__ import annotations

import gc
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog
from aiohttp import web_app

from tests.processes import Stack, command

# A shell without job control starts what runs in the background with SIGINT ignored; every process that is
# started from there would ignore it as well.
signal.signal(signal.SIGINT, signal.default_int_handler)

# As growbin's own logs, without local variables: to draw those of one traceback may take half a minute,
# in which no timeout is kept.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)

# A busy machine is slow, and what it computes right all the same.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Without collections of the garbage: on Python 3.11 one that logs a traceback while a report parses its
    source breaks the parser (python/cpython#106905), and pytest ends with an internal error."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(autouse=True)
def forget_gateways() -> Iterator[None]:
    """aiohttp keeps the application of each handler that was called, and all that belongs to it: after some
    hundreds a collection of the garbage takes more than a second."""
    yield
    web_app._cached_build_middleware.cache_clear()


@pytest.fixture(scope="session")
def parts_stack() -> Iterator[Stack]:
    """Every part, shared by the whole run: take fresh names (queues, jobs, keys), never flush."""
    with tempfile.TemporaryDirectory(prefix="growbin-parts-") as folder:
        running = Stack(Path(folder), command("stack", "--parts-only"))
        try:
            running.wait_until_ready()
            yield running
        finally:
            running.stop_in_a_hurry()  # its data is thrown away


@pytest.fixture(scope="session")
def parts(parts_stack: Stack) -> dict[str, str]:
    """The environment that leads growbin to RabbitMQ, Valkey, SeaweedFS, nginx and the model server."""
    return parts_stack.settings
