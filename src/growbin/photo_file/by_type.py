"""The type of a photo, and its walk."""

from __future__ import annotations

from growbin.errors import JobFailed
from growbin.job import ContentType
from growbin.photo_file import heif, png
from growbin.photo_file.heif import read_heif
from growbin.photo_file.jpeg import read_jpeg
from growbin.photo_file.png import read_png
from growbin.photo_file.walk import PhotoFile
from growbin.photo_file.webp import read_webp

_WALKS = {
    "image/jpeg": read_jpeg,
    "image/png": read_png,
    "image/webp": read_webp,
    "image/heic": read_heif,
}


def sniff(head: bytes) -> ContentType | None:
    """The type that the first bytes (64 are enough) show, or None when it is not one we take."""
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(png.SIGNATURE):
        return "image/png"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    return "image/heic" if heif.is_heif(head) else None


def read_photo_file(data: bytes) -> PhotoFile:
    """Raises JobFailed(unsupported_photo | photo_unreadable | photo_too_complex)."""
    content_type = sniff(data)
    if content_type is None:
        raise JobFailed("unsupported_photo")
    return _WALKS[content_type](data)
