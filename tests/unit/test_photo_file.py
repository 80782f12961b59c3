"""What a photo's file says before it is decoded: what it will cost, and what may be left out of it."""

from __future__ import annotations

import io
import struct
import time
import zlib

import pytest
from PIL import Image, ImageDraw

from growbin.errors import JobFailed
from growbin.job import CleanPhoto
from growbin.photo import clean
from growbin.photo_file import jpeg, png, webp
from growbin.photo_file.by_type import read_photo_file
from tests import hostile_photos as made
from tests.hostile_photos import CANARY, behind_start, chunk, encoded, segment

RED, WHITE, GREY = (255, 0, 0), (255, 255, 255), (128, 128, 128)


def cleaned(data: bytes) -> CleanPhoto:
    return clean(data, "image/png", max_pixels=200_000_000, max_side=256)


def code_of(data: bytes) -> str:
    with pytest.raises(JobFailed) as failure:
        cleaned(data)
    return failure.value.code


def marked(width: int = 320, height: int = 240) -> Image.Image:
    """White, with a red top-left corner and something to look at."""
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, width // 4, height // 4), fill="red")
    for line in range(0, height, 7):
        pen.line((width // 2, line, width, line + 5), fill=(line % 256, 80, 160))
    return image


def pixel(photo: CleanPhoto, x: int, y: int) -> tuple[int, ...]:
    found = Image.open(io.BytesIO(photo.data)).getpixel((x, y))
    assert isinstance(found, tuple)
    return found


def near(photo: CleanPhoto, x: int, y: int, colour: tuple[int, int, int]) -> bool:
    return all(abs(have - want) < 12 for have, want in zip(pixel(photo, x, y), colour, strict=True))


# --- what is dropped anyway is no reason to refuse -----------------------------------------------


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(20_000_000))),
        chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(20_000_000))),
        chunk(b"iTXt", b"k\0\0\0\0\0" + b"a" * 1_500_000),
        chunk(b"iCCP", b"k\0\0no zlib at all"),
        chunk(b"tEXt", b"k\0a")[:-4] + b"\0\0\0\0",
        chunk(b"eXIf", b"nonsense")[:-4] + b"\0\0\0\0",
        chunk(b"CgBI", b"\x50\0\x20\6"),
    ],
    ids=[
        "profile",
        "packed-text",
        "long-text",
        "broken-profile",
        "text-checksum",
        "exif-checksum",
        "unknown",
    ],
)
def test_a_png_is_not_spoilt_by_what_is_dropped(extra: bytes) -> None:
    """Metadata that is too large, broken or has a wrong checksum costs nobody a good picture."""
    raw = encoded(marked(), "PNG")
    photo = cleaned(raw[:33] + extra + raw[33:])
    assert near(photo, 5, 5, RED)


def test_a_png_with_a_wrong_checksum_of_its_pixels_is_unreadable() -> None:
    """Damage to what is shown is no metadata."""
    raw = bytearray(encoded(marked(), "PNG"))
    raw[raw.index(b"IDAT") + 40] ^= 1
    assert code_of(bytes(raw)) == "photo_unreadable"


@pytest.mark.parametrize(
    "inserted",
    [
        segment(0xE1, b""),
        b"\xff\xe1\0\0",
        segment(0xE2, b"MPF\0" + bytes(range(60))),
        segment(0xE2, b"ICC_PROFILE\0\1\3" + bytes(500)),
        segment(0xED, b"Photoshop 3.0\x008BIM\xff\xff"),
        segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
        segment(0xFE, CANARY.encode()) * 200,
        b"\xff" * 1_000_000,
        segment(0xFE, b"") + bytes(1_000_000),
    ],
    ids=["empty", "zero", "mpf", "profile", "photoshop", "exif", "comments", "filler", "zeros"],
)
def test_a_jpeg_is_not_spoilt_by_what_is_dropped(inserted: bytes) -> None:
    """Segments that lie, filler and comments are stepped over."""
    photo = cleaned(behind_start(encoded(marked(), "JPEG", quality=95), inserted))
    assert near(photo, 5, 5, RED)


