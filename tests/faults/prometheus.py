"""A real Prometheus over a cluster, with our alerts, every duration of which is divided by one factor.

async with Prometheus.watching(cluster) as prometheus:
    await prometheus.fires("GrowbinPartAway")
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml

from growbin.local.parts.part import Part, installed, write_private
from tests.deploy.alert_rules import alerts, fast_rules, shortened
from tests.faults.cluster import Cluster
from tests.faults.measured_rabbitmq import MeasuredRabbitMQ

FACTOR = 30
# As long as /metrics may take while Redis hangs; a scrape's time-out is no longer than its interval.
SCRAPE_SECONDS = 2.0
RATE_RANGE_SECONDS = 4 * SCRAPE_SECONDS
LOOK_SECONDS = 0.25
MISSING = "Prometheus is not installed: run `make prometheus`."


class Prometheus(Part):
    """Scrapes what the PodMonitors name, under the labels that they give."""

    name = "prometheus"

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        super().__init__(folder)
        self._cluster = cluster
        self.url = f"http://127.0.0.1:{self.port}"
        self.queue_name = cluster.queue_name

    @classmethod
    @asynccontextmanager
    async def watching(cls, cluster: Cluster) -> AsyncIterator[Self]:
        prometheus = cls(cluster.folder, cluster)
        try:
            await prometheus.start()
            await prometheus.ready()
            # Only now the rules: it takes five seconds to its first scrape, and all would seem to be gone.
            prometheus._write_rules(fast_rules(FACTOR, cluster.queue_name))
            assert prometheus.pid is not None
            os.kill(prometheus.pid, signal.SIGHUP)
            yield prometheus
        finally:
            await prometheus.kill()

    def command(self) -> Sequence[str]:
        broker = self._cluster.servers.rabbitmq
        assert isinstance(broker, MeasuredRabbitMQ), "a broker of RABBITMQ_URL is not ours to measure"
        targets = [
            {
                "targets": [f"127.0.0.1:{process.part.ports['probe']}"],
                "labels": {"app_kubernetes_io_component": process.part.name, "pod": process.name},
            }
            for process in self._cluster.processes
        ]
        configuration = {
            "global": {
                "scrape_interval": f"{SCRAPE_SECONDS:g}s",
                "scrape_timeout": f"{SCRAPE_SECONDS:g}s",
                "evaluation_interval": "500ms",
            },
            "rule_files": ["rules.yaml"],
            "scrape_configs": [
                {"job_name": "growbin/growbin", "static_configs": targets},
                {
                    "job_name": "growbin/rabbitmq",
                    "static_configs": [{"targets": [f"127.0.0.1:{broker.ports['prometheus']}"]}],
                },
            ],
        }
        self._write_rules("groups: []")
        write_private(self.folder / "prometheus.yml", yaml.safe_dump(configuration))
        return [
            installed("prometheus", MISSING),
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
        ]

    def _write_rules(self, rules: str) -> None:
        write_private(self.folder / "rules.yaml", rules)

    def settings(self) -> dict[str, str]:
        return {}

    async def check(self) -> None:
        """Everything was scraped."""
        scraped = await self.query("up == 1")
        assert len(scraped) == len(self._cluster.processes) + 1, scraped

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """An instant vector: `metric` and `value` of each series."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.url}/api/v1/query", params={"query": expr}) as answer,
        ):
            told = await answer.json()
        assert told["status"] == "success", (expr, told)
        return list(told["data"]["result"])

    async def panel(self, query: str) -> list[dict[str, Any]]:
        """What the dashboard would show now: its durations are shorter, and the queue is ours."""
        expr = query.replace("$__rate_interval", f"{RATE_RANGE_SECONDS:g}s")
        expr = expr.replace("growbin.jobs", self.queue_name)
        return await self.query(
            re.sub(r"\[(\d+[mh])\]", lambda found: f"[{shortened(found[1], FACTOR)}]", expr)
        )

    async def firing(self) -> set[str]:
        return await self._names('ALERTS{alertstate="firing"}')

    async def ever_fired(self) -> set[str]:
        return await self._names('max_over_time(ALERTS{alertstate="firing"}[1h])')

    async def _names(self, expr: str) -> set[str]:
        return {series["metric"]["alertname"] for series in await self.query(expr)} & set(alerts())

    async def until(self, *, fires: bool, alert: str, within_seconds: float) -> float:
        """Returns how long it took until this alert fires, or no longer does."""
        began = time.monotonic()
        while (alert in await self.firing()) is not fires:
            waited = time.monotonic() - began
            assert waited < within_seconds, f"{alert} {'silent' if fires else 'fires'}: {await self.firing()}"
            await asyncio.sleep(LOOK_SECONDS)
        return time.monotonic() - began
