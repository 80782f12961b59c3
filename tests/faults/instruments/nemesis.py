"""Random harm, decided by a seed before it begins: the same seed does the same things at the same offsets.

An offset is a number of accepted jobs, not a time: so it means the same on a slow machine.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from tests.faults.cluster import Cluster, Process, Target
from tests.faults.inspection import event_of
from tests.faults.instruments.harms import HARMS
from tests.faults.instruments.oracle import TrackedJob

Kind = Literal[
    "kill",
    "freeze",
    "cut",
    "duplicate",
    "half open",
    "silence",
    "failover",
    "rollback",
    "full",
    "outage",
    "upgrade",
]

BUSY_WITHIN_SECONDS = 5.0  # how long a kill waits for its victim to have something in hand
WATCH_SECONDS = 0.05
AGAIN_AMONG = 20  # the jobs accepted last
CUT_LINKS = ("amqp", "redis", "model", "http", "s3")
# How often each part is killed or frozen; each at least once.
SHARES = {"consumer": 0.5, "gateway": 0.25, "valkey": 0.15, "rabbitmq": 0.1}
# Seconds a part stays away; a frozen consumer may lose its leases.
AWAY_SECONDS = {"consumer": (0.1, 2.0), "gateway": (0.1, 2.0), "valkey": (0.1, 3.0), "rabbitmq": (0.1, 3.0)}
# Of the rarer harms (harms.py): how many for so many kills, each at least once, and how long each lasts.
RARER: dict[Kind, tuple[float, tuple[float, float]]] = {
    "half open": (0.2, (2.0, 12.0)),
    "silence": (0.1, (0.0, 0.0)),
    "failover": (0.03, (1.0, 5.0)),
    "rollback": (0.02, (1.0, 5.0)),
    "full": (0.05, (1.0, 6.0)),
    "outage": (0.05, (5.0, 60.0)),
}
OUTAGES = ("model", "s3", "model errors")
LONGEST_OUTAGE_OF_JOBS = 25  # a small dose has shorter ones: a second for so many jobs
ROLLED_OUT_SHARE = 0.25  # of the run
FROZEN_SECONDS = {"consumer": (0.5, 8.0), "gateway": (0.5, 6.0), "valkey": (0.5, 4.0), "rabbitmq": (0.5, 4.0)}


@dataclass(frozen=True)
class Action:
    offset: int  # accepted jobs
    kind: Kind
    target: str
    seconds: float = 0.0

    def __str__(self) -> str:
        lasts = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.offset:>6}  {self.kind:<9} {self.target}{lasts}"


@dataclass
class Harm:
    """One action as it was done. Times are seconds of `time.monotonic()`."""

    action: Action
    began: float
    in_flight: int  # accepted jobs without an end
    in_hand: int  # of which the victim was working on: calls, streams, or all for broker and Redis
    hit: list[TrackedJob] = field(default_factory=list)  # a consumer's jobs in its model calls
    restarting: float | None = None
    useful: float | None = None


def plan(
    seed: int,
    jobs: int,
    kills: int,
    *,
    gateways: int = 2,
    consumers: int = 3,
    rarer: bool = True,
    upgrades: bool = False,
) -> list[Action]:
    """The whole schedule: `kills` kills, and in proportion to them all the other harms; with `upgrades` each
    process is replaced once, early."""
    choice = random.Random(f"{seed} {jobs} {kills}")
    names = {
        "consumer": [f"consumer-{number + 1}" for number in range(consumers)],
        "gateway": [f"gateway-{number + 1}" for number in range(gateways)],
        "valkey": ["valkey"],
        "rabbitmq": ["rabbitmq"],
    }
    actions = []
    for kind, count, lengths in (
        ("kill", kills, AWAY_SECONDS),
        ("freeze", max(4, kills // 3), FROZEN_SECONDS),
    ):
        for offset, part in zip(_offsets(choice, jobs, count), _parts(choice, count), strict=True):
            target, seconds = choice.choice(names[part]), round(choice.uniform(*lengths[part]), 1)
            actions.append(Action(offset, "kill" if kind == "kill" else "freeze", target, seconds))
    for offset in _offsets(choice, jobs, max(4, kills // 2)):
        process = choice.choice(names["consumer"] + names["gateway"])
        actions.append(Action(offset, "cut", f"{choice.choice(_links_of(process))} of {process}"))
    for offset in _offsets(choice, jobs, max(5, kills)):
        actions.append(Action(offset, "duplicate", "rabbitmq"))
    everybody = names["consumer"] + names["gateway"]
    for rare in RARER if rarer else ():
        actions += _rarer(choice, rare, jobs, kills, everybody)
    for number, process in enumerate(everybody if upgrades else ()):
        actions.append(Action(int(jobs * ROLLED_OUT_SHARE * number / len(everybody)), "upgrade", process))
    return sorted(actions, key=lambda action: action.offset)


def _rarer(
    choice: random.Random, kind: Kind, jobs: int, kills: int, processes: list[str]
) -> Iterator[Action]:
    share, (shortest, longest) = RARER[kind]
    count = max(len(OUTAGES) if kind == "outage" else 1, int(share * kills))
    for number, offset in enumerate(_offsets(choice, jobs, count)):
        target = "valkey"
        if kind == "half open":
            process = choice.choice(processes)
            target = f"{choice.choice(_links_of(process))} of {process}"
        elif kind == "silence":
            target = f"redis of {choice.choice([name for name in processes if 'gateway' in name])}"
        elif kind == "outage":
            target = OUTAGES[number % len(OUTAGES)]
            longest = min(longest, max(2 * shortest, jobs / LONGEST_OUTAGE_OF_JOBS))
        yield Action(offset, kind, target, round(choice.uniform(shortest, longest), 1))


def _offsets(choice: random.Random, jobs: int, count: int) -> Iterator[int]:
    """One in each of `count` equal stretches of the run, which ends in peace."""
    stretch = jobs * 0.93 / count
    for number in range(count):
        yield int(jobs * 0.02 + stretch * (number + choice.random()))


def _parts(choice: random.Random, count: int) -> list[str]:
    parts = [part for part, share in SHARES.items() for _ in range(max(1, int(share * count)))]
    parts = (["consumer"] * (count - len(parts)) + parts)[-count:]
    choice.shuffle(parts)
    return parts


def _links_of(process: str) -> list[str]:
    others = {"gateway": "model", "consumer": "http"}
    return [link for link in CUT_LINKS if link != others[process.partition("-")[0]]]


class Nemesis:
    def __init__(self, cluster: Cluster, actions: list[Action]) -> None:
        self._cluster = cluster
        self._actions = actions
        self._targets = {target.name: target for target in cluster.targets}
        self._links = {link.name: link for link in cluster.links()}
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.harms: list[Harm] = []
        self._begun = 0
        self._due = 0

    @property
    def is_behind(self) -> bool:
        """More than one due action still waits for its victim to be up: whoever brings new jobs should
        wait as well, or the last kills would find nothing to hit."""
        return self._due - self._begun > 1

    async def run(self) -> None:
        """Each action at its offset; returns when all are done and everything runs again."""
        async with asyncio.TaskGroup() as group:
            for action in self._actions:
                while self._cluster.ledger.accepted < action.offset:
                    await asyncio.sleep(WATCH_SECONDS)
                self._due += 1
                group.create_task(self._do(action))

    async def _do(self, action: Action) -> None:
        if action.kind == "cut":
            self._note(action, self._cluster.ledger.in_flight)
            await self._links[action.target].cut()
        elif action.kind == "duplicate":
            await self._deliver_again(action)
        elif action.kind in HARMS:
            async with self._locks[action.target]:
                harm = self._note(action, self._cluster.ledger.in_flight)
                await HARMS[action.kind](self._cluster, action.target, action.seconds)
                harm.useful = time.monotonic()
        else:
            async with self._locks[action.target]:  # one harm at a time for each victim
                await self._hurt(action, self._targets[action.target])

    async def _hurt(self, action: Action, target: Target) -> None:
        gives_up_at = time.monotonic() + BUSY_WITHIN_SECONDS
        while not self._in_hand(target) and time.monotonic() < gives_up_at:
            await asyncio.sleep(WATCH_SECONDS)
        harm = self._note(action, self._in_hand(target))
        harm.hit = self._hit(target)
        if action.kind == "freeze":
            target.freeze()
            await asyncio.sleep(action.seconds)
            harm.restarting = time.monotonic()
            target.thaw()
        else:
            await target.kill()
            await asyncio.sleep(action.seconds)
            harm.restarting = time.monotonic()
            await target.start()
        harm.useful = time.monotonic()

    def _note(self, action: Action, in_hand: int) -> Harm:
        harm = Harm(action, time.monotonic(), self._cluster.ledger.in_flight, in_hand)
        self.harms.append(harm)
        self._begun += 1
        return harm

    def _in_hand(self, target: Target) -> int:
        if isinstance(target, Process) and "http" in target.links:
            return self._cluster.client.open_at[target.url]
        if isinstance(target, Process):
            return self._cluster.model.open_calls(target.name)
        return self._cluster.ledger.in_flight

    def _hit(self, target: Target) -> list[TrackedJob]:
        jobs = self._cluster.ledger.jobs
        return [
            jobs[call.marker]
            for call in self._cluster.model.calls
            if call.ended is None and call.consumer == target.name and call.marker in jobs
        ]

    async def _deliver_again(self, action: Action) -> None:
        """A second message for the job accepted last, as a publish without its confirm leaves behind."""
        harm = self._note(action, 0)
        async with self._locks["rabbitmq"], self._locks["valkey"]:
            jobs = self._cluster.ledger.jobs.values()
            accepted = [job for job in jobs if job.is_promised and not job.was_destroyed]
            for job in reversed(accepted[-AGAIN_AMONG:]):
                with suppress(AssertionError):  # it has just been deleted: the one before, then
                    body = await event_of(self._cluster.servers, job)
                    await self._cluster.messages.publish(body, message_id=job.job_id)
                    harm.in_hand = int(job.is_in_flight)
                    return
