"""`growbin evaluate`: how often an analyst is right about labelled photos, and whether it knows.

The bar goes to stderr, the report to stdout. What was answered is kept as it comes, so that a run which was
stopped, or one with more photos, asks only for the rest.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from growbin.commands.evaluation_picture import draw
from growbin.commands.evaluation_report import Report
from growbin.commands.evaluation_results import (
    NO_ANSWER_YET,
    Known,
    PhotoResult,
    keep,
    read_results,
    results_file,
)
from growbin.commands.progress_bars import ProgressBar, ProgressBars
from growbin.errors import Throttled, Unavailable
from growbin.labelled_photos import BadPhotos, LabelledPhoto, find_photos
from growbin.measurements import PhotoAnswer
from growbin.ports import RETRY_DELAYS_SECONDS
from growbin.scores import compare

TRIES = 3  # of a photo while the model is away; one that asks for patience gets a few more
SILENT_PHOTOS = 3  # given up one after the other: then the model is not there

Analyse = Callable[[bytes], Awaitable[PhotoAnswer]]
OpenAnalyst = Callable[[], AbstractAsyncContextManager[Analyse]]
Photos = Mapping[tuple[str, str], LabelledPhoto]  # by the key of their results


class Stopped(Exception):
    """It makes no sense to go on; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What was asked for on the command line."""

    source: Path
    results: Path | None = None
    compare: Path | None = None
    picture: Path | None = None
    limit: int | None = None
    seed: int = 0
    concurrency: int = 2
    as_json: bool = False


async def evaluate(wishes: Wishes, model: str, open_analyst: OpenAnalyst) -> int:
    """Ask `model` about every photo that it has not answered yet, then tell how it did; the exit status.

    Raises Stopped and BadPhotos: what was answered by then is in the file of the results.
    """
    found = await asyncio.to_thread(find_photos, wishes.source, wishes.limit, wishes.seed)
    photos = await asyncio.to_thread(lambda: {_key(photo): photo for photo in found})
    other = _others(wishes.compare, photos) if wishes.compare else {}
    has_results = wishes.results is not None and wishes.results.exists()
    answered = dict(read_results(wishes.results, model)) if wishes.results and has_results else {}
    missing = [key for key in photos if key not in answered or answered[key].error == NO_ANSWER_YET]
    if missing:
        with results_file(wishes.results) as file:
            bars = ProgressBars(sys.stderr, "en", is_quiet=wishes.as_json, usual_seconds=None)
            bar = bars.add(wishes.source)
            bars.begin(bar)
            async with open_analyst() as analyse, bars.drawn():
                asking = _Asking(model, analyse, file, bars, bar, len(missing))
                await asking.ask_all({key: photos[key] for key in missing}, wishes.concurrency)
                answered |= asking.results
    report = _report(model, [_labelled(answered[key], photo) for key, photo in photos.items()], other)
    told = json.dumps(report.as_json(), ensure_ascii=False) + "\n" if wishes.as_json else report.table()
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal may know no Hangul
    sys.stdout.write(told)
    if wishes.picture:
        _save_picture(report, wishes.picture)
    return 0


def _key(photo: LabelledPhoto) -> tuple[str, str]:
    try:
        return photo.name, hashlib.sha256(photo.path.read_bytes()).hexdigest()
    except OSError as error:
        raise BadPhotos(f"{photo.path} cannot be read: {error.strerror}.") from None


def _labelled(result: PhotoResult, photo: LabelledPhoto) -> PhotoResult:
    """With the label that the photo has today: to correct one needs no new answer."""
    told = {"label": photo.label, "collection": photo.collection, "object": photo.object}
    return result.model_copy(update=told)


def _others(path: Path, photos: Photos) -> Known:
    """What another model said of the same photos."""
    found = read_results(path)
    same = {key: _labelled(found[key], photo) for key, photo in photos.items() if key in found}
    if not same:
        raise BadPhotos(f"{path} holds none of these photos: compare results of the same folder.")
    return same


def _report(model: str, results: Sequence[PhotoResult], other: Known) -> Report:
    if not other:
        return Report(results, model)
    pairs = [(one.is_right, other[one.key].is_right) for one in results if one.key in other]
    models = sorted({result.model for result in other.values()})
    return Report(results, model, ", ".join(models), compare(pairs))


def _save_picture(report: Report, path: Path) -> None:
    try:
        draw(report).save(path, "PNG")
    except OSError as error:
        raise BadPhotos(f"{path} cannot be written: {error.strerror}.") from None


class _Asking:
    """One run over the photos that are still without an answer."""

    def __init__(
        self, model: str, analyse: Analyse, file: BinaryIO, bars: ProgressBars, bar: ProgressBar, total: int
    ) -> None:
        self._model = model
        self._analyse = analyse
        self._file = file
        self._bars = bars
        self._bar = bar
        self._total = total
        self._silent = 0  # photos given up since the last answer
        self.results: dict[tuple[str, str], PhotoResult] = {}

    async def ask_all(self, photos: Photos, concurrency: int) -> None:
        """Raises Stopped."""
        waiting = iter(photos.items())

        async def work() -> None:
            for key, photo in waiting:
                self.results[key] = result = await self._ask(key, photo)
                keep(self._file, result)
                self._show()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(work())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        self._bars.end(self._bar, f"{len(self.results)} photos asked")

    async def _ask(self, key: tuple[str, str], photo: LabelledPhoto) -> PhotoResult:
        name, sha256 = key
        answer = await self._patiently(await asyncio.to_thread(photo.path.read_bytes))
        item, spent = answer.item, answer.answer.usage if answer.answer else None
        return PhotoResult(
            path=name,
            sha256=sha256,
            label=photo.label,
            collection=photo.collection,
            object=photo.object,
            model=self._model,
            category=item.category if item else None,
            material=item.material if item else None,
            confidence=item.confidence if item else None,
            sure=answer.is_sure,
            ms=answer.duration_ms,
            input_tokens=spent.input_tokens if spent else 0,
            output_tokens=spent.output_tokens if spent else 0,
            cost_usd=spent.cost_usd if spent else None,
            error=answer.failure,
        )

    async def _patiently(self, data: bytes) -> PhotoAnswer:
        """The answer, however often the model must be asked. A photo that cannot be answered for now costs
        nobody else's; a model that is not there ends the run."""
        reason = ""
        for tries, pause_seconds in enumerate(RETRY_DELAYS_SECONDS, 1):
            wanted_seconds = None
            try:
                answer = await self._analyse(data)
            except Throttled as refusal:
                if refusal.broken:
                    raise Stopped(
                        f"the model refuses every photo ({refusal.reason}): "
                        "check OPENAI_API_KEY, OPENAI_MODEL and the account's quota."
                    ) from None
                reason, wanted_seconds = refusal.reason, refusal.retry_after_seconds
                if refusal.away and tries == TRIES:
                    break
            except Unavailable as away:
                reason = away.reason
                if tries == TRIES:
                    break
            else:
                if answer.answer:  # a broken photo fails without the model
                    self._silent = 0
                return answer
            self._show(f", waiting for the model ({reason})")
            await asyncio.sleep(wanted_seconds or pause_seconds)
        self._silent += 1
        if self._silent >= SILENT_PHOTOS:
            raise Stopped(
                f"the model does not answer ({reason}): try it with `growbin doctor`, then run again."
            )
        return PhotoAnswer(duration_ms=0, failure=NO_ANSWER_YET)

    def _show(self, more: str = "") -> None:
        done = len(self.results)
        percent = done * 100 // self._total
        if more or percent > self._bar.progress:
            self._bars.show(self._bar, percent, f"{done} of {self._total} photos{more}")
