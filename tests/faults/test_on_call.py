"""Someone on call, with nothing but the page and the dashboard: two steps from the alert to the cause.

The first step is the dashboard, where a line has left its usual place; the second is what the alert's
runbook says to look at. Each row plants a fault that is the deployment's or a vendor's doing, waits for its
alert, and takes the steps: `pytest -s` prints what the person sees.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from growbin.local.parts.programs import Program
from tests.faults.cluster import Cluster, Process, Servers
from tests.faults.model import ANSWER, BAD_KEY, NONSENSE
from tests.faults.prometheus import Prometheus
from tests.faults.test_alerts import Act, empty_redis, fill_redis, links_pass, links_slow, model_says, people
from tests.metric_names import panel_queries

RUNBOOKS = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text()
QUIET_SECONDS = 15.0
HEARD_SECONDS = 90.0
LOOK_SECONDS = 6.0  # until the panels show what the alert has noticed
# A line is out of its place when it is three times as high or low, and by more than this.
NOISE = 0.05
FACTOR = 3

Panels = Mapping[str, float]
Look = Callable[[Cluster, list[str]], Awaitable[str]]


@dataclass(frozen=True)
class Planted:
    """`panel` must show it, `says` is where the runbook sends one, `look` is what one finds there, with
    `cause` in it."""

    name: str
    alert: str
    panel: str
    says: str
    look: Look
    cause: str
    begin: Act
    end: Act


# --- what one may look at


def logged(event: str) -> Look:
    """The last such line in the consumers' logs."""

    async def look(cluster: Cluster, _unusual: list[str]) -> str:
        lines = [line for consumer in cluster.consumers for line in consumer.log.splitlines()]
        return [line for line in lines if f'"event": "{event}"' in line][-1]

    return look


async def last_line(cluster: Cluster, _unusual: list[str]) -> str:
    return cluster.consumers[0].log.splitlines()[-1]


async def reasons(cluster: Cluster, _unusual: list[str]) -> str:
    url = f"{cluster.gateways[0].probe_url}/readyz"
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        return json.dumps((await answer.json())["reasons"])


async def s3_panel(_cluster: Cluster, unusual: list[str]) -> str:
    return next(line for line in unusual if line.startswith("Time that S3 takes"))


# --- what is planted


def set_for_consumers(name: str, value: str, *, is_fatal: bool = False) -> Act:
    """As a rollout does it."""

    async def begin(cluster: Cluster) -> None:
        for consumer in cluster.consumers:
            await consumer.stop()
            _environment(consumer)[name] = value
            await (consumer.part.start() if is_fatal else consumer.start())

    return begin


async def roll_back(cluster: Cluster) -> None:
    for consumer in cluster.consumers:
        await consumer.stop()
        _environment(consumer).update(cluster.servers.nginx.settings(), CONSUMER_CONCURRENCY="32")
        await consumer.start()


def _environment(process: Process) -> dict[str, str]:
    assert isinstance(process.part, Program)
    return process.part._environment


PLANTED = (
    Planted(
        "key revoked",
        "GrowbinPartAway",
        "Refusals",
        "The line `part_away` in the consumers' log: its reason",
        logged("part_away"),
        "401",
        model_says(BAD_KEY),
        model_says(ANSWER),
    ),
    Planted(
        "reader's secret mistyped",
        "GrowbinCdnPassedBy",
        "Photos read",
        "`cdn_read_failed` in the consumers' log: `status` 403 is the secret",
        logged("cdn_read_failed"),
        '"status": 403',
        set_for_consumers("CDN_READER_SECRET", "mistyped"),
        roll_back,
    ),
    Planted(
        "Redis full",
        "GrowbinRedisAway",
        "Parts as each process sees them",
        "a word of `maxmemory` is memory",
        reasons,
        "maxmemory",
        fill_redis,
        empty_redis,
    ),
    Planted(
        "S3 slow",
        "GrowbinAnswersSlow",
        "Time to answer",
        "S3, if Time that S3 takes shows it at `look`",
        s3_panel,
        "look",
        links_slow("s3", 0.7),
        links_pass("s3"),
    ),
    Planted(
        "model changed for one that answers otherwise",
        "GrowbinJobsFail",
        "How jobs end",
        "`model_answer_invalid`: the model (`job_failed` has the reason)",
        logged("job_failed"),
        "no analysis in it",
        model_says(NONSENSE),
        model_says(ANSWER),
    ),
    Planted(
        "rollout with a bad setting",
        "GrowbinNobodyConsumes",
        "Parts as each process sees them",
        "Crashing: the log's last line",
        last_line,
        "CONSUMER_CONCURRENCY",
        set_for_consumers("CONSUMER_CONCURRENCY", "many", is_fatal=True),
        roll_back,
    ),
)


# --- the two steps


async def dashboard(prometheus: Prometheus) -> Panels:
    """Each line of each panel, in the dashboard's order."""
    shown = {}
    for number, (panel, query) in enumerate(panel_queries()):
        for series in await prometheus.panel(query):
            names = " ".join(value for name, value in series["metric"].items() if name != "__name__")
            shown[f"{panel}: {names} ({number})"] = float(series["value"][1])
    return shown


def out_of_place(before: Panels, now: Panels) -> list[str]:
    found = []
    for line, usual in before.items():
        shown = now.get(line, math.nan)
        if math.isnan(usual) and math.isnan(shown):
            continue
        low, high = sorted((usual, shown))
        if math.isnan(shown) or math.isnan(usual) or (high - low > NOISE and high > FACTOR * low):
            found.append(f"{line} {usual:.3g} -> {shown:.3g}")
    return found + [f"{line} {now[line]:.3g}" for line in now.keys() - before.keys()]


def runbook(alert: str) -> str:
    section = re.search(rf"^## {alert}$(.*?)(?=^## )", RUNBOOKS, re.DOTALL | re.MULTILINE)
    assert section is not None, f"{alert} has no runbook"
    return " ".join(section[1].split())


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
async def test_cause_is_found_in_two_steps(servers: Servers, planted: Planted) -> None:
    """The dashboard shows where, and what the runbook sends one to names the cause."""
    async with (
        Cluster.running(servers) as cluster,
        people(cluster),
        Prometheus.watching(cluster) as prometheus,
    ):
        await asyncio.sleep(QUIET_SECONDS)
        before = await dashboard(prometheus)
        await planted.begin(cluster)
        try:
            await prometheus.until(fires=True, alert=planted.alert, within_seconds=HEARD_SECONDS)
            await asyncio.sleep(LOOK_SECONDS)
            unusual = out_of_place(before, await dashboard(prometheus))
            seen = await planted.look(cluster, unusual)
        finally:
            await planted.end(cluster)
    print(f"\n{planted.name}: {planted.alert}", *unusual, f"the runbook's look: {seen}", sep="\n  ")
    assert planted.says in runbook(planted.alert)
    assert any(line.startswith(planted.panel) for line in unusual)
    assert planted.cause in seen
