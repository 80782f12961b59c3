"""What people do with their jobs in a run of chaos: follow, wait, cancel, delete, speak, come again."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from tests.faults.client import Refused
from tests.faults.cluster import Cluster
from tests.faults.commands import said_by
from tests.faults.instruments.oracle import TrackedJob
from tests.faults.instruments.promises import time_of
from tests.faults.model import NONSENSE
from tests.faults.steps import eventually

JOB_SECONDS = 240.0
SECOND_STREAM_SHARE = 0.1
ASK_AGAIN_SHARE = 0.1
WAIT_SECONDS = 5  # of `Prefer: wait`
LATEST_CHANGE_OF_MIND_SECONDS = 4.0


@dataclass
class Visitors:
    """The clients of one run, and what is one at a time among them."""

    cluster: Cluster
    only_follow: bool = False
    redrives: asyncio.Lock = field(default_factory=asyncio.Lock)
    chosen: Counter[str] = field(default_factory=Counter)  # which way how often
    failures: list[str] = field(default_factory=list)  # of what was asked of growbin's commands

    async def visit(self, marker: str, token: str, choice: random.Random) -> None:
        """One job, from its ticket to whatever its owner wants of it."""
        way = follow if self.only_follow else choice.choices(list(WAYS), list(WAYS.values()))[0]
        self.chosen[way.__name__.replace("_", " ")] += 1
        with suppress(TimeoutError):  # the ledger knows
            try:
                await self._insist_on(way, marker, token, choice)
            except AssertionError as failure:
                self.failures.append(f"{marker}: {failure}")

    async def _insist_on(self, way: Way, marker: str, token: str, choice: random.Random) -> None:
        """A ticket that a Redis forgot before the upload was accepted is asked for again, as apps do."""
        try:
            await way(self, marker, token, choice)
        except Refused:
            job = self.cluster.ledger.jobs[marker]
            if job.was_destroyed and job.accepted_at is None and job.delete_asked_at is None:
                job.refusal = "Redis forgot its ticket, and another was asked for"
                await self._insist_on(way, f"{marker}-again", token, choice)

    async def submitted(self, marker: str, token: str) -> TrackedJob:
        job = await self.cluster.client.submit(marker, token=token)
        self.cluster.client.watch(job)
        return job


Way = Callable[[Visitors, str, str, random.Random], Awaitable[None]]


async def follow(visitors: Visitors, marker: str, token: str, choice: random.Random) -> None:
    """To the end; some with a second window, and some ask once more after it."""
    client, job = visitors.cluster.client, await visitors.submitted(marker, token)
    if choice.random() < SECOND_STREAM_SHARE:
        client.watch(job, "second stream")
    await client.seen(job, JOB_SECONDS)
    if choice.random() < ASK_AGAIN_SHARE:
        await client.ask_again(job)


async def wait(visitors: Visitors, marker: str, token: str, _choice: random.Random) -> None:
    """Without a stream of one's own, by `Prefer: wait`; another window has one."""
    client, job = visitors.cluster.client, await visitors.submitted(marker, token)
    async with asyncio.timeout(JOB_SECONDS):
        while True:
            answer = await client.look(job, WAIT_SECONDS)
            if answer.status == 200 and answer.body["stage"] in ("done", "failed", "expired", "cancelled"):
                break
            await asyncio.sleep(0.2)
    await client.seen(job, JOB_SECONDS)


async def cancel(visitors: Visitors, marker: str, token: str, choice: random.Random) -> None:
    """Some time after the upload; perhaps too late."""
    client, job = visitors.cluster.client, await visitors.submitted(marker, token)
    await asyncio.sleep(choice.uniform(0, LATEST_CHANGE_OF_MIND_SECONDS))
    await client.until(lambda: client.cancel(job), 202)
    await client.seen(job, JOB_SECONDS)


async def delete(visitors: Visitors, marker: str, token: str, choice: random.Random) -> None:
    """At any moment; nobody answers for it afterwards."""
    client, job = visitors.cluster.client, await visitors.submitted(marker, token)
    await asyncio.sleep(choice.uniform(0, LATEST_CHANGE_OF_MIND_SECONDS))
    await client.until(lambda: client.delete(job), 204, 404)
    await client.look(job)
    await client.look(job, WAIT_SECONDS)


async def speak(visitors: Visitors, marker: str, token: str, choice: random.Random) -> None:
    """Of the answer, twice, as a phone does that did not hear the first 204."""
    client, job = visitors.cluster.client, await visitors.submitted(marker, token)
    if (await client.seen(job, JOB_SECONDS)).name == "done":
        for _ in range(2):
            await client.until(lambda: client.say(job, right=choice.random() < 0.5), 204)


async def come_again(visitors: Visitors, marker: str, token: str, _choice: random.Random) -> None:
    """The model answers nonsense; an operator drives the failed job again."""
    cluster = visitors.cluster
    cluster.model.script(marker, NONSENSE)
    job = await visitors.submitted(marker, token)
    if (await cluster.client.seen(job, JOB_SECONDS)).name != "failed":
        return

    async def is_told() -> bool:
        return all(stream.end for stream in job.streams)

    await eventually(is_told, f"all streams of {marker} have its end", JOB_SECONDS)
    async with visitors.redrives:
        job.drive_again()

        async def is_driven() -> bool:
            # Its answer may be lost; and a Redis that was set back may not know that the job failed.
            if await stage_of(cluster, job) not in (None, "failed", "queued") or job.was_destroyed:
                return True
            return (await driven(cluster, job))[0]

        await eventually(is_driven, f"{marker} is driven again", JOB_SECONDS)
        job.driven()
    if job.was_destroyed:
        await drive_until_done(visitors, job)
        return
    cluster.client.watch(job, "second run", resumes_after=job.own_streams[0].last_id)
    end = await cluster.client.seen(job, JOB_SECONDS)
    if job.was_destroyed and time_of(end) < job.asked_time:  # Redis knew of the first run again, and no more
        await drive_until_done(visitors, job)


async def driven(cluster: Cluster, job: TrackedJob) -> tuple[bool, str]:
    """Whether the operator's command did it, and what it said."""
    status, said = await said_by(cluster, "redrive", "--job", job.job_id)
    if status != 0:
        print(said)
    return status == 0, said


async def drive_until_done(visitors: Visitors, job: TrackedJob) -> None:
    """A Redis that is set back forgets that a job was driven again, or that it failed: the operator looks
    until it is done, or is told that nothing is left to drive. What is seen of it meanwhile is nobody's
    promise."""
    job.accepted_at, is_driven, said = None, True, ""

    async def is_over() -> bool:
        nonlocal is_driven, said
        stage = await stage_of(visitors.cluster, job)
        job.refusal = f"driven again while Redis was set back; {stage or 'unknown'} at last"
        # A command that cannot tell whether it was heard asks to be repeated.
        if stage in ("failed", "expired") or (stage == "queued" and not is_driven):
            async with visitors.redrives:
                job.redriven_at.append(time.monotonic())
                is_driven, said = await driven(visitors.cluster, job)
        return stage == "done" or "its record is gone" in said

    with suppress(AssertionError):
        await eventually(is_over, "it is done", JOB_SECONDS)


async def stage_of(cluster: Cluster, job: TrackedJob) -> str | None:
    """None: it is unknown, or nobody answers."""
    answer = await cluster.client.look(job)
    return str(answer.body["stage"]) if answer.status == 200 else None


# How often each is chosen.
WAYS: dict[Way, float] = {follow: 64, wait: 10, cancel: 7, delete: 7, speak: 10, come_again: 2}
