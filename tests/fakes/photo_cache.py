"""The fake of ports.PhotoCache."""

from __future__ import annotations


class FakePhotoCache:
    def __init__(self) -> None:
        self.forgotten: list[str] = []

    async def forget(self, key: str) -> None:
        self.forgotten.append(key)
