"""Small JPEGs with telltale metadata, drawn once."""

from __future__ import annotations

import io
import zlib
from functools import cache

from PIL import Image, ImageDraw

# Must never be seen behind hygiene: not at the model, not in a public photo, a log or a queue.
CANARIES = ("telltale-camera-3000", "taken-at-37N33-126E58")
DIFFERENT_PHOTOS = 40
MAKER_TAG, DESCRIPTION_TAG, GPS_TAG = 0x010F, 0x010E, 0x8825


def photo_for(marker: str) -> bytes:
    """The same bytes for the same marker."""
    return drawn(zlib.crc32(marker.encode()) % DIFFERENT_PHOTOS)


@cache
def drawn(number: int) -> bytes:
    picture = Image.new("RGB", (160, 120), (number * 6, 220, 230))
    ImageDraw.Draw(picture).rectangle((50, 20, 90 + number, 110), fill=(30, 120, 60))
    exif = Image.Exif()
    exif[MAKER_TAG], exif[DESCRIPTION_TAG] = CANARIES
    exif.get_ifd(GPS_TAG).update({1: "N", 2: (37.0, 33.0, 59.0), 3: "E", 4: (126.0, 58.0, 41.0)})
    output = io.BytesIO()
    picture.save(output, "JPEG", exif=exif, comment=CANARIES[1].encode())
    return output.getvalue()