def test_a_webp_is_not_spoilt_by_what_is_dropped() -> None:
    """Metadata that is cut off behind the pixels is left out."""
    raw = encoded(marked(), "WEBP", lossless=True, xmp=made.xmp(), icc_profile=bytes(500))
    assert near(cleaned(raw[:-20]), 5, 5, RED)
    assert near(cleaned(raw + b"tail" * 100), 5, 5, RED)


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_jpeg_without_its_end_is_a_photo(options: dict[str, object]) -> None:
    """Phones and messengers lose the last bytes: what matters is all there."""
    raw = encoded(marked(), "JPEG", quality=95, **options)
    for lost_bytes in (2, 3, 12):
        photo = cleaned(raw[:-lost_bytes])
        assert near(photo, 5, 5, RED)
        assert (photo.width, photo.height) == (256, 192)


@pytest.mark.parametrize("percent", [30, 60, 92])
def test_a_jpeg_that_ends_early_is_unreadable(percent: int) -> None:
    """More than a narrow edge may not be made up."""
    raw = encoded(marked(640, 640).effect_spread(30), "JPEG")
    assert code_of(raw[: len(raw) * percent // 100]) == "photo_unreadable"


def test_a_png_without_its_end_chunk_is_a_photo() -> None:
    """The pixels are there."""
    assert near(cleaned(encoded(marked(), "PNG")[:-12]), 5, 5, RED)


def test_a_webp_that_ends_a_little_early_is_a_photo() -> None:
    """Of its pixels less than a thirty-second may be missing."""
    raw = encoded(marked().effect_spread(9), "WEBP", quality=80)
    assert cleaned(raw[: -len(raw) // 50]).width == 256
    assert code_of(raw[: -len(raw) // 20]) == "photo_unreadable"


# --- the right way up, in the right colours ------------------------------------------------------


def turned(exif: bytes = b"", xmp: bytes = b"") -> bytes:
    raw = encoded(marked(), "JPEG", quality=95)
    return behind_start(
        raw,
        (segment(0xE1, b"Exif\0\0" + exif) if exif else b"")
        + (segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp) if xmp else b""),
    )


@pytest.mark.parametrize(
    ("data", "is_turned"),
    [
        (turned(struct.pack("<4sIHHHIHHI", b"II*\0", 8, 1, 0x112, 3, 1, 6, 0, 0)), True),
        (turned(struct.pack(">4sIHHHIHHI", b"MM\0*", 8, 1, 0x112, 3, 1, 6, 0, 0)), True),
        (turned(struct.pack("<4sIHHHIII", b"II*\0", 8, 1, 0x112, 4, 1, 6, 0)), True),
        (turned(struct.pack("<4sIHHHIHHI", b"II*\0", 8, 1, 0x112, 3, 1, 9, 0, 0)), False),
        (turned(struct.pack("<4sIHHHIHHI", b"II*\0", 8, 60_000, 0x100, 3, 1, 6, 0, 0)), False),
        (turned(b"II*\0\xff\xff\xff\xff"), False),
        (turned(b"neither order"), False),
        (turned(xmp=b'<rdf:Description tiff:Orientation="6"/>'), True),
        (turned(xmp=b"<tiff:Orientation>6</tiff:Orientation>"), True),
    ],
    ids=["short", "big-endian", "long", "nine", "cut", "outside", "garbage", "xmp", "xmp-element"],
)
def test_orientation_is_read_from_where_cameras_and_editors_write_it(data: bytes, is_turned: bool) -> None:
    """EXIF in both byte orders, else XMP; what makes no sense turns nothing."""
    photo = cleaned(data)
    assert (photo.height > photo.width) == is_turned
    assert near(photo, photo.width - 5, 5, RED) if is_turned else near(photo, 5, 5, RED)


def test_orientation_of_a_png_is_read_from_exif_and_xmp() -> None:
    """Also where it stands behind the pixels."""
    raw = encoded(marked(), "PNG")
    exif = struct.pack("<4sIHHHIHHI", b"II*\0", 8, 1, 0x112, 3, 1, 6, 0, 0)
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'
    assert cleaned(raw[:-12] + chunk(b"eXIf", exif) + raw[-12:]).height == 256
    assert cleaned(raw[:33] + chunk(b"iTXt", xmp) + raw[33:]).height == 256


def test_a_webp_with_alpha_and_metadata_keeps_its_pixels() -> None:
    """Orientation is obeyed, and what is transparent is white."""
    image = marked().convert("RGBA")
    image.paste((0, 0, 0, 0), (160, 120, 320, 240))
    photo = cleaned(encoded(image, "WEBP", lossless=True, exif=made.exif(6), xmp=made.xmp()))
    assert photo.height == 256
    assert near(photo, photo.width - 5, 5, RED)
    assert near(photo, 20, 200, WHITE)


@pytest.mark.parametrize(
    ("depth", "level", "grey"),
    [(1, 1, 255), (2, 1, 85), (4, 5, 85), (8, 85, 85), (16, 0x5555, 85), (16, 0x5556, 85)],
)
def test_grey_of_any_depth_is_white_where_it_is_transparent_and_right_elsewhere(
    depth: int, level: int, grey: int
) -> None:
    """The transparent level is that of the file, whatever the decoder makes of the pixels."""
    line = int(("0" * depth + format(level, f"0{depth}b")) * 8, 2).to_bytes(2 * depth)
    pixels = zlib.compress((b"\0" + line) * 16)

    def with_transparent(transparent: int) -> CleanPhoto:
        extra = chunk(b"tRNS", struct.pack("!H", transparent))
        return cleaned(made.png(16, 16, depth, made.GREY, extra=extra, pixels=pixels))

    assert near(with_transparent(level), 1, 8, WHITE)
    assert near(with_transparent(level), 0, 8, (0, 0, 0))
    assert near(with_transparent(0), 1, 8, (grey, grey, grey))
    assert near(with_transparent(0), 0, 8, WHITE)


def test_a_transparent_colour_of_sixteen_bits_is_white() -> None:
    """Red of 16 bits is transparent, green is not."""
    line = struct.pack("!6H", 65_535, 0, 0, 0, 65_535, 0) * 8
    extra = chunk(b"tRNS", struct.pack("!3H", 65_535, 0, 0))
    photo = cleaned(made.png(16, 16, 16, made.RGB, extra=extra, pixels=zlib.compress((b"\0" + line) * 16)))
    assert near(photo, 0, 8, WHITE)
    assert near(photo, 1, 8, (0, 255, 0))


# --- what decoding will cost ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height"), [(8160, 6144), (12_000, 9000), (16_320, 12_240), (65_500, 3000), (65_500, 1)]
)
def test_phones_and_panoramas_of_any_size_pass(width: int, height: int) -> None:
    """50, 108 and 200 megapixels in one scan are shrunk while they are decoded."""
    photo = cleaned(made.flat_jpeg(width, height))
    assert max(photo.width, photo.height) == 256
    assert near(photo, 0, 0, GREY)


def test_a_photo_with_a_scan_for_each_component_keeps_its_colours() -> None:
    """Not progressive, and yet the first scan is not all of it."""
    greys = [encoded(band, "JPEG") for band in Image.new("RGB", (32, 32), "red").convert("YCbCr").split()]
    frame, scan, header_bytes = greys[0].index(b"\xff\xc0"), b"\xff\xda\0\x08\1%c\0\0\x3f\0", 10
    components = struct.pack("!HBHHB", 17, 8, 32, 32, 3) + b"\1\x11\0\2\x11\0\3\x11\0"
    tables = greys[0][frame + 13 : greys[0].index(b"\xff\xda")]
    scans = [
        scan % number + grey[grey.index(b"\xff\xda") + header_bytes : -2]
        for number, grey in enumerate(greys, start=1)
    ]
    photo = b"".join((greys[0][:frame], b"\xff\xc0", components, tables, *scans, b"\xff\xd9"))
    assert near(cleaned(photo), 16, 16, RED)


def test_a_progressive_photo_of_110_megapixels_passes() -> None:
    """Its coefficients just fit."""
    assert cleaned(made.scan_bomb(12_208, 9008, 1)).width == 256


@pytest.mark.parametrize(
    "data",
    [
        made.flat_jpeg(16_384, 12_240),
        made.flat_jpeg(65_500, 65_500)[:5000],
        made.scan_bomb(16_320, 12_240, 1),
        made.scan_bomb(7000, 7000, 100),
        made.scan_bomb(1000, 1000, 9_000),
        behind_start(encoded(marked(), "JPEG"), segment(0xFE, b"") * 20_000),
        made.png(8000, 8001, 8, made.RGB, pixels=b""),
        made.png(60, 40, 8, made.RGB, extra=chunk(b"tEXt", b"k\0a") * 20_000),
        b"RIFF\x1e\0\0\0WEBPVP8L\x11\0\0\0\x2f\xff\xff\xff\x0f" + bytes(12),
        b"RIFF\xff\xff\x0f\0WEBP" + b"JUNK\0\0\0\0" * 20_000,
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0\0\0\x08free" * 20_000,
    ],
    ids=[
        "baseline",
        "largest",
        "progressive",
        "scans",
        "many-scans",
        "comments",
        "png",
        "png-chunks",
        "webp",
        "webp-chunks",
        "heic-boxes",
    ],
)
def test_what_would_cost_too_much_is_refused_before_it_is_decoded(data: bytes) -> None:
    """By what the file says, in no time."""
    began = time.process_time()
    with pytest.raises(JobFailed) as failure:
        read_photo_file(data)
    assert failure.value.code == "photo_too_complex"
    assert time.process_time() - began < 0.5


def test_progressive_pictures_of_full_colour_cost_twice_as_much() -> None:
    """What counts is what is held, which depends on the sampling, not the pixels."""
    small = encoded(marked(64, 64), "JPEG", progressive=True, subsampling=0)
    frame = small.index(b"\xff\xc2") + 5
    assert read_photo_file(small[:frame] + struct.pack("!HH", 6000, 8000) + small[frame + 4 :]).width == 8000
    with pytest.raises(JobFailed, match="several scans"):
        read_photo_file(small[:frame] + struct.pack("!HH", 9000, 8000) + small[frame + 4 :])


def test_a_setting_bounds_every_type() -> None:
    """It may be set below what a child can bear."""
    for format in ("JPEG", "PNG", "WEBP"):
        with pytest.raises(JobFailed) as failure:
            clean(encoded(marked(100, 100), format), "image/jpeg", max_pixels=9_999, max_side=256)
        assert failure.value.code == "photo_too_complex"


@pytest.mark.parametrize("code", [0xC3, 0xC9, 0xCA, 0xCF])
def test_codings_that_no_phone_writes_are_unreadable(code: int) -> None:
    """Lossless, arithmetic and layered JPEGs, which browsers do not show either."""
    raw = encoded(marked(), "JPEG")
    assert code_of(raw.replace(b"\xff\xc0", bytes((0xFF, code)))) == "photo_unreadable"


def test_the_bounds_of_each_type_hold_what_is_promised() -> None:
    """At least 24 megapixels where a picture is held whole."""
    assert jpeg.MOST_PIXELS == 200_000_000
    assert jpeg.MOST_COEFFICIENT_BYTES // 3 >= 110_000_000
    assert min(png.MOST_PIXELS, webp.MOST_PIXELS) >= 24_000_000


def test_nothing_of_the_metadata_reaches_a_decoder() -> None:
    """What is handed on holds pixels and their tables alone."""
    for kind, data in made.whole().items():
        if kind not in ("heic", "grid"):
            assert CANARY.encode() in data or kind == "progressive"
            assert CANARY.encode() not in read_photo_file(data).data
