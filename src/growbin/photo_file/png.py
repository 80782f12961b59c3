"""PNG: chunks."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from growbin.photo_file.walk import MOST_MARKERS, PhotoFile, check_size, too_complex

# Held whole, with up to four bytes a pixel, whether it has alpha or not.
MOST_PIXELS = 64_000_000
MOST_PROFILE_BYTES = 1 << 22  # unpacked

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"IEND"
_PIXELS = (b"IHDR", b"PLTE", b"IDAT")
_GREY, _RGB = 0, 2
_XMP = b"XML:com.adobe.xmp\0\0\0"  # not compressed, as it should be


def read_png(data: bytes) -> PhotoFile:
    """Raises JobFailed(photo_unreadable | photo_too_complex)."""
    kept, depth, colour, width, height = [SIGNATURE], 0, 0, 0, 0
    exif = xmp = profile = b""
    for kind, content, chunk in _chunks(data):
        if kind == b"IHDR" and len(content) == 13:
            width, height = int.from_bytes(content[:4]), int.from_bytes(content[4:8])
            depth, colour = content[8], content[9]
        if kind in _PIXELS:
            kept.append(chunk)
        elif kind == b"tRNS":
            kept.append(_chunk(kind, _as_decoded(content, depth, colour)))
        elif kind == b"eXIf":
            exif = content
        elif kind == b"iTXt" and content.startswith(_XMP):
            xmp = content
        elif kind == b"iCCP":
            profile = _unpacked(content.partition(b"\0")[2][1:])
    check_size(width, height, MOST_PIXELS)
    return PhotoFile(
        "PNG", b"".join((*kept, _chunk(_END, b""))), width, height, exif=exif, xmp=xmp, profile=profile
    )


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Kind, content, and the chunk as it stands, with its checksum."""
    at = len(SIGNATURE)
    for _ in range(MOST_MARKERS):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        if len(kind) < 4 or kind == _END:
            return
        yield kind, data[at + 8 : at + 8 + length], data[at : at + 12 + length]
        at += 12 + length
    raise too_complex("chunks")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)


def _as_decoded(transparent: bytes, depth: int, colour: int) -> bytes:
    """The transparent colour as it stands beside the decoded pixels, which have eight bits, or sixteen if
    they are grey: Pillow compares the two as they are."""
    samples = [int.from_bytes(transparent[at : at + 2]) for at in range(0, len(transparent) - 1, 2)]
    if colour == _GREY and depth in (2, 4):
        samples = [min(255, sample * 255 // (2**depth - 1)) for sample in samples]
    elif colour == _RGB and depth == 16:
        samples = [sample >> 8 for sample in samples]
    else:
        return transparent
    return b"".join(sample.to_bytes(2) for sample in samples)


def _unpacked(packed: bytes) -> bytes:
    """Empty when it is too long or broken: pixels can be shown without a profile."""
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(packed, MOST_PROFILE_BYTES)
    except zlib.error:
        return b""
    return profile if unpacker.eof else b""
