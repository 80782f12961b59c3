"""How a photo is cleaned.

`clean` is pure; `main` is the child process around it, so that a hostile picture can only take
down a process that holds no secret and does nothing else. The child speaks over its pipes:

    request   REQUEST header (length, target, max_pixels, max_side), then the raw photo
    answer    one RECEIVED byte as soon as the whole request has been read,
              then the ANSWER header (length, width, height) and the clean photo;
              for a photo that cannot be cleaned width 0, and the failure code in its place
"""

import ctypes
import fcntl
import io
import re
import resource
import signal
import struct
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import BinaryIO

import pi_heif
from PIL import Image, ImageChops, ImageCms, _webp

from growbin.errors import JobFailed
from growbin.job import CleanPhoto, ContentType
from growbin.photo_file.by_type import read_photo_file
from growbin.photo_file.walk import LOST_SHARE, PhotoFile, unreadable

REQUEST = struct.Struct("!IBII")
ANSWER = struct.Struct("!III")
RECEIVED = b"\x06"
TARGETS: tuple[ContentType, ...] = ("image/jpeg", "image/png", "image/webp")

# What a child writes to, which with the libraries it reads from makes 400 MB; and CPU time for each photo.
# What the walks of `photo_file` let through stays below both.
MEMORY_BYTES = 377_000_000
PIPE_BYTES = 1 << 20
CPU_SECONDS = 4.0
# What is kept of it between photos: as much as a usual one takes, for to be given the same pages anew each
# time is a quarter of the work. A larger one takes it for a part of its own.
KEPT_BYTES = 64 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD = -1, -3, 32 << 20  # as malloc.h has them

BAND_PIXELS = 1 << 20  # so many of a large picture are flattened and shrunk at once
PLAIN_MODES = ("L", "RGB", "CMYK")
NOTHING_DECODED = 128  # the grey of JPEG pixels that the file ended before

_ORIENTATION_TAG, _SHORT, _LONG = 0x0112, 3, 4
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SRGB = ImageCms.createProfile("sRGB")

# The walks have judged what comes in.
Image.MAX_IMAGE_PIXELS = None
pi_heif.options.DECODE_THREADS = 1
pi_heif.options.THUMBNAILS = pi_heif.options.DEPTH_IMAGES = pi_heif.options.AUX_IMAGES = False


def clean(data: bytes, target: ContentType, max_pixels: int, max_side: int) -> CleanPhoto:
    """The upright picture as sRGB pixels (first frame, white behind what is transparent), its
    longest side at most `max_side`, encoded as `target`, with nothing else of the original: no
    EXIF, XMP, profile, comment or thumbnail.

    Raises JobFailed(unsupported_photo | photo_unreadable | photo_too_complex).
    """
    file = read_photo_file(data)
    del data  # a large picture needs the room
    if file.width * file.height > max_pixels:
        raise JobFailed("photo_too_complex", f"{file.width} x {file.height} pixels")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = _upright_pixels(file, max_side)
            return CleanPhoto(_encode(pixels, target), target, pixels.width, pixels.height)
    except JobFailed:
        raise
    except MemoryError as error:
        raise JobFailed("photo_too_complex", "memory") from error
    except Exception as error:  # decoders raise anything at all over a broken file
        raise JobFailed("photo_unreadable", f"{type(error).__name__}: {error}") from error


def _upright_pixels(file: PhotoFile, max_side: int) -> Image.Image:
    decoded = _DECODERS[file.kind](file, max_side)
    pixels, profile = _shrunk(decoded, max_side), file.profile or decoded.profile
    if file.is_cut:
        _check_lower_edge(pixels)
    pixels = _in_srgb(pixels, profile)
    turn = _UPRIGHT.get(_orientation(file) or 1)
    return pixels if turn is None else pixels.transpose(turn)  # the first turn is 0


