"""From the bytes of a photo to what the network looks at."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy
    import numpy.typing
    from PIL import Image

    Floats = numpy.typing.NDArray[numpy.float32]

SIDE_PIXELS = 224
MAX_PIXELS = 50_000_000
# How the network sees a whole photo: squeezed to the square and turned four ways, since waste lies as it
# fell; and its middle, cut out as wide as high, where things are larger and keep their shape.
WHOLE_VIEWS = ("upright", "left", "upside_down", "right", "middle")
MIDDLE_SHARE = 7 / 8
# Where else to look for a thing: the four corners and halves, as shares (left, top, right, bottom).
CROPS = (
    (0.0, 0.0, 0.6, 0.6),
    (0.4, 0.0, 1.0, 0.6),
    (0.0, 0.4, 0.6, 1.0),
    (0.4, 0.4, 1.0, 1.0),
    (0.0, 0.0, 0.5, 1.0),
    (0.5, 0.0, 1.0, 1.0),
    (0.0, 0.0, 1.0, 0.5),
    (0.0, 0.5, 1.0, 1.0),
)
# Grey levels of 256. Of 800 ordinary photos 99 % had highlights above 159; taken with a tenth or a
# fifth of the light 99 % were below 52.
DARK_HIGHLIGHTS = 60
# The steepest steps from one pixel of 224 to the next, as a share of the contrast. 99.5 % of the same photos
# had more than 0.15; blurred until only shapes were left (a Gaussian of 4 pixels), 95 % of them had less than
# 0.10.
BLURRED_STEPS = 0.10
BLANK_CONTRAST = 12
# Between the strongest and the weakest of red, green and blue, in 256. Of 4,813 photos one had less than 3: a
# drawing, a scan or an old photo shows things that the network takes for waste.
COLOURLESS_DIFFERENCE = 2

Flaw = Literal["dark", "blurred", "blank", "colourless"]


class UnreadablePhoto(Exception):
    """The bytes are no JPEG, PNG or WebP picture that can be decoded, or it is far too large."""


def upright_photo(data: bytes) -> Image.Image:
    """RGB, upright, on white where it is transparent; shrunk by the decoder itself where that still leaves
    enough for crops. Raises UnreadablePhoto."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["JPEG", "PNG", "WEBP"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadablePhoto(f"{image.width} x {image.height} pixels are too many")
            image.draft("RGB", (3 * SIDE_PIXELS, 3 * SIDE_PIXELS))
            return _on_white(image)
    except UnreadablePhoto:
        raise
    except Exception as error:  # decoders raise anything at all over a broken file
        raise UnreadablePhoto("no JPEG, PNG or WebP picture that can be read") from error


def views_of_whole(photo: Image.Image) -> Floats:
    """[5, 3, 224, 224], -1 (black) to 1 (white), in the order of WHOLE_VIEWS."""
    import numpy
    from PIL import Image

    squeezed = photo.resize((SIDE_PIXELS, SIDE_PIXELS), Image.Resampling.BICUBIC)
    turns = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    # The middle of the squeezed photo, so that a turned photo has the same one, turned.
    edge = (1 - MIDDLE_SHARE) / 2
    box = (edge * photo.width, edge * photo.height, (1 - edge) * photo.width, (1 - edge) * photo.height)
    middle = photo.resize((SIDE_PIXELS, SIDE_PIXELS), Image.Resampling.BICUBIC, box=box)
    return numpy.stack([pixels_of(view) for view in (squeezed, *map(squeezed.transpose, turns), middle)])


def views_of_crops(photo: Image.Image) -> Floats:
    """[8, 3, 224, 224], in the order of CROPS."""
    import numpy
    from PIL import Image

    boxes = [
        (left * photo.width, top * photo.height, right * photo.width, bottom * photo.height)
        for left, top, right, bottom in CROPS
    ]
    size = (SIDE_PIXELS, SIDE_PIXELS)
    crops = [photo.resize(size, Image.Resampling.BICUBIC, box=box) for box in boxes]
    return numpy.stack([pixels_of(crop) for crop in crops])


def flaw_of(photo: Image.Image) -> Flaw | None:
    """What makes the picture useless whatever it shows."""
    import numpy
    from PIL import Image

    grey = photo.convert("L").resize((SIDE_PIXELS, SIDE_PIXELS), Image.Resampling.BILINEAR)
    levels = numpy.asarray(grey, dtype=numpy.float32)
    low, high, highlights = numpy.percentile(levels, [2, 98, 99])
    if highlights < DARK_HIGHLIGHTS:
        return "dark"
    contrast = high - low
    if contrast < BLANK_CONTRAST:
        return "blank"
    steps = max(numpy.percentile(numpy.abs(numpy.diff(levels, axis=axis)), 99.5) for axis in (0, 1))
    if steps < BLURRED_STEPS * contrast:
        return "blurred"
    small = photo.resize((SIDE_PIXELS // 2, SIDE_PIXELS // 2), Image.Resampling.BILINEAR)
    differences = numpy.ptp(numpy.asarray(small, dtype=numpy.int16), axis=2)
    return "colourless" if numpy.percentile(differences, 99) < COLOURLESS_DIFFERENCE else None


def pixels_of(view: Image.Image) -> Floats:
    """[3, 224, 224] of a picture of that size."""
    import numpy

    pixels: Any = numpy.asarray(view, dtype=numpy.float32)
    return numpy.ascontiguousarray(((pixels - 127.5) / 127.5).transpose(2, 0, 1))


def _on_white(image: Image.Image) -> Image.Image:
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    layer = upright.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
