"""What production does besides killing: links that go silent, a Redis that is handed over, set back or full,
parts that are away for everybody, upgrades under load. Each is over, and mended, when its function returns.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.faults.cluster import Cluster, Process
from tests.faults.instruments.proxy import Proxy
from tests.faults.model import ANSWER, SERVER_ERROR
from tests.faults.replica import replicated
from tests.faults.surgery import PROGRESS, database

NAME_LAGS_SHARE = 0.3  # of the stay: the old primary is demoted, and the name still points to it
FULL_BYTES = 1_500_000  # less than an empty server uses

Harming = Callable[[Cluster, str, float], Awaitable[None]]


async def half_open(cluster: Cluster, link_name: str, seconds: float) -> None:
    """Everything on one link is swallowed, and nobody is told."""
    link = _link(cluster, link_name)
    await link.half_open()
    await asyncio.sleep(seconds)
    await link.passing()


async def silence(cluster: Cluster, link_name: str, _seconds: float) -> None:
    """A gateway's subscription hears nothing more, while all its other connections are well."""
    _link(cluster, link_name).silence(b"SUBSCRIBE")


async def fail_over(cluster: Cluster, _target: str, seconds: float) -> None:
    """Redis goes to its replica behind a name that stays, and back; the old primary lives on each time."""
    cluster.journal.begin("valkey", "failover")
    async with replicated(cluster) as name:
        for stay_seconds in (seconds, 0.0):
            await name.hand_over()
            await asyncio.sleep(NAME_LAGS_SHARE * seconds)
            name.move()
            await asyncio.sleep(stay_seconds)
    cluster.journal.end("valkey")


async def roll_back(cluster: Cluster, _target: str, seconds: float) -> None:
    """Redis comes back with what it knew so many seconds ago."""
    data = cluster.servers.valkey.folder / "appendonlydir"
    backup = cluster.folder / "backup"
    since = time.monotonic()
    await _copy(data, backup)
    await asyncio.sleep(seconds)
    await cluster.redis.kill()
    cluster.ledger.destroy_history(since)
    cluster.journal.begin("valkey", "rollback").began = since
    await _copy(backup, data)
    await cluster.redis.start()


async def _copy(source: Path, target: Path) -> None:
    await asyncio.to_thread(shutil.rmtree, target, ignore_errors=True)
    await asyncio.to_thread(shutil.copytree, source, target)


async def fill(cluster: Cluster, _target: str, seconds: float) -> None:
    """Redis answers, and takes nothing more."""
    cluster.journal.begin("valkey", "full")
    async with database(cluster, PROGRESS) as redis:
        await redis.config_set("maxmemory", FULL_BYTES)
        await asyncio.sleep(seconds)
        await redis.config_set("maxmemory", 0)
    cluster.journal.end("valkey")


async def outage(cluster: Cluster, part: str, seconds: float) -> None:
    """A part is away for everybody: refused, or (`model errors`) answering nothing but 500."""
    if part == "model errors":
        cluster.model.default = SERVER_ERROR
        await asyncio.sleep(seconds)
        cluster.model.default = ANSWER
        return
    links = [*cluster.links(part), *([cluster.cdn_link] if part == "s3" else [])]
    for link in links:
        await link.down()
    await asyncio.sleep(seconds)
    for link in links:
        await link.passing()


async def upgrade(cluster: Cluster, process_name: str, _seconds: float) -> None:
    """The next of a rollout: told to stop, it ends cleanly, and today's version takes its place."""
    process = _process(cluster, process_name)
    code = await process.stop()
    assert code == 0, f"{process_name} ended with {code}"
    process.run_from(None)
    await process.start()


def _link(cluster: Cluster, name: str) -> Proxy:
    return next(link for link in cluster.links() if link.name == name)


def _process(cluster: Cluster, name: str) -> Process:
    return next(process for process in cluster.processes if process.name == name)


HARMS: dict[str, Harming] = {
    "half open": half_open,
    "silence": silence,
    "failover": fail_over,
    "rollback": roll_back,
    "full": fill,
    "outage": outage,
    "upgrade": upgrade,
}
