"""The fallback: the embedded model as a child of the consumer, asked like any other model."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from growbin.adapters.model.analyst import OpenAIAnalyst
from growbin.config import Settings
from growbin.embedded_model.server import MODEL_ID
from growbin.local.child import PartFailed
from growbin.local.parts.programs import ModelServerProgram
from growbin.wiring.parts import CannotStart

log = structlog.get_logger()

RESTART_PAUSE_SECONDS = 1.0


@asynccontextmanager
async def open_fallback(settings: Settings) -> AsyncIterator[OpenAIAnalyst | None]:
    """None where none is set. Raises CannotStart."""
    if settings.fallback_model is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="growbin-fallback-") as folder:
        part = ModelServerProgram(Path(folder), {}, MODEL_ID)
        try:
            await _start(part)
            keeper = asyncio.create_task(_keep_running(part), name="fallback")
            async with OpenAIAnalyst.open(
                api_key=part.settings()["OPENAI_API_KEY"],
                base_url=part.settings()["OPENAI_BASE_URL"],
                model=MODEL_ID,
                timeout_seconds=settings.model_timeout_seconds,
            ) as analyst:
                yield analyst
            keeper.cancel()
        except PartFailed as error:
            raise CannotStart(
                "FALLBACK_MODEL=embedded needs the embedded model: install growbin[model], or use the image"
                f" growbin-model. {error}"
            ) from None
        finally:
            await part.stop()


async def _start(part: ModelServerProgram) -> None:
    await part.start()
    await part.ready()


async def _keep_running(part: ModelServerProgram) -> None:
    while True:
        code = await part.ended()
        log.error("fallback_ended", exit_code=code)
        await asyncio.sleep(RESTART_PAUSE_SECONDS)
        try:
            await _start(part)
        except PartFailed as error:
            log.error("fallback_not_started", reason=str(error))
            await part.kill()
