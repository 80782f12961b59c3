"""HEIC and HEIF: boxes."""

from __future__ import annotations

import re

from growbin.photo_file.walk import MOST_MARKERS, PhotoFile, check_size, too_complex, unreadable

# Phones' 48 and 50 megapixels: decoded to planes, then to three bytes a pixel, which stand side by side.
MOST_PIXELS = 51_000_000
MOST_DEEP_PIXELS = 36_000_000  # of more than eight bits: each takes two bytes in the planes

# Coded with HEVC. `mif1` and `msf1` say nothing of the coding: then one of these has to follow.
_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
_OPEN_BRANDS = frozenset((b"mif1", b"mif2", b"msf1"))
_DEPTH = re.compile(rb"hvcC.{17}(.)", re.DOTALL)  # of brightness, less eight, in the last three bits
_SIZE = re.compile(rb"ispe\0{4}(.{4})(.{4})", re.DOTALL)


def is_heif(head: bytes) -> bool:
    """Of a file that begins so (64 bytes are enough)."""
    if head[4:8] != b"ftyp":
        return False
    end = min(len(head), int.from_bytes(head[:4]), 64)
    others = {head[at : at + 4] for at in range(16, end - 3, 4)}
    return head[8:12] in _BRANDS or (head[8:12] in _OPEN_BRANDS and not others.isdisjoint(_BRANDS))


def read_heif(data: bytes) -> PhotoFile:
    """The size is that of the largest picture in it: a grid says that of the whole, beside that of its tiles.

    Raises JobFailed(photo_unreadable | photo_too_complex)."""
    description = _description(data)
    sizes = [(int.from_bytes(width), int.from_bytes(height)) for width, height in _SIZE.findall(description)]
    if not sizes:
        raise unreadable("no picture in it")
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    is_deep = any(depth[0] & 7 for depth in _DEPTH.findall(description))
    check_size(width, height, MOST_DEEP_PIXELS if is_deep else MOST_PIXELS)
    return PhotoFile("HEIF", data, width, height)


def _description(data: bytes) -> bytes:
    """The content of the `meta` box."""
    at = 0
    for _ in range(MOST_MARKERS):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        if length == 1:  # then it follows, longer
            length = int.from_bytes(data[at + 8 : at + 16])
        if kind == b"meta":
            return data[at : at + length] if length else data[at:]
        if length < 8:
            break
        at += length
    else:
        raise too_complex("boxes")
    raise unreadable("no description in it")
