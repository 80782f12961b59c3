"""HEIC files as phones write them: a grid of tiles, turned by a property, with a preview, a depth map, Exif.

The pixels are encoded by pillow-heif; the boxes around them, which it cannot write, are put together here.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from functools import cache

import pillow_heif
from PIL import Image

TILE_SIDE = 512
HIDDEN = 1


def heic(image: Image.Image, **options: object) -> bytes:
    """One picture in one piece."""
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, **options)
    return buffer.getvalue()


def phone_heic(
    columns: int,
    rows: int,
    *,
    width: int,
    height: int,
    turns: int = 0,
    exif: bytes = b"",
    is_deep: bool = False,
    is_lying: bool = False,
) -> bytes:
    """A white grid with a red tile at its top left and a blue one at its bottom right, as it is stored; shown
    turned by `turns` quarters against the clock. If it is lying, it says of each tile that it is as large as
    the whole; a deep one has ten bits."""
    colours = ["white"] * (columns * rows)
    colours[0], colours[-1] = "red", "blue"
    tiles = [_coded(colour, TILE_SIDE, is_deep) for colour in colours]
    preview, depth = _coded("white", 256, is_deep), _coded("gray", 256, is_deep)
    grid = len(tiles) + 1
    kinds = [b"hvc1"] * len(tiles) + [b"grid", b"hvc1", b"hvc1", b"Exif"]
    contents = [data for _, data in tiles]
    contents += [
        struct.pack("!BBBBII", 0, 1, rows - 1, columns - 1, width, height),
        preview[1],
        depth[1],
        struct.pack("!I", 6) + b"Exif\0\0" + exif,
    ]
    tile_size = (width, height) if is_lying else (TILE_SIDE, TILE_SIDE)
    properties = [
        _box(b"hvcC", tiles[0][0]),
        _full_box(b"ispe", struct.pack("!II", *tile_size)),
        _full_box(b"ispe", struct.pack("!II", width, height)),
        _box(b"irot", bytes((turns,))),
        _box(b"hvcC", preview[0]),
        _full_box(b"ispe", struct.pack("!II", 256, 256)),
        _full_box(b"auxC", b"urn:mpeg:hevc:2015:auxid:2\0"),
    ]
    uses: dict[int, tuple[int, ...]] = dict.fromkeys(range(1, grid), (1, 2))
    uses |= {grid: (3, 4), grid + 1: (5, 6), grid + 2: (5, 6, 7)}
    references = [
        (b"dimg", grid, range(1, grid)),
        (b"thmb", grid + 1, (grid,)),
        (b"auxl", grid + 2, (grid,)),
        (b"cdsc", grid + 3, (grid,)),
    ]
    return _file(kinds, contents, properties, uses, references, primary=grid)


@cache
def _coded(colour: str, side: int, is_deep: bool) -> tuple[bytes, bytes]:
    """The decoder's configuration, and the coded pixels of a square."""
    image = Image.new("RGB", (side, side), colour)
    if is_deep:
        samples = bytes(byte for byte in image.tobytes() for _ in range(2))
        buffer = io.BytesIO()
        pillow_heif.from_bytes(mode="RGB;16", size=image.size, data=samples).save(buffer, quality=60)
        file = buffer.getvalue()
    else:
        file = heic(image, quality=60)
    return _content_of(file, b"hvcC"), _content_of(file, b"mdat")


def _content_of(file: bytes, kind: bytes) -> bytes:
    at = file.index(kind) - 4
    return file[at + 8 : at + int.from_bytes(file[at : at + 4])]


def _file(
    kinds: Sequence[bytes],
    contents: Sequence[bytes],
    properties: Sequence[bytes],
    uses: dict[int, tuple[int, ...]],
    references: Sequence[tuple[bytes, int, Sequence[int]]],
    primary: int,
) -> bytes:
    """Items are numbered from 1; only the primary one is not hidden."""
    entries = [
        _full_box(
            b"infe",
            struct.pack("!HH4s", number, 0, kind) + b"\0",
            version=2,
            flags=HIDDEN * (number != primary),
        )
        for number, kind in enumerate(kinds, 1)
    ]
    pointers = [
        _box(kind, struct.pack(f"!HH{len(to)}H", number, len(to), *to)) for kind, number, to in references
    ]
    chosen = [struct.pack("!HB", number, len(used)) + bytes(used) for number, used in uses.items()]

    def meta(first_byte: int) -> bytes:
        places, at = [], first_byte
        for number, content in enumerate(contents, 1):
            places.append(struct.pack("!HHHII", number, 0, 1, at, len(content)))
            at += len(content)
        return _full_box(
            b"meta",
            _full_box(b"hdlr", b"\0\0\0\0pict" + bytes(13))
            + _full_box(b"pitm", struct.pack("!H", primary))
            + _full_box(b"iloc", b"\x44\0" + struct.pack("!H", len(places)) + b"".join(places))
            + _full_box(b"iinf", struct.pack("!H", len(entries)) + b"".join(entries))
            + _full_box(b"iref", b"".join(pointers))
            + _box(
                b"iprp",
                _box(b"ipco", b"".join(properties))
                + _full_box(b"ipma", struct.pack("!I", len(chosen)) + b"".join(chosen)),
            ),
        )

    head = _box(b"ftyp", b"heic\0\0\0\0mif1heic")
    return head + meta(len(head) + len(meta(0)) + 8) + _box(b"mdat", b"".join(contents))


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack("!I", len(content) + 8) + kind + content


def _full_box(kind: bytes, content: bytes, version: int = 0, flags: int = 0) -> bytes:
    return _box(kind, struct.pack("!I", version << 24 | flags) + content)
