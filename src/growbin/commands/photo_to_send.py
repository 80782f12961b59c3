"""A photo before it leaves the terminal: looked at, and made small enough, as the page does it."""

from __future__ import annotations

import sys
from pathlib import Path

from growbin.errors import JobFailed
from growbin.job import ContentType
from growbin.photo_file.by_type import read_photo_file, sniff

LONGEST_SIDE = 2048
MAX_BYTES = 10 * 2**20


class UnusablePhoto(Exception):
    """There is no photo to send; `code` is a stable word, the text says what to do."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def photo_to_send(path: Path) -> tuple[bytes, ContentType]:
    """What to upload, and its type. What is larger than 2,048 pixels or 10 MB becomes a smaller JPEG: that
    saves time, and leaves camera and place behind. Raises UnusablePhoto."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnusablePhoto("unreadable_file", f"The file cannot be read: {error.strerror}.") from None
    content_type = sniff(data)
    if content_type is None:
        raise UnusablePhoto("unsupported_photo", "This is no JPEG, PNG, WebP or HEIC photo.")
    small = _made_small(data)
    if small is not None:
        return small, "image/jpeg"
    if len(data) > MAX_BYTES:
        detail = f"The photo has {len(data) / 2**20:.1f} MB and cannot be made smaller here; 10 MB are taken."
        raise UnusablePhoto("photo_too_large", detail)
    return data, content_type


def _made_small(data: bytes) -> bytes | None:
    """None when it is small, or when we cannot read it: the service says then what is wrong with it."""
    try:
        file = read_photo_file(data)
        if max(file.width, file.height) <= LONGEST_SIDE and len(data) <= MAX_BYTES:
            return None
        from growbin.photo import clean  # the decoders take a moment to import

        return clean(data, "image/jpeg", sys.maxsize, LONGEST_SIDE).data
    except JobFailed:
        return None
