"""The lease on a job: taken, renewed while the work goes on, given back."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import structlog

from growbin.consumer.context import Consumer
from growbin.consumer.pacing import Closing
from growbin.consumer.public_copy import withdraw_unless_done
from growbin.consumer.renewals import Renewed
from growbin.errors import Unavailable
from growbin.job import Job
from growbin.messages import failure
from growbin.ports import Ack, Beginning, Held, Retry, Started, Verdict
from growbin.telemetry import metrics

log = structlog.get_logger()

HELD_DELAY_SECONDS = 5
REDIS_PAUSE_SECONDS = 0.5
# Of a job's life it waits for a turn alone. A consumer that dies twice with thirty jobs in hand leaves thirty
# such waits: the last would outlast their deadlines.
ALONE_SHARE = 0.25


class Settled(Exception):
    """The job leaves the story early, with this verdict."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(repr(verdict))
        self.verdict = verdict


@dataclass(slots=True)
class Lease:
    """Ours since `start`; with the job's end it is given back."""

    start: Started
    is_given_back: bool = False


@asynccontextmanager
async def lease_of(job: Job, consumer: Consumer) -> AsyncIterator[Lease]:
    """Begin the job, once no part is away. One that may have crashed two consumers runs alone, so that a
    third crash hits no other job; or beside others that may have, when its turn does not come in time."""
    alone, patience_seconds = False, ALONE_SHARE * life_seconds(job)
    while True:
        # The deadline may pass meanwhile: then `begin` ends the job.
        await consumer.breakers.all_well(within_seconds=life_seconds(job))
        async with consumer.solo.entered(alone=alone, patience_seconds=patience_seconds):
            start = await begin(job, consumer, alone=alone)
            if start == "suspect":
                alone = True
                continue
            if not isinstance(start, Started):
                raise Settled(await not_begun(job, consumer, start))
            metrics.job_starts.labels(start="first" if start.starts == 1 else "again").inc()
            if start.starts == 1:  # here, not at the end, so that a wait shows while it lasts
                metrics.queue_wait_seconds.observe(max(0, start.now_ms - job.accepted_at_ms) / 1000)
            log.info("job_begun", attempt=start.attempt, starts=start.starts)
            async with renewed(job, consumer, start) as lease:
                yield lease
            return


async def begin(job: Job, consumer: Consumer, *, alone: bool) -> Beginning:
    """Asked until Redis answers: meanwhile the job keeps its place here. As it is always the same call, a
    reply that was lost costs neither a start nor a lease's life."""
    call_id = secrets.token_hex(8)
    ends_at = asyncio.get_running_loop().time() + life_seconds(job)
    while True:
        try:
            return await consumer.leases.begin(job, alone=alone, call_id=call_id)
        except Unavailable as error:
            log.warning("job_not_begun", reason=error.reason)
            if asyncio.get_running_loop().time() > ends_at:
                raise Settled(Retry(HELD_DELAY_SECONDS)) from None
            await consumer.breakers.pause(REDIS_PAUSE_SECONDS)


def life_seconds(job: Job) -> float:
    """As long as it may live at most, whatever this machine's clock says."""
    return (job.deadline_ms - job.accepted_at_ms) / 1000


async def not_begun(job: Job, consumer: Consumer, why: str) -> Verdict:
    """The verdict on a job that `begin` did not give us."""
    if why == "held":
        return Retry(HELD_DELAY_SECONDS)
    try:
        if why in ("exhausted", "crashed"):
            code = "crashed" if why == "crashed" else "temporarily_unavailable"
            await consumer.progress.finish(job, None, failure(code, job.locale))
        # Whoever had it in hand before may have died between its public copy and its end.
        await withdraw_unless_done(job, consumer.progress, consumer.uploads)
    except Unavailable as error:
        log.warning("job_handed_on", reason=str(error))
        return Retry(HELD_DELAY_SECONDS)
    return Ack()


@asynccontextmanager
async def renewed(job: Job, consumer: Consumer, start: Started) -> AsyncIterator[Lease]:
    """Renew the lease while the block runs, then give it back. When the job ends elsewhere (a cancel) or
    another consumer has begun it, the block is cancelled and Settled raised."""
    block = asyncio.current_task()
    assert block is not None
    found: list[Held] = []

    def leave(held: Held) -> None:
        found.append(held)
        block.cancel()

    held = Renewed(job, start.attempt, leave)
    consumer.renewals.add(held, consumer.leases, consumer.lease_renew_seconds)
    lease, refund = Lease(start), False
    try:
        yield lease
    except Closing:
        refund = True
        raise
    except asyncio.CancelledError:
        if not found or block.uncancel() > 0:
            refund = True  # stopped by us, not by the job: this start does not count against it
            raise
        log.info("job_left", held=found[0])
        raise Settled(Ack() if found[0] == "ended" else Retry(HELD_DELAY_SECONDS)) from None
    finally:
        consumer.renewals.remove(held)
        if not lease.is_given_back:
            with suppress(Unavailable):
                await asyncio.shield(consumer.leases.release(job, start.attempt, refund=refund))
