"""What may be paid (I3): one answer for each run of a job, and one for each call that a blow has hit.

A call is excused only by name: by the trouble of its own consumer, of that one's links to the model or to
Redis, or of Redis itself, that touched the very call. One answer needs no excuse, each other its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.faults.instruments.journal import Journal, Trouble
from tests.faults.model import Call

if TYPE_CHECKING:
    from tests.faults.instruments.oracle import TrackedJob

# An answer is stored right after it was given, and a call is recorded right before it is made: a trouble
# this close to a call may have touched it.
CALL_MARGIN_SECONDS = 1.0
# A call on its way when its job was ended by somebody else.
ON_ITS_WAY_SECONDS = 2.0


@dataclass(frozen=True)
class Excuse:
    """A call, and the blow that hit it."""

    call: Call
    blow: Trouble

    def __str__(self) -> str:
        after = self.blow.began - self.call.began
        when = f"{after:.1f} s into it" if after >= 0 else f"{-after:.1f} s before it"
        return f"{self.call.marker}: {self.blow.kind} of {self.blow.target} {when}, on {self.call.consumer}"


def excuses(calls: Iterable[Call], journal: Journal) -> list[Excuse]:
    """The calls that something hit, each with the first blow."""
    found = []
    for call in calls:
        began, ended = (
            call.began - CALL_MARGIN_SECONDS,
            (call.ended or time.monotonic()) + CALL_MARGIN_SECONDS,
        )
        targets = (call.consumer, f"redis of {call.consumer}", f"model of {call.consumer}", "valkey")
        blows = [blow for blow in journal.during(targets, began, ended) if _may_hit(blow, call, began)]
        found += [Excuse(call, blows[0])] if blows else []
    return found


def _may_hit(blow: Trouble, call: Call, began: float) -> bool:
    """What a consumer asks after its restart is asked by another process than the one that was killed."""
    return blow.target != call.consumer or blow.kind == "freeze" or blow.began >= began


def excused_payments(calls: Iterable[Call], journal: Journal) -> list[Excuse]:
    """The whole allowance: the answers that were paid for and hit."""
    return excuses([call for call in calls if call.paid], journal)


def used_excuses(job: TrackedJob, calls: Iterable[Call], journal: Journal) -> list[Excuse]:
    """Those that a job needs: all but one of its paid answers, of each run."""
    used = []
    for paid in _runs_of(job, [call for call in calls if call.paid]):
        used += excuses(paid, journal)[: max(0, len(paid) - 1)]
    return used


def paid_too_often(
    job: TrackedJob, calls: list[Call], journal: Journal, max_paid_calls: int
) -> Iterator[str]:
    for paid in _runs_of(job, [call for call in calls if call.paid]):
        hit = excuses(paid, journal)
        if len(paid) - len(hit) > 1:
            yield (
                f"I3 {job.marker} {job.job_id} was paid {len(paid)} times, of which "
                f"{[str(excuse) for excuse in hit] or 'none was hit'}: {paid}"
            )
        elif len(paid) > max_paid_calls and not job.was_destroyed:
            yield f"I3 {job.marker} {job.job_id} was paid {len(paid)} times of {max_paid_calls}: {paid}"


def called_after_its_end(job: TrackedJob, calls: Iterable[Call], journal: Journal) -> Iterator[str]:
    """Nobody asks for what has ended, unless the blow that hit the call kept it from knowing."""
    if job.end is None or job.was_destroyed or job.run > 1:
        return
    late = [call for call in calls if call.began > job.end.at + ON_ITS_WAY_SECONDS]
    excused = [excuse.call for excuse in excuses(late, journal)]
    for call in late:
        if call not in excused:
            after = f"{call.began - job.end.at:.1f} s after its {job.end.name}"
            yield f"I3 the model was called for {job.marker} {job.job_id} {after}"


def _runs_of(job: TrackedJob, calls: list[Call]) -> list[list[Call]]:
    """The calls by the run in which they began."""
    moments = [float("-inf"), *job.redriven_at, float("inf")]
    return [[call for call in calls if begins <= call.began < ends] for begins, ends in pairwise(moments)]