# --- decoding ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Decoded:
    """`band` gives the rows from a first one to before a last one: a copy of all would be too large. `plain`
    is all of it, where it needs no flattening."""

    width: int
    height: int
    band: Callable[[int, int], Image.Image]
    profile: bytes = b""
    plain: Image.Image | None = None
    owner: object = None  # of the memory that the bands are read from


def _decoded_by_pillow(file: PhotoFile, max_side: int) -> _Decoded:
    image = Image.open(io.BytesIO(file.data), formats=[file.kind])
    # Lets the JPEG decoder itself shrink, by 2, 4 or 8.
    share = max_side / max(image.size)
    image.draft("RGB", (max(1, round(image.width * share)), max(1, round(image.height * share))))
    image.load()
    is_plain = image.mode in PLAIN_MODES and not image.has_transparency_data
    return _Decoded(
        *image.size,
        lambda first, last: image.crop((0, first, image.width, last)),
        plain=image if is_plain else None,
    )


def _decoded_webp(file: PhotoFile, max_side: int) -> _Decoded:
    """By the decoder below Pillow's file format, which would hold the picture twice more."""
    decoder = _webp.WebPAnimDecoder(file.data)
    (width, height), _, _, _, mode = decoder.get_info()
    frame = decoder.get_next()
    if frame is None:
        raise unreadable("WebP")
    return _in_bands(frame[0], width, height, mode)


def _decoded_heif(file: PhotoFile, max_side: int) -> _Decoded:
    pictures = pi_heif.open_heif(file.data)
    picture = pictures[pictures.primary_index]
    try:
        picture.load()
    except RuntimeError as error:
        raise (MemoryError if "allocation" in str(error) else unreadable)(str(error)) from error
    bands = _in_bands(picture.data, picture.size[0], picture.size[1], picture.mode)
    return replace(bands, profile=picture.info.get("icc_profile") or b"", owner=picture)


def _in_bands(pixels: bytes | memoryview, width: int, height: int, mode: str) -> _Decoded:
    line_bytes = len(pixels) // height

    def band(first: int, last: int) -> Image.Image:
        lines = pixels[first * line_bytes : last * line_bytes]
        return Image.frombytes(mode, (width, last - first), lines, "raw", mode, line_bytes)

    return _Decoded(width, height, band)


_DECODERS: dict[str, Callable[[PhotoFile, int], _Decoded]] = {
    "JPEG": _decoded_by_pillow,
    "PNG": _decoded_by_pillow,
    "WEBP": _decoded_webp,
    "HEIF": _decoded_heif,
}


# --- pixels --------------------------------------------------------------------------------------


