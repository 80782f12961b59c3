"""growbin's consumer as it is, but photo, S3 and model cost nothing: what is left is the consumer.

python -m bench.references.faked_growbin consumer
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import Any

from bench.references.naive_job import SETTINGS
from growbin.cli import main
from growbin.consumer.context import Consumer
from growbin.job import CleanPhoto, FetchedPhoto, ModelAnswer
from growbin.wiring import consumer as wiring
from tests.model_personalities import ANSWER


class Faked:
    """Photo source, cleaner, bucket and model in one."""

    async def fetch(self, *_: object) -> FetchedPhoto:
        return FetchedPhoto(b"photo", "cdn", "miss")

    async def clean(self, *_: object, **__: object) -> CleanPhoto:
        return CleanPhoto(b"photo", "image/jpeg", 1, 1)

    async def publish_photo(self, *_: object) -> None:
        pass

    async def ask(self, *_: object) -> ModelAnswer:
        await asyncio.sleep(float(SETTINGS["BENCH_FAKED_SECONDS"]))
        return ModelAnswer(text=ANSWER)


def fake() -> None:
    opened_consumer, faked = wiring.opened_consumer, Faked()

    async def opened(*arguments: Any) -> Consumer:
        consumer = await opened_consumer(*arguments)
        ports: dict[str, Any] = dict.fromkeys(("photos", "cleaner", "uploads", "analyst"), faked)
        return replace(consumer, **ports)

    wiring.opened_consumer = opened  # type: ignore[assignment]  # it hands on whatever it is given


if __name__ == "__main__":
    fake()
    sys.exit(main())
