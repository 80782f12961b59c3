"""`growbin redrive`: jobs that an outage ended, driven again: by job, code and time, also without a letter.

Each change is one audit line in the log: which job, how it had ended, who asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog

from growbin.errors import Rejected, Unavailable
from growbin.job import Upload, job_of
from growbin.ports import EndedJob, JobQueue, JobRecords, RedriveProgress, UploadStore
from growbin.telemetry import traces

log = structlog.get_logger()

Say = Callable[[str], None]

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True)
class EndedSelection:
    """Which ended jobs are meant: all that is given must fit. `code` is a failure code, or `expired`."""

    job_id: UUID | None = None
    code: str | None = None
    since: datetime | None = None

    def includes(self, job: EndedJob) -> bool:
        return (
            (self.job_id is None or job.job_id == self.job_id)
            and (self.code is None or job.outcome == self.code)
            and (self.since is None or _moment(job.ended_at) >= self.since)
        )


@dataclass(frozen=True, slots=True)
class RedriveParts:
    """What a redrive works with. `deadline_seconds` is a new run's; `asked_by` stands in the audit line."""

    records: JobRecords
    progress: RedriveProgress
    uploads: UploadStore
    queue: JobQueue
    deadline_seconds: int
    asked_by: str


def since(text: str, now: datetime) -> datetime:
    """`90s`, `30m`, `2h`, `1d` before `now`. Raises ValueError."""
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if not found:
        raise ValueError(f"{text}: a number and a unit, as in 90s, 30m, 2h or 1d")
    return now - timedelta(**{UNITS[found[2]]: int(found[1])})


async def redrive(parts: RedriveParts, selection: EndedSelection, say: Say, *, is_dry: bool) -> int:
    """Drive the selected jobs again, or with `is_dry` only say which; 0 when every one could be. Raises
    Unavailable: what was said until then was done."""
    outcomes: list[bool] = []

    async def one(job_id: UUID, upload: Upload | None, had_ended: str, ended_at: str) -> None:
        try:
            refusal = await (_obstacle(parts.uploads, upload) if is_dry else drive_again(parts, upload))
        except Unavailable:
            say(f"{job_id}  {had_ended:<24} {ended_at}  not known: repeat with --job {job_id}")
            raise
        outcomes.append(refusal is None)
        done = "would be driven again" if is_dry else "driven again"
        say(f"{job_id}  {had_ended:<24} {ended_at}  {refusal or done}")
        if not is_dry:
            log.warning(
                "job_redriven",
                job_id=str(job_id),
                trace_id=traces.root_of(job_id).trace_id,
                had_ended=had_ended,
                outcome=refusal or done,
                asked_by=parts.asked_by,
            )

    async for ended in parts.progress.ended_jobs():
        if ended.outcome in ("done", "cancelled") or not selection.includes(ended):
            continue
        upload = await parts.records.get(ended.job_id)
        if ended.outcome == "expired" and upload is not None and not upload.published:
            continue  # nobody uploaded: there never was a job
        await one(ended.job_id, upload, ended.outcome, ended.ended_at)
    if not outcomes and not is_dry and selection.job_id is not None:
        # An earlier redrive may have begun its new run and failed to publish it: no end tells of that.
        await one(selection.job_id, await parts.records.get(selection.job_id), "no failure", "")
    say(f"{sum(outcomes)} of {len(outcomes)} {'can be' if is_dry else 'were'} driven again")
    return 0 if outcomes and all(outcomes) else 1


async def drive_again(parts: RedriveParts, upload: Upload | None) -> str | None:
    """Begin a new run from the job's record; the reason when it cannot be. Should we die before the new run's
    event is confirmed, a second redrive names the same run."""
    refusal = await _obstacle(parts.uploads, upload)
    if refusal is not None or upload is None:
        return refusal
    with traces.about(upload.job_id, "redrive", "internal"):
        try:
            new_run = await parts.progress.reopen(job_of(upload), parts.deadline_seconds)
        except Rejected as error:
            return f"refused: {error.detail}"
        await parts.queue.publish(new_run)
    return None


async def _obstacle(uploads: UploadStore, upload: Upload | None) -> str | None:
    """Why there is nothing to look at again; None when there is."""
    if upload is None or not upload.published:
        return "refused: its record is gone (records are kept for a day)"
    stored = await uploads.look(upload.key)
    if stored is None:
        return "refused: the photo is gone (uploads are kept for a day)"
    if stored.etag != upload.etag:
        return "refused: the photo was replaced since"
    return None


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
