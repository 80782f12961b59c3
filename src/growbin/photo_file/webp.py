"""WebP: chunks of a RIFF file."""

from __future__ import annotations

from growbin.photo_file.walk import LOST_SHARE, MOST_MARKERS, PhotoFile, check_size, too_complex, unreadable

# The decoder keeps two canvases beside the picture, four bytes a pixel each, whether it has alpha or not.
MOST_PIXELS = 26_000_000

_LOSSY, _LOSSLESS, _EXTENDED, _FRAME = b"VP8 ", b"VP8L", b"VP8X", b"ANMF"
_KEPT = (b"ANIM", _FRAME, b"ALPH", _LOSSY, _LOSSLESS)  # in the order in which they have to stand
_ALPHA_AND_ANIMATION = 0x10 | 0x02  # the flags of what is kept


def read_webp(data: bytes) -> PhotoFile:
    """Raises JobFailed(photo_unreadable | photo_too_complex)."""
    chunks = _first_chunks(data)
    if extended := chunks.get(_EXTENDED):
        width, height = _number(extended, 4, 3) + 1, _number(extended, 7, 3) + 1
        flags = bytes((extended[0] & _ALPHA_AND_ANIMATION,))
        kept = [_chunk(_EXTENDED, flags + extended[1:])]
    else:
        width, height = _size(chunks)
        kept = []
    check_size(width, height, MOST_PIXELS)
    kept += [_chunk(kind, chunks[kind]) for kind in _KEPT if kind in chunks]
    body = b"WEBP" + b"".join(kept)
    return PhotoFile(
        "WEBP",
        b"RIFF" + len(body).to_bytes(4, "little") + body,
        width,
        height,
        exif=chunks.get(b"EXIF", b""),
        xmp=chunks.get(b"XMP ", b""),
        profile=chunks.get(b"ICCP", b""),
    )


def _first_chunks(data: bytes) -> dict[bytes, bytes]:
    """The first of each kind; one that is cut is left out, but for pixels that end a little early."""
    chunks: dict[bytes, bytes] = {}
    at, end = 12, min(len(data), 8 + _number(data, 4, 4))
    for _ in range(MOST_MARKERS):
        if at + 8 > end:
            return chunks
        kind, length = data[at : at + 4], _number(data, at + 4, 4)
        content = data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
        lost_bytes = length - len(content)
        if kind in (_LOSSY, _LOSSLESS) and lost_bytes < length * LOST_SHARE:
            content = content.ljust(length, b"\0")
        if len(content) == length:
            chunks.setdefault(kind, content)
    raise too_complex("chunks")


def _size(chunks: dict[bytes, bytes]) -> tuple[int, int]:
    if picture := chunks.get(_LOSSY):
        return _number(picture, 6, 2) & 0x3FFF, _number(picture, 8, 2) & 0x3FFF
    if picture := chunks.get(_LOSSLESS):
        bits = _number(picture, 1, 4)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise unreadable("no picture in it")


def _number(data: bytes, at: int, count: int) -> int:
    return int.from_bytes(data[at : at + count], "little")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return kind + len(content).to_bytes(4, "little") + content + b"\0" * (len(content) % 2)
