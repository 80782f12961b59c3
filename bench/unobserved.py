"""growbin without metrics and logs, for bench.observation to compare with: nothing counts, times or writes.

python -m bench.unobserved gateway
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

import structlog
from prometheus_client.metrics import MetricWrapperBase

from growbin.telemetry import event_loop, logs, metrics


class Silent:
    """A metric, its child, a timer or a log: whatever is asked of it, it does nothing."""

    def __getattr__(self, _name: str) -> Silent:
        return self

    def __call__(self, *_words: object, **_fields: object) -> Silent:
        return self

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_error: object) -> None:
        pass


@asynccontextmanager
async def unmeasured_lag() -> AsyncIterator[None]:
    yield


def silence() -> None:
    """Before any module of growbin binds what is taken away here."""
    nothing = Silent()
    for name, value in vars(metrics).copy().items():
        if isinstance(value, MetricWrapperBase):
            setattr(metrics, name, nothing)
    replaced: list[tuple[object, dict[str, object]]] = [
        (event_loop, {"measured_lag": unmeasured_lag}),
        (logs, {"configure_logs": nothing}),
        (structlog, {"get_logger": nothing}),
        (
            structlog.contextvars,
            {"bound_contextvars": lambda **_fields: nullcontext(), "clear_contextvars": nothing},
        ),
    ]
    for module, names in replaced:
        for name, value in names.items():
            setattr(module, name, value)


if __name__ == "__main__":
    silence()
    from growbin.cli import main

    sys.exit(main())
