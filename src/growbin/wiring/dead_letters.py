"""`growbin dead-letters`: what the command works with."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Callable
from contextlib import AsyncExitStack
from uuid import UUID

import structlog

from growbin.commands import dead_letters
from growbin.config import Settings
from growbin.errors import Unavailable
from growbin.telemetry import logs
from growbin.wiring.gateway import open_records
from growbin.wiring.parts import open_letters, open_progress, open_queue, open_uploads, recorded_traces

log = structlog.get_logger()


def run_dead_letters(
    settings: Settings, action: str, job_id: UUID | None, reason: str | None, say: Callable[[str], None]
) -> int:
    """`growbin dead-letters`; returns the exit status."""
    logs.configure_logs(settings.log_level, settings.log_format)
    selection = dead_letters.Selection(job_id, reason)

    async def run() -> int:
        async with AsyncExitStack() as stack:
            parts = dead_letters.LetterParts(
                letters=await stack.enter_async_context(open_letters(settings)),
                records=await stack.enter_async_context(open_records(settings)),
                progress=await stack.enter_async_context(open_progress(settings)),
                uploads=await stack.enter_async_context(open_uploads(settings)),
                queue=await stack.enter_async_context(open_queue(settings)),
                deadline_seconds=settings.job_deadline_seconds,
                asked_by=getpass.getuser(),
            )
            match action:
                case "list":
                    return await dead_letters.list_letters(parts, selection, say)
                case "show":
                    return await dead_letters.show_letters(parts, selection, say)
                case "redrive" | "drop":
                    return await dead_letters.change_letters(parts, selection, action, say)
        raise ValueError(action)

    try:
        with recorded_traces(settings, "dead-letters"):
            return asyncio.run(run())
    except Unavailable as error:
        say(f"growbin dead-letters: {error.part} is away ({error.reason}). Only what is listed was done.")
        return 1
