"""Everything that a run of chaos did and saw, on one page, for people."""

from __future__ import annotations

import os
import platform
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import psutil

from tests.faults.instruments.allowance import excused_payments, used_excuses
from tests.faults.instruments.journal import Journal
from tests.faults.instruments.oracle import count_by, outcome

if TYPE_CHECKING:
    from tests.faults.chaos import Run
    from tests.faults.instruments.nemesis import Harm

MOST_LINES = 40


def table(run: Run) -> str:
    """Everything on one page, for people."""
    dose, calls = run.dose, run.cluster.model.calls
    paid_jobs = {call.marker for call in calls if call.paid}
    rows = [
        ("seed, jobs, kills", f"{dose.seed}, {dose.jobs}, {dose.kills}"),
        ("machine", machine()),
        ("versions", run.versions),
        ("time", f"{run.seconds:.0f} s, {dose.jobs / run.seconds:.1f} jobs/s, {dose.in_flight} at once"),
        ("work", ", ".join(f"{count} {way}" for way, count in run.work.most_common())),
        ("", _heard(run)),
        *(("outcome", f"{count:>6}  {kind}") for kind, count in count_by(run.jobs, outcome).items()),
        *(("ends", line) for line in run.counted.lines),
        *(("not done for", line) for line in _causes(run)),
        *(("not done", str(inquest)) for inquest in run.inquests[:MOST_LINES]),
        (
            "accept to end",
            _spread(job.end.at - job.accepted_at for job in run.jobs if job.end and job.accepted_at),
        ),
        *(("kills", line) for line in _harm_lines(run.kills)),
        ("kills that hit", f"{run.hits_share:.0%} of the victims had a job in hand"),
        *(("freezes", line) for line in _harm_lines(_of_kind(run, "freeze"))),
        *(("other blows", line) for line in _other_blows(run)),
        *(("recovery", line) for line in _recoveries(run)),
        (
            "model",
            f"{len(calls)} calls, {sum(call.paid for call in calls)} paid for {len(paid_jobs)} jobs",
        ),
        *(("allowance", line) for line in _allowance(run)),
        ("promises", _promises(run)),
    ]
    lines, last = [], ""
    for name, text in rows:
        lines.append(f"{'' if name == last else name:<18} {text}")
        last = name
    return "\n".join([*lines, *(f"  ! {failing}" for failing in run.failings[:MOST_LINES])])


def _causes(run: Run) -> Iterable[str]:
    causes = count_by(run.inquests, lambda inquest: inquest.cause or "no cause is known")
    return (f"{count:>6}  {cause}" for cause, count in causes.items())


def _heard(run: Run) -> str:
    streams = [stream for job in run.jobs for stream in job.streams]
    events = [event for stream in streams for event in stream.events]
    of_sessions = sum(stream.is_of_session for stream in streams)
    dismissed = [
        *(at for stream in streams for at in stream.dismissed_at),
        *(at for moments in run.cluster.ledger.sessions_dismissed.values() for at in moments),
    ]
    return (
        f"{len(events)} events in {len(streams)} streams, of which {of_sessions} by their session; "
        f"{sum(event.name == 'reset' for event in events)} resets, "
        f"{sum(len(stream.notices) for stream in streams)} notices, {len(dismissed)} times 204; "
        f"{sum(read.how == 'wait' for job in run.jobs for read in job.reads)} waiting reads"
    )


def _other_blows(run: Run) -> Iterable[str]:
    """Cuts, duplicates and the rarer ones, with what they were done to."""
    kinds = dict.fromkeys(harm.action.kind for harm in run.harms)
    for kind in sorted(kinds.keys() - {"kill", "freeze"}):
        harms = _of_kind(run, kind)
        seconds = [harm.action.seconds for harm in harms if harm.action.seconds]
        targets = Counter(harm.action.target.partition("-")[0] for harm in harms)
        told = ", ".join(f"{count} {target}" for target, count in targets.items())
        lasting = f"; {min(seconds):.0f} to {max(seconds):.0f} s" if seconds else ""
        yield f"{len(harms):>4}  {kind:<9} {told}{lasting}"


def _allowance(run: Run) -> Iterable[str]:
    """What may be paid more than once a job, and what was: each with the blow that excuses it."""
    journal, own = run.cluster.journal, run.cluster.model.calls_of
    used = [excuse for job in run.jobs for excuse in used_excuses(job, own(job.marker), journal)]
    allowed = len(excused_payments(run.cluster.model.calls, journal))
    yield f"{allowed} paid answers were hit, so as many may be paid for again; {len(used)} were"
    yield from map(str, used[:MOST_LINES])


def _promises(run: Run) -> str:
    broken = [violation.partition(" ")[0] for violation in run.violations]
    return (
        f"{len(run.lost)} lost, {broken.count('I1')} without exactly one end, {broken.count('I5')} stuck; "
        f"{len(broken)} violations of I1 to I7"
    )


def _of_kind(run: Run, kind: str) -> list[Harm]:
    return [harm for harm in run.harms if harm.action.kind == kind]


def _harm_lines(harms: list[Harm]) -> Iterable[str]:
    for part in ("consumer", "gateway", "valkey", "rabbitmq"):
        of_part = [harm for harm in harms if harm.action.target.startswith(part)]
        if of_part:
            hands = " ".join(str(harm.in_hand) for harm in of_part)
            flights = _spread((float(harm.in_flight) for harm in of_part), unit="")
            yield f"{len(of_part):>4}  {part:<9} jobs in flight {flights}; in hand {hands}"


def _recoveries(run: Run) -> Iterable[str]:
    """From the moment a killed part was useful again to the first sign of work."""
    journal = run.cluster.journal
    accepted = [job.accepted_at for job in run.jobs if job.accepted_at]
    called = [call.began for call in run.cluster.model.calls]
    seen = [event.at for job in run.jobs for stream in job.streams for event in stream.events]
    for part, what, moments in (
        ("rabbitmq", "publishing again", accepted),
        ("rabbitmq", "consuming again", called),
        ("valkey", "progress again", seen),
    ):
        killed = [harm for harm in run.kills if harm.action.target == part]
        if killed:
            yield f"{part}: {what} {_spread(_first_after(harm, moments, journal) for harm in killed)}"
    ended = [
        max(job.end.at for job in harm.hit if job.end) - harm.began
        for harm in run.kills
        if any(job.end for job in harm.hit)
    ]
    yield f"consumer: from the kill to the end of all jobs it had in its model calls {_spread(ended)}"


def _first_after(harm: Harm, moments: Sequence[float], journal: Journal) -> float:
    """Nothing can happen between a kill and the restart, so what came since the restart counts; nor can
    much while Redis is away, which is no fault of the part that came back."""
    if harm.restarting is None or harm.useful is None:
        return float("nan")
    first = min((moment for moment in moments if moment > harm.restarting), default=float("nan"))
    redis_away = journal.during(["valkey"], harm.useful, first)
    return max(0.0, first - max([harm.useful, *(trouble.ended or first for trouble in redis_away)]))


def _spread(values: Iterable[float], unit: str = " s") -> str:
    known = sorted(value for value in values if value == value)
    if not known:
        return "-"
    digits = 1 if unit else 0
    middle, most = statistics.median(known), known[-1]
    almost = known[int(len(known) * 0.95)]
    return f"median {middle:.{digits}f}, p95 {almost:.{digits}f}, max {most:.{digits}f}{unit}"


def machine() -> str:
    gigabytes = psutil.virtual_memory().total / 2**30
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {gigabytes:.0f} GB"
