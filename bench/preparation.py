"""What it costs to make a photo ready for the model, beside bare Pillow that does the same: decode, turn
upright, shrink, encode. Both run in this process, in turn, on the same photos; their pictures are compared.
"""

from __future__ import annotations

import io
import time
from collections.abc import AsyncIterator, Callable

from PIL import ExifTags, Image, ImageChops, ImageStat

from bench.instruments import OURS, Dose, Round, Wanted, in_turn, start
from bench.references.pillow import MODEL_SIDE_PIXELS, smaller
from bench.system import LARGE, SMALL
from growbin.photo import clean

MOST_PIXELS = 200_000_000
PHOTOS, QUICK_PHOTOS = 30, 5
TURN_RIGHT = 6
PILLOW = "pillow"
COST, DIFFERENCE = "CPU ms a photo", "mean difference of a pixel, of 255"
WANTED = (Wanted(COST, 0.9, PILLOW), Wanted(DIFFERENCE, 1.0))


async def measured(dose: Dose) -> AsyncIterator[Round]:
    designs: list[tuple[str, Callable[[bytes], bytes]]] = [(OURS, growbin), (PILLOW, smaller)]
    photos = {kind.name: kind.drawn() for kind in (SMALL, LARGE)}
    photos["2 MB, on its side"] = on_its_side(photos[LARGE.name])
    for case, photo in photos.items():
        differences = {OURS: difference(growbin(photo), smaller(photo)), PILLOW: 0.0}
        for name, prepare in in_turn(designs, dose.rounds):
            count = QUICK_PHOTOS if dose.is_quick else PHOTOS
            before = time.process_time()
            for _ in range(count):
                prepare(photo)
            spent = time.process_time() - before
            yield Round(case, name, {COST: spent / count * 1000, DIFFERENCE: differences[name]})


def on_its_side(photo: bytes) -> bytes:
    """As a telephone that is held upright writes it: its metadata says how it is to be turned."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = TURN_RIGHT
    block = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    return photo[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + photo[2:]


def growbin(photo: bytes) -> bytes:
    return clean(photo, "image/jpeg", MOST_PIXELS, MODEL_SIDE_PIXELS).data


def difference(one: bytes, other: bytes) -> float:
    with Image.open(io.BytesIO(one)) as mine, Image.open(io.BytesIO(other)) as theirs:
        assert mine.size == theirs.size, (mine.size, theirs.size)
        bands = ImageStat.Stat(ImageChops.difference(mine, theirs)).mean
    return sum(bands) / len(bands)


if __name__ == "__main__":
    start("preparation", measured, __doc__, *WANTED)
