"""`growbin evaluate`: the analyst that is asked, and what it is asked with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from pydantic import SecretStr

from growbin.adapters.photo_cleaner import ChildPhotoCleaner
from growbin.capabilities import CALL_SETTINGS
from growbin.commands.evaluate import Analyse, Stopped, Wishes, evaluate
from growbin.config import Settings
from growbin.consumer.one_photo import analyse_photo
from growbin.embedded_model.server import MODEL_ID
from growbin.labelled_photos import BadPhotos
from growbin.local.child import PartFailed
from growbin.local.parts.programs import ModelServerProgram
from growbin.wiring.consumer import open_analyst, thresholds_by_model
from growbin.wiring.parts import CannotStart, rulebook

EMBEDDED_DATA = Path("var/evaluate")  # its built model, its key and log


def run_evaluate(settings: Settings, wishes: Wishes, complain: Callable[[str], None]) -> int:
    """`growbin evaluate`; returns the exit status. Without a model in the settings the embedded one is
    asked."""
    logging.disable()  # what fails is said in a sentence
    is_embedded = not settings.openai_api_key.get_secret_value() and settings.openai_base_url is None
    model = MODEL_ID if is_embedded else settings.openai_model
    kept = f" What was answered is in {wishes.results}: run again to go on." if wishes.results else ""
    try:
        return asyncio.run(
            evaluate(wishes, model, partial(_opened, settings, is_embedded, wishes.concurrency))
        )
    except KeyboardInterrupt:
        complain(f"growbin evaluate: stopped.{kept}")
        return 130
    except Stopped as error:
        complain(f"growbin evaluate: {error}{kept}")
    except (BadPhotos, CannotStart, PartFailed) as error:
        complain(f"growbin evaluate: {error}")
    return 1


@asynccontextmanager
async def _opened(settings: Settings, is_embedded: bool, concurrency: int) -> AsyncIterator[Analyse]:
    async with AsyncExitStack() as stack:
        if is_embedded:
            settings = await stack.enter_async_context(_embedded_model(settings))
        analyst = await stack.enter_async_context(open_analyst(settings))
        cleaner = await stack.enter_async_context(
            ChildPhotoCleaner.open(
                max_pixels=settings.photo_max_pixels,
                max_side=settings.photo_model_side,
                children=concurrency,
            )
        )
        yield partial(
            analyse_photo,
            cleaner=cleaner,
            analyst=analyst,
            rules=rulebook(settings),
            locale="ko",
            thresholds_of=thresholds_by_model(settings),
        )


@asynccontextmanager
async def _embedded_model(settings: Settings) -> AsyncIterator[Settings]:
    """Its server, as a child, and the settings that lead to it."""
    data = await asyncio.to_thread(EMBEDDED_DATA.resolve)
    part = ModelServerProgram(data, {}, MODEL_ID)
    try:
        await part.start()
        await part.ready()
        yield settings.model_copy(
            update={
                "openai_base_url": part.settings()["OPENAI_BASE_URL"],
                "openai_api_key": SecretStr(part.settings()["OPENAI_API_KEY"]),
                "openai_model": MODEL_ID,
                **dict.fromkeys(map(str.lower, CALL_SETTINGS)),
            }
        )
    finally:
        await part.stop()
