"""`growbin dead-letters`: people look at what could not be done, drive it again, or drop it.

Each change is one audit line in the log: what, which job, why it had died, who asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import structlog

from growbin.errors import Rejected
from growbin.ports import DeadLetters, JobQueue, Letter, RedriveProgress, UploadStore

log = structlog.get_logger()

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which letters are meant: one job's, those of one reason, or all."""

    job_id: UUID | None = None
    reason: str | None = None

    def takes(self, letter: Letter) -> bool:
        return (self.job_id is None or letter.job_id == self.job_id) and (
            self.reason is None or letter.reason == self.reason
        )


@dataclass(frozen=True, slots=True)
class Office:
    """What the command works with. `deadline_seconds` is a new run's; `asked_by` stands in the audit line."""

    letters: DeadLetters
    progress: RedriveProgress
    uploads: UploadStore
    queue: JobQueue
    deadline_seconds: int
    asked_by: str


async def list_letters(office: Office, choice: Choice, say: Say) -> int:
    """One line a letter; returns 0. Raises Unavailable."""
    chosen = [letter for letter in await office.letters.list() if choice.takes(letter)]
    for letter in chosen:
        state = await office.progress.state(letter.job_id) if letter.job_id else None
        stage = json.loads(state.entry.data)["stage"] if state else "unknown"
        say(
            f"{letter.job_id or '(no job id)'}  {letter.reason:<15} job {stage:<10} {letter.parked_at or '-'}"
        )
    say(f"{len(chosen)} parked")
    return 0


async def show_letters(office: Office, choice: Choice, say: Say) -> int:
    """Each letter whole: why, when, the event as it was published, and the job as it is now."""
    chosen = [letter for letter in await office.letters.list() if choice.takes(letter)]
    for letter in chosen:
        state = await office.progress.state(letter.job_id) if letter.job_id else None
        say(f"reason  {letter.reason}\nparked  {letter.parked_at or '-'}")
        say(f"event   {letter.body.decode('utf-8', 'backslashreplace')}")
        say(f"job     {state.entry.data if state else 'unknown: its keys have gone'}")
    return 0 if chosen else _nothing(say)


async def change_letters(office: Office, choice: Choice, action: Literal["redrive", "drop"], say: Say) -> int:
    """Redrive or drop the chosen letters; returns 0 when every one of them could be."""
    outcomes: list[bool] = []

    async def act(letter: Letter) -> bool:
        if not choice.takes(letter):
            return False
        refusal = await _redrive(office, letter) if action == "redrive" else None
        outcomes.append(refusal is None)
        done = {"redrive": "driven again", "drop": "dropped"}[action]
        say(f"{letter.job_id or '(no job id)'}  {refusal or done}")
        log.warning(
            "letter_handled",
            action=action,
            job_id=str(letter.job_id),
            reason=letter.reason,
            outcome=refusal or done,
            asked_by=office.asked_by,
        )
        return refusal is None

    await office.letters.walk(act)
    if not outcomes:
        return _nothing(say)
    return 0 if all(outcomes) else 1


async def _redrive(office: Office, letter: Letter) -> str | None:
    """Begin a new run of the letter's job; the reason when that cannot be. The letter is removed only
    after the new run's event is confirmed: should we die in between, a second redrive names the same run."""
    job = letter.job
    if job is None:
        return "refused: the body is no event of ours, there is nothing to run"
    stored = await office.uploads.look(job.key)
    if stored is None:
        return "refused: the photo is gone (uploads are kept for a day)"
    if stored.etag != job.etag:
        return "refused: the photo was replaced since"
    try:
        new_run = await office.progress.reopen(job, office.deadline_seconds)
    except Rejected as error:
        return f"refused: {error.detail}"
    await office.queue.publish(new_run)
    return None


def _nothing(say: Say) -> int:
    say("No parked letter fits.")
    return 1
