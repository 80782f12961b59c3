"""A photo made smaller in the obvious way."""

from __future__ import annotations

import io

from PIL import Image, ImageOps

MODEL_SIDE_PIXELS = 1024


def smaller(data: bytes) -> bytes:
    """Upright, at most so large, without metadata. What is converted last is small."""
    with Image.open(io.BytesIO(data)) as picture:
        picture.draft("RGB", (MODEL_SIDE_PIXELS, MODEL_SIDE_PIXELS))
        upright = ImageOps.exif_transpose(picture)
        upright.thumbnail((MODEL_SIDE_PIXELS, MODEL_SIDE_PIXELS), Image.Resampling.BICUBIC, reducing_gap=2.0)
        output = io.BytesIO()
        upright.convert("RGB").save(output, "JPEG", quality=85)
        return output.getvalue()
