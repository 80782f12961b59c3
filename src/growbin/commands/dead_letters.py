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

from growbin.commands.redrive import RedriveParts, drive_again
from growbin.ports import DeadLetters, Letter
from growbin.telemetry import traces

log = structlog.get_logger()

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are meant: one job's, those of one reason, or all."""

    job_id: UUID | None = None
    reason: str | None = None

    def includes(self, letter: Letter) -> bool:
        return (self.job_id is None or letter.job_id == self.job_id) and (
            self.reason is None or letter.reason == self.reason
        )


@dataclass(frozen=True, slots=True)
class LetterParts(RedriveParts):
    """What the command works with: a letter's job is driven again like any other."""

    letters: DeadLetters


async def list_letters(parts: LetterParts, selection: Selection, say: Say) -> int:
    """One line a letter; returns 0. Raises Unavailable."""
    selected = [letter for letter in await parts.letters.list() if selection.includes(letter)]
    for letter in selected:
        state = await parts.progress.state(letter.job_id) if letter.job_id else None
        stage = json.loads(state.entry.data)["stage"] if state else "unknown"
        say(f"{letter.job_id or '(no job id)'}  {letter.reason:<15} job {stage:<10} {letter.died_at or '-'}")
    say(f"{len(selected)} letters")
    return 0


async def show_letters(parts: LetterParts, selection: Selection, say: Say) -> int:
    """Each letter whole: why and when its delivery died, what it holds, and the job as it is now."""
    selected = [letter for letter in await parts.letters.list() if selection.includes(letter)]
    for letter in selected:
        state = await parts.progress.state(letter.job_id) if letter.job_id else None
        say(f"reason  {letter.reason}\ndied    {letter.died_at or '-'}")
        say(f"letter  {letter.body.decode('utf-8', 'backslashreplace')}")
        say(f"job     {state.entry.data if state else 'unknown: its keys have gone'}")
    return 0 if selected else _none_fits(say)


async def change_letters(
    parts: LetterParts, selection: Selection, action: Literal["redrive", "drop"], say: Say
) -> int:
    """Redrive or drop the selected letters; returns 0 when every one of them could be."""
    outcomes: list[bool] = []

    async def change(letter: Letter) -> bool:
        if not selection.includes(letter):
            return False
        refusal = await _redrive(parts, letter) if action == "redrive" else None
        outcomes.append(refusal is None)
        done = {"redrive": "driven again", "drop": "dropped"}[action]
        say(f"{letter.job_id or '(no job id)'}  {refusal or done}")
        log.warning(
            "letter_handled",
            action=action,
            job_id=str(letter.job_id),
            trace_id=traces.root_of(letter.job_id).trace_id if letter.job_id else None,
            reason=letter.reason,
            outcome=refusal or done,
            asked_by=parts.asked_by,
        )
        return refusal is None

    await parts.letters.walk(change)
    if not outcomes:
        return _none_fits(say)
    return 0 if all(outcomes) else 1


async def _redrive(parts: LetterParts, letter: Letter) -> str | None:
    """Begin a new run of the letter's job; the reason when that cannot be. The letter is removed only
    after the new run's event is confirmed."""
    if letter.job_id is None:
        return "refused: the letter names no job, there is nothing to run"
    return await drive_again(parts, await parts.records.get(letter.job_id))


def _none_fits(say: Say) -> int:
    say("No letter fits.")
    return 1
