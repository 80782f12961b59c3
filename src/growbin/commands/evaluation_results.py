"""The results of an evaluation: a line of JSON for each photo and model, kept in a file so that nothing is
asked twice."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from growbin.job import Noun
from growbin.labelled_photos import BadPhotos
from growbin.photo_labels import matched_name
from growbin.taxonomy import Category, Material

NO_ANSWER_YET = "temporarily_unavailable"  # such a photo is asked again in the next run


class PhotoResult(Noun):
    """What `model` said of one photo: its first item, or the code of its failure. `ms` is from the raw
    photo to the advice."""

    path: str
    sha256: str
    label: str
    collection: str | None = None
    object: str | None = None
    model: str
    category: Category | None = None
    material: Material | None = None
    confidence: float | None = None
    sure: bool = False
    ms: int
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    error: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """The photo: a file that was changed is another one."""
        return self.path, self.sha256

    @property
    def _matched(self) -> str | None:
        return None if self.category is None else matched_name(self.label, self.category, self.material)

    @property
    def is_right(self) -> bool:
        return self._matched is not None

    @property
    def said(self) -> str:
        """The answer in one word: what made it right, else its material or category, else `failed`."""
        return self._matched or str(self.material or self.category or "failed")


Known = Mapping[tuple[str, str], PhotoResult]


def read_results(path: Path, model: str | None = None) -> Known:
    """The last line of each photo, of one model or of any. A last line that was cut off is passed over.
    Raises BadPhotos."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadPhotos(f"{path} cannot be read: {error.strerror}.") from None
    lines = _whole_lines(data).splitlines()
    if data and not data.startswith(b"{"):
        lines = [data]  # nothing of ours, so nothing to be passed over
    return {result.key: result for result in _parsed(path, lines) if model in (None, result.model)}


def _parsed(path: Path, lines: Iterable[bytes]) -> Iterator[PhotoResult]:
    for number, line in enumerate(lines, 1):
        try:
            yield PhotoResult.model_validate_json(line)
        except ValidationError:
            raise BadPhotos(
                f"{path}, line {number} is no result of `growbin evaluate`: name another file."
            ) from None


def _whole_lines(data: bytes) -> bytes:
    return data[: data.rfind(b"\n") + 1]


@contextmanager
def results_file(path: Path | None) -> Iterator[BinaryIO]:
    """To append to, after its last whole line; nowhere when there is no path. Raises BadPhotos."""
    try:
        file = (path or Path(os.devnull)).open("ab+")
    except OSError as error:
        raise BadPhotos(f"{path} cannot be written: {error.strerror}.") from None
    with file:
        if path is not None:
            file.seek(0)
            file.truncate(len(_whole_lines(file.read())))
        yield file


def keep(file: BinaryIO, result: PhotoResult) -> None:
    file.write(result.model_dump_json().encode() + b"\n")
    file.flush()  # an answer that was paid for outlives us
