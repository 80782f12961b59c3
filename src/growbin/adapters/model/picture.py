"""A photo on its way to the model: a short mark in what `openai` is given, its base64 on the wire."""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from growbin.job import CleanPhoto

PIECE_BYTES = 96 * 1024  # a multiple of 3, so that the pieces' base64 is that of the whole
MARK_BYTES = 16


@dataclass(frozen=True, slots=True)
class Picture:
    """One call's. Written out piece by piece: while the model thinks, the photo is in memory once."""

    photo: CleanPhoto
    # Drawn when the stranger's question is there already, and for this call alone: no question can hold it.
    mark: str = field(default_factory=lambda: secrets.token_hex(MARK_BYTES))

    @property
    def url(self) -> str:
        return f"data:{self.photo.content_type};base64,{self.mark}"

    def spliced_into(self, body: bytes) -> tuple[int, AsyncIterator[bytes]]:
        """The length in bytes and the pieces of `body` with the photo in the mark's place. Raises ValueError
        unless there is one such place."""
        head, tail = body.split(self.mark.encode())
        return len(head) + -(-len(self.photo.data) // 3) * 4 + len(tail), self._pieces(head, tail)

    async def _pieces(self, head: bytes, tail: bytes) -> AsyncIterator[bytes]:
        yield head
        data = memoryview(self.photo.data)
        for at in range(0, len(data), PIECE_BYTES):
            yield base64.b64encode(data[at : at + PIECE_BYTES])
        yield tail
