"""`growbin redrive`: what the command works with."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Callable
from contextlib import AsyncExitStack

from growbin.commands.redrive import EndedSelection, RedriveParts, redrive
from growbin.config import Settings
from growbin.errors import Unavailable
from growbin.telemetry import logs
from growbin.wiring.gateway import open_records
from growbin.wiring.parts import open_progress, open_queue, open_uploads, recorded_traces


def run_redrive(
    settings: Settings, selection: EndedSelection, say: Callable[[str], None], *, is_dry: bool
) -> int:
    """`growbin redrive`; returns the exit status."""
    logs.configure_logs(settings.log_level, settings.log_format)

    async def run() -> int:
        async with AsyncExitStack() as stack:
            parts = RedriveParts(
                records=await stack.enter_async_context(open_records(settings)),
                progress=await stack.enter_async_context(open_progress(settings)),
                uploads=await stack.enter_async_context(open_uploads(settings)),
                queue=await stack.enter_async_context(open_queue(settings)),
                deadline_seconds=settings.job_deadline_seconds,
                asked_by=getpass.getuser(),
            )
            return await redrive(parts, selection, say, is_dry=is_dry)

    try:
        with recorded_traces(settings, "redrive"):
            return asyncio.run(run())
    except Unavailable as error:
        say(f"growbin redrive: {error.part} is away ({error.reason}). Only what is listed was done.")
        return 1