def _shrunk(decoded: _Decoded, max_side: int) -> Image.Image:
    """The whole picture, flattened, in a size that fits."""
    width, height = decoded.width, decoded.height
    factor = max(1, max(width, height) // (2 * max_side))  # quick and plain; the rest is done well
    rows = factor * max(1, BAND_PIXELS // (width * factor))
    canvas = decoded.plain if factor == 1 else None
    for first in range(0, height, rows) if canvas is None else ():
        band = _flattened(decoded.band(first, min(first + rows, height))).reduce(factor)
        if canvas is None:
            canvas = Image.new(band.mode, (band.width, -(-height // factor)))
        canvas.paste(band, (0, first // factor))
    assert canvas is not None
    return _fitted(canvas, max_side)


def _fitted(image: Image.Image, max_side: int) -> Image.Image:
    """Its longest side at most so long. Across, where most is to be done, with a filter half as wide: a pixel
    differs by a third of a level, by less than what encoding takes from it."""
    share = max_side / max(image.size)
    if share >= 1:
        return image
    width, height = (max(1, round(side * share)) for side in image.size)
    narrow = image.resize((width, image.height), Image.Resampling.HAMMING)
    return narrow.resize((width, height), Image.Resampling.BICUBIC)


def _flattened(image: Image.Image) -> Image.Image:
    """A mode without alpha or palette, which a resize would otherwise treat badly."""
    if image.mode == "I;16":
        return _eight_bits(image)
    if image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(layer, mask=layer)
        return canvas
    return image if image.mode in PLAIN_MODES else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """A plain conversion of 16-bit grey would clip at 255, and not know which grey is transparent."""
    low, high = (Image.frombytes("L", image.size, image.tobytes()[byte::2]) for byte in (0, 1))
    transparent = image.info.get("transparency")
    if transparent is None:
        return high
    is_low, is_high = (
        half.point([255 * (level == wanted) for level in range(256)])
        for half, wanted in ((low, transparent & 255), (high, transparent >> 8))
    )
    high.paste(255, mask=ImageChops.darker(is_low, is_high))
    return high


def _check_lower_edge(pixels: Image.Image) -> None:
    """Of a file that ends early: pixels which nothing was read for may be a narrow edge only."""
    nothing = Image.new(pixels.mode, pixels.size, (NOTHING_DECODED,) * len(pixels.getbands()))
    box = ImageChops.difference(pixels, nothing).getbbox()
    if pixels.mode == "CMYK" or box is None or pixels.height - box[3] > pixels.height * LOST_SHARE:
        raise unreadable("it ends too early")


def _orientation(file: PhotoFile) -> int | None:
    """1 to 8; None when it is not told."""
    if told := _exif_orientation(file.exif.removeprefix(b"Exif\0\0")):
        return told
    found = _XMP_ORIENTATION.search(file.xmp)
    return int(found[1]) if found else None


def _exif_orientation(tiff: bytes) -> int | None:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return None
    with suppress(struct.error):
        (at,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
            if tag == _ORIENTATION_TAG and kind in (_SHORT, _LONG):
                (told,) = struct.unpack_from(f"{order}{'H' if kind == _SHORT else 'I'}", tiff, entry + 8)
                return int(told)
    return None


def _in_srgb(pixels: Image.Image, profile: bytes) -> Image.Image:
    if profile:
        with suppress(ImageCms.PyCMSError, OSError):  # not a profile for these pixels: drop it
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(pixels, source, _SRGB, outputMode="RGB")
            if converted is not None:
                return converted
    return pixels.convert("RGB")


def _encode(pixels: Image.Image, target: ContentType) -> bytes:
    bare = Image.new("RGB", pixels.size)  # an image also carries `info`, and savers write some of it
    bare.paste(pixels)
    encoded = io.BytesIO()
    bare.save(encoded, format=target.removeprefix("image/"), quality=85)
    return encoded.getvalue()


# --- the child -----------------------------------------------------------------------------------


def main() -> None:
    """Clean one photo after another until standard input closes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # macOS knows the limit but refuses to set it
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    with suppress(AttributeError):  # glibc's alone
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD)
        ctypes.CDLL(None).mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
    for pipe in (sys.stdin, sys.stdout):
        with suppress(AttributeError, OSError):  # Linux alone, and no socket: a photo passes in a few pieces
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    while (answer := _next_answer(sys.stdin.buffer, sys.stdout.buffer)) is not None:
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()


def _next_answer(requests: BinaryIO, answers: BinaryIO) -> bytes | None:
    header = requests.read(REQUEST.size)
    if len(header) < REQUEST.size:
        return None
    length, target, max_pixels, max_side = REQUEST.unpack(header)
    photos = [requests.read(length)]
    if len(photos[0]) < length:
        return None
    answers.write(RECEIVED)
    answers.flush()
    # Over it, the process is ended by SIGPROF. The raw photo is handed over, not held: its room is needed.
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        photo = clean(photos.pop(), TARGETS[target], max_pixels, max_side)
        return ANSWER.pack(len(photo.data), photo.width, photo.height) + photo.data
    except JobFailed as failure:
        return ANSWER.pack(len(failure.code), 0, 0) + failure.code.encode()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    main()
