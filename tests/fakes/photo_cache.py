"""The fake of ports.PhotoCache."""

from __future__ import annotations

from collections.abc import Sequence

from growbin.job import CleanPhoto
from tests.fakes.absence import MayBeAway
from tests.fakes.upload_store import FakeUploadStore


class FakePhotoCache(MayBeAway):
    """`read` plays a browser: what was read once is kept, whatever becomes of it in the store. Of `popular`
    somebody reads again what was forgotten, at once."""

    part = "cdn"

    def __init__(self) -> None:
        super().__init__()
        self.forgotten: list[list[str]] = []  # by invalidation
        self.popular: FakeUploadStore | None = None
        self._kept: dict[str, CleanPhoto] = {}

    def read(self, key: str, origin: FakeUploadStore) -> bytes | None:
        if key not in self._kept and key in origin.published:
            self._kept[key] = origin.published[key]
        return self._kept[key].data if key in self._kept else None

    async def forget(self, keys: Sequence[str]) -> None:
        self._answer()
        self.forgotten.append(list(keys))
        for key in keys:
            self._kept.pop(key, None)
            if self.popular is not None:
                self.read(key, self.popular)
