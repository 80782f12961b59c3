"""What it costs to make a photo ready for the model, beside bare Pillow that does the same: decode, turn
upright, shrink, encode. Both run in this process, in turn, on the same photos; their pictures are compared.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable

from PIL import ExifTags, Image, ImageChops, ImageOps, ImageStat

from bench.instruments import OURS, Dose, Round, Wanted, in_turn, report, start
from bench.system import LARGE, SMALL
from growbin.photo import clean

MODEL_SIDE, MOST_PIXELS = 1024, 200_000_000
PHOTOS, QUICK_PHOTOS = 30, 5
TURN_RIGHT = 6
COST, DIFFERENCE = "CPU ms a photo", "mean difference of a pixel, of 255"
WANTED = (Wanted(COST, 0.9, "pillow"), Wanted(DIFFERENCE, 1.0))


async def run(dose: Dose) -> bool:
    rounds = list[Round]()
    designs: list[tuple[str, Callable[[bytes], bytes]]] = [(OURS, growbin), ("pillow", pillow)]
    photos = {kind.name: kind.drawn() for kind in (SMALL, LARGE)}
    photos["2 MB, on its side"] = on_its_side(photos[LARGE.name])
    for case, photo in photos.items():
        differences = {OURS: difference(growbin(photo), pillow(photo)), "pillow": 0.0}
        for name, prepare in in_turn(designs, dose.rounds):
            count = QUICK_PHOTOS if dose.is_quick else PHOTOS
            before = time.process_time()
            for _ in range(count):
                prepare(photo)
            spent = time.process_time() - before
            figures = {COST: spent / count * 1000, DIFFERENCE: differences[name]}
            rounds.append(Round(case, name, figures))
            print(rounds[-1], file=sys.stderr, flush=True)
    return report("preparation", rounds, WANTED, dose.folder)


def on_its_side(photo: bytes) -> bytes:
    """As a telephone that is held upright writes it: its metadata says how it is to be turned."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = TURN_RIGHT
    block = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    return photo[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + photo[2:]


def growbin(photo: bytes) -> bytes:
    return clean(photo, "image/jpeg", MOST_PIXELS, MODEL_SIDE).data


def pillow(photo: bytes) -> bytes:
    with Image.open(io.BytesIO(photo)) as picture:
        picture.draft("RGB", (MODEL_SIDE, MODEL_SIDE))
        upright = ImageOps.exif_transpose(picture).convert("RGB")
        upright.thumbnail((MODEL_SIDE, MODEL_SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
        output = io.BytesIO()
        upright.save(output, "JPEG", quality=85)
        return output.getvalue()


def difference(one: bytes, other: bytes) -> float:
    with Image.open(io.BytesIO(one)) as mine, Image.open(io.BytesIO(other)) as theirs:
        assert mine.size == theirs.size, (mine.size, theirs.size)
        bands = ImageStat.Stat(ImageChops.difference(mine, theirs)).mean
    return sum(bands) / len(bands)


if __name__ == "__main__":
    start(run, __doc__)
