"""Photos for the tests: the one that ships as the example, and drawn ones."""

from __future__ import annotations

import io
import random
from pathlib import Path

from PIL import Image, ImageDraw

COFFEE_CUP = Path(__file__).parents[2] / "examples" / "coffee-cup.jpg"
GPS_TAG, ORIENTATION_TAG, CAMERA_TAG = 0x8825, 0x0112, 0x0110
TURN_RIGHT = 6


def drawn(image_format: str, width: int = 320, height: int = 200) -> bytes:
    """A bottle-like figure, a little different each time, so that no two uploads are the same photo: its
    owner would be given the same answer."""
    background = (random.randrange(256), random.randrange(180, 256), random.randrange(180, 256))
    picture = Image.new("RGB", (width, height), background)
    pen = ImageDraw.Draw(picture)
    pen.rectangle((width // 3, height // 4, width // 2, height - 10), fill=(30, 120, 60))
    pen.rectangle((width // 3 + 15, 10, width // 2 - 15, height // 4), fill=(30, 120, 60))
    output = io.BytesIO()
    picture.save(output, image_format)
    return output.getvalue()


def with_secrets(width: int = 400, height: int = 300) -> bytes:
    """A JPEG that lies on its side and tells camera and place."""
    picture = Image.open(io.BytesIO(drawn("JPEG", width, height)))
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = TURN_RIGHT
    exif[CAMERA_TAG] = "Telltale 3000"
    exif.get_ifd(GPS_TAG).update({1: "N", 2: (37.0, 33.0, 59.0), 3: "E", 4: (126.0, 58.0, 41.0)})
    output = io.BytesIO()
    picture.save(output, "JPEG", exif=exif, comment=b"taken at home")
    return output.getvalue()
