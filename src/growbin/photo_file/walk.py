"""The noun of a walk, and what all walks share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from growbin.errors import JobFailed

# The files of cameras and editors have a few hundred; to step over so many takes a hundredth of a second.
MOST_MARKERS = 10_000
# A file may end a little early: what is lost then is less than this share of the picture, at its lower edge.
LOST_SHARE = 1 / 32


@dataclass(frozen=True, slots=True)
class PhotoFile:
    """A photo before it is decoded. `data` is the file without what is dropped anyway (metadata, profile,
    previews, further frames), so that none of it can spoil good pixels or keep their decoder busy."""

    kind: Literal["JPEG", "PNG", "WEBP", "HEIF"]
    data: bytes
    width: int
    height: int
    is_cut: bool = False  # it ends before its end
    exif: bytes = b""
    xmp: bytes = b""
    profile: bytes = b""


def too_complex(reason: str) -> JobFailed:
    return JobFailed("photo_too_complex", reason)


def unreadable(reason: str) -> JobFailed:
    return JobFailed("photo_unreadable", reason)


def check_size(width: int, height: int, most_pixels: int) -> None:
    if width < 1 or height < 1:
        raise unreadable(f"{width} x {height} pixels")
    if width * height > most_pixels:
        raise too_complex(f"{width} x {height} pixels")
