"""JPEG: markers, segments and scans."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from growbin.photo_file.walk import MOST_MARKERS, PhotoFile, check_size, too_complex, unreadable

# Decoded row by row and shrunk meanwhile, its pixels cost time only.
MOST_PIXELS = 200_000_000
# In several scans (progressive), all coefficients are held: two bytes each, 110 megapixels at 4:2:0.
MOST_COEFFICIENT_BYTES = 332_000_000
# Blocks of 8 x 8, counted once in each scan that walks over them; ten scans of such a picture are 26 million.
MOST_BLOCK_VISITS = 60_000_000

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
_BASELINE_FRAMES, _PROGRESSIVE_FRAME = (0xC0, 0xC1), 0xC2
_TABLES = (0xC4, 0xDB, 0xDD)
_FRAMES = tuple(code for code in range(0xC0, 0xD0) if code not in (0xC4, 0xC8, 0xCC))
_SCAN, _END = 0xDA, 0xD9
_WITHOUT_CONTENT = (0x01, *range(0xD0, 0xD9))
_MARKER = re.compile(rb"\xff[^\x00\xff]")  # whatever stands before it is filler
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # stuffed zeros and restarts belong to the scan

_EXIF, _XMP, _PROFILE = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"


@dataclass(frozen=True, slots=True)
class _Frame:
    width: int
    height: int
    is_progressive: bool
    blocks: dict[int, int]  # of each component


@dataclass(slots=True)
class _Metadata:
    """What is used of it, and dropped then."""

    exif: bytes = b""
    xmp: bytes = b""
    profile_parts: list[bytes] = field(default_factory=list)

    def take(self, content: bytes) -> None:
        if content.startswith(_EXIF):
            self.exif += content.removeprefix(_EXIF)  # what is too long for one segment goes on in the next
        elif content.startswith(_XMP):
            self.xmp = self.xmp or content.removeprefix(_XMP)
        elif content.startswith(_PROFILE):
            self.profile_parts.append(content.removeprefix(_PROFILE))

    @property
    def profile(self) -> bytes:
        """Empty unless each of its parts (number, count, bytes) is there."""
        parts = sorted(self.profile_parts)
        is_whole = [part[:2] for part in parts] == [bytes((n + 1, len(parts))) for n in range(len(parts))]
        return b"".join(part[2:] for part in parts) if is_whole and len(parts) < 256 else b""


class _Segment(NamedTuple):
    code: int
    content: bytes
    scan: bytes = b""  # what follows a scan's header
    ends_file: bool = False  # no marker comes after it

    @property
    def bytes(self) -> bytes:
        return b"\xff" + bytes((self.code,)) + (len(self.content) + 2).to_bytes(2) + self.content + self.scan


def read_jpeg(data: bytes) -> PhotoFile:
    """Raises JobFailed(photo_unreadable | photo_too_complex)."""
    frame: _Frame | None = None
    is_buffered: bool | None = None
    metadata, kept, visits, is_cut = _Metadata(), [SOI], 0, True
    for segment in _segments(data):
        code = segment.code
        if code in _FRAMES:
            if frame is not None or code not in (*_BASELINE_FRAMES, _PROGRESSIVE_FRAME):
                raise unreadable(f"frame {code:02x}")
            frame = _frame(segment)
            kept.append(segment.bytes)
        elif code == _SCAN and frame is not None:
            blocks = _blocks_of(segment, frame)
            if is_buffered is None:
                is_buffered = frame.is_progressive or len(blocks) < len(frame.blocks)
                _check(frame, is_buffered)
            visits += sum(blocks)
            if visits > MOST_BLOCK_VISITS:
                raise too_complex("scans")
            kept.append(segment.bytes)
            if not is_buffered:  # all that it has
                is_cut = segment.ends_file
                break
        elif code == _END:
            is_cut = False
        elif code in _TABLES or segment.content.startswith((b"JFIF\0", b"Adobe")):
            kept.append(segment.bytes)
        else:
            metadata.take(segment.content)
    if frame is None or is_buffered is None:
        raise unreadable("no picture in it")
    return PhotoFile(
        "JPEG",
        b"".join((*kept, EOI)),
        frame.width,
        frame.height,
        is_cut=is_cut,
        exif=metadata.exif,
        xmp=metadata.xmp,
        profile=metadata.profile,
    )


def _segments(data: bytes) -> Iterator[_Segment]:
    at = len(SOI)
    for _ in range(MOST_MARKERS):
        marker = _MARKER.search(data, at)
        if marker is None:
            return
        at, code = marker.end(), data[marker.end() - 1]
        if code in _WITHOUT_CONTENT:
            continue
        if code == _END:
            yield _Segment(code, b"")
            return
        length = max(2, int.from_bytes(data[at : at + 2]))  # some write 0
        content = data[at + 2 : at + length]
        at += length
        if code != _SCAN:
            yield _Segment(code, content)
            continue
        end = _END_OF_SCAN.search(data, at)
        begin, at = at, end.start() if end else len(data)
        yield _Segment(code, content, data[begin:at], ends_file=end is None)
    raise too_complex("markers")


def _frame(segment: _Segment) -> _Frame:
    """Precision, height, width, and for each component its number, sampling (two halves of a byte), table."""
    content = segment.content
    if len(content) < 6 or len(content) < 6 + 3 * content[5]:
        raise unreadable("frame")
    height, width = int.from_bytes(content[1:3]), int.from_bytes(content[3:5])
    check_size(width, height, MOST_PIXELS)
    sampling = {
        content[at]: (content[at + 1] >> 4, content[at + 1] & 15) for at in range(6, 6 + 3 * content[5], 3)
    }
    if not sampling or not all(1 <= factor <= 4 for factors in sampling.values() for factor in factors):
        raise unreadable("sampling")
    across = math.ceil(width / 8 / max(horizontal for horizontal, _ in sampling.values()))
    down = math.ceil(height / 8 / max(vertical for _, vertical in sampling.values()))
    blocks = {number: across * down * factors[0] * factors[1] for number, factors in sampling.items()}
    return _Frame(width, height, segment.code == _PROGRESSIVE_FRAME, blocks)


def _blocks_of(scan: _Segment, frame: _Frame) -> list[int]:
    """Of each component in the scan."""
    count = scan.content[0] if scan.content else 0
    numbers = scan.content[1 : 1 + 2 * count : 2]
    if not numbers or not set(numbers) <= frame.blocks.keys():
        raise unreadable("scan")
    return [frame.blocks[number] for number in numbers]


def _check(frame: _Frame, is_buffered: bool) -> None:
    if is_buffered and sum(frame.blocks.values()) * 64 * 2 > MOST_COEFFICIENT_BYTES:
        raise too_complex(f"{frame.width} x {frame.height} pixels in several scans")
