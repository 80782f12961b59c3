"""What a photo may be, and how it is cleaned.

`clean` is pure; `main` is the child process around it, so that a hostile picture can only take
down a process that holds no secret and does nothing else. The child speaks over its pipes:

    request   REQUEST header (length, target, max_pixels, max_side), then the raw photo
    answer    one RECEIVED byte as soon as the whole request has been read,
              then the ANSWER header (length, width, height) and the clean photo;
              for a photo that cannot be cleaned width 0, and the failure code in its place
"""

import io
import resource
import struct
import sys
import warnings
from contextlib import suppress

from PIL import Image, ImageCms

from growbin.errors import JobFailed
from growbin.job import CleanPhoto, ContentType

REQUEST = struct.Struct("!IBII")
ANSWER = struct.Struct("!III")
RECEIVED = b"\x06"
TARGETS: tuple[ContentType, ...] = ("image/jpeg", "image/png", "image/webp")

# Enough for 50 megapixels with alpha, whose WebP decoder keeps two canvases beside the picture.
MEMORY_BYTES = 1 << 30
CPU_SECONDS = 10

_ORIENTATION_TAG = 0x0112
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


def sniff(head: bytes) -> ContentType | None:
    """The type that the first bytes (12 are enough) show, or None when it is not one we take."""
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    return None


def clean(data: bytes, target: ContentType, max_pixels: int, max_side: int) -> CleanPhoto:
    """The upright picture as sRGB pixels (first frame, white behind what is transparent), its
    longest side at most `max_side`, encoded as `target`, with nothing else of the original: no
    EXIF, XMP, profile, comment or thumbnail.

    Raises JobFailed(unsupported_photo | photo_unreadable | photo_too_complex).
    """
    content_type = sniff(data)
    if content_type is None:
        raise JobFailed("unsupported_photo")
    try:
        with warnings.catch_warnings():
            # About broken EXIF, which phones write, and about sizes, which `_open` decides.
            warnings.simplefilter("ignore")
            with _open(data, content_type, max_pixels) as image:
                pixels = _upright_pixels(image, max_side)
            return CleanPhoto(_encode(pixels, target), target, pixels.width, pixels.height)
    except JobFailed:
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        raise JobFailed("photo_too_complex", type(error).__name__) from error
    except Exception as error:  # decoders raise anything at all over a broken file
        raise JobFailed("photo_unreadable", f"{type(error).__name__}: {error}") from error


def _open(data: bytes, content_type: ContentType, max_pixels: int) -> Image.Image:
    """Read the header only, with no decoder but the one of `content_type`."""
    # Pillow refuses at twice this number, and for WebP before it allocates the canvases.
    Image.MAX_IMAGE_PIXELS = (max_pixels + 1) // 2
    image = Image.open(io.BytesIO(data), formats=[content_type.removeprefix("image/")])
    if image.width * image.height > max_pixels:
        raise JobFailed("photo_too_complex", f"{image.width} x {image.height} pixels")
    return image


def _upright_pixels(image: Image.Image, max_side: int) -> Image.Image:
    image.draft("RGB", (max_side, max_side))  # lets the JPEG decoder itself shrink, by 2, 4 or 8
    image.load()
    # Only now: a PNG may carry its EXIF behind the pixels.
    turn, profile = _UPRIGHT.get(_orientation(image)), image.info.get("icc_profile")
    pixels = _flattened(image)
    pixels.thumbnail((max_side, max_side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    pixels = _in_srgb(pixels, profile)
    return pixels if turn is None else pixels.transpose(turn)  # the first turn is 0


def _orientation(image: Image.Image) -> int:
    """1 (upright) when the EXIF cannot be read: that alone does not spoil a picture."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001  # the EXIF parser raises anything, too
        return 1


def _flattened(image: Image.Image) -> Image.Image:
    """A mode without alpha or palette, which a resize would otherwise treat badly."""
    if image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(layer, mask=layer)
        return canvas
    if image.mode == "I;16":  # a plain conversion would clip at 255 instead of scaling
        return image.point(lambda level: level / 257).convert("L")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _in_srgb(pixels: Image.Image, profile: bytes | None) -> Image.Image:
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


def main() -> None:
    """The child process: clean one photo after another until standard input closes."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # macOS knows the limit but refuses to set it
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    while len(header := requests.read(REQUEST.size)) == REQUEST.size:
        length, target, max_pixels, max_side = REQUEST.unpack(header)
        data = requests.read(length)
        if len(data) < length:
            return
        answers.write(RECEIVED)
        answers.flush()
        _allow_cpu(CPU_SECONDS)
        try:
            photo = clean(data, TARGETS[target], max_pixels, max_side)
            answer = ANSWER.pack(len(photo.data), photo.width, photo.height) + photo.data
        except JobFailed as failure:
            answer = ANSWER.pack(len(failure.code), 0, 0) + failure.code.encode()
        answers.write(answer)
        answers.flush()


def _allow_cpu(seconds: int) -> None:
    """End this process by SIGXCPU when the next photo takes more than `seconds` of CPU time."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(usage.ru_utime + usage.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
