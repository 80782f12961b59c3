"""Photo hygiene, on pictures made here: what comes out is upright, bounded and bare."""

import contextlib
import io
import struct
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw, _imaging, features
from PIL.PngImagePlugin import PngInfo

from growbin.errors import JobFailed
from growbin.job import CleanPhoto, ContentType
from growbin.photo import clean
from growbin.photo_file.by_type import sniff

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)
TYPES: tuple[ContentType, ...] = ("image/jpeg", "image/png", "image/webp")
GPS_CANARY = "GPS-CANARY-37.5665N"


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def quarters(mode: str = "RGB", size: tuple[int, int] = (80, 40)) -> Image.Image:
    """White, with a red top-left and a blue bottom-right corner."""
    image = Image.new(mode, size, "white")
    draw = ImageDraw.Draw(image)
    width, height = size
    draw.rectangle((0, 0, width // 4, height // 4), fill="red")
    draw.rectangle((width * 3 // 4, height * 3 // 4, width, height), fill="blue")
    return image


def exif_with_gps(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = GPS_CANARY
    exif.get_ifd(0x8825).update(
        {1: "N", 2: (37.0, 33.0, 59.4), 3: "E", 4: (126.0, 58.0, 40.8), 29: GPS_CANARY}
    )
    return exif


def opened(photo: CleanPhoto) -> Image.Image:
    image = Image.open(io.BytesIO(photo.data))
    image.load()
    assert Image.MIME[str(image.format)] == photo.content_type
    assert image.size == (photo.width, photo.height)
    return image


def near(image: Image.Image, x: int, y: int, colour: tuple[int, int, int]) -> bool:
    pixel = image.convert("RGB").getpixel((x, y))
    assert isinstance(pixel, tuple)
    return all(abs(have - want) < 40 for have, want in zip(pixel, colour, strict=True))


def tidy(data: bytes, target: ContentType = "image/png", side: int = 1024) -> CleanPhoto:
    return clean(data, target, max_pixels=200_000_000, max_side=side)


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(JobFailed) as failure:
        call()
    return failure.value.code


@pytest.mark.parametrize(
    ("format", "content_type"), [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("WEBP", "image/webp")]
)
def test_the_first_bytes_of_a_photo_show_its_type(format: str, content_type: str) -> None:
    """JPEG, PNG and WebP are told by their first 12 bytes (HEIC has a test of its own)."""
    assert sniff(encoded(quarters(), format)[:12]) == content_type


@pytest.mark.parametrize(
    "head",
    [b"", b"GIF89a", b"%PDF-1.7", b"<svg xmlns=", b"RIFF\0\0\0\0WAVE", b"\0\0\0\x18ftypavif", b"\xff\xd8"],
)
def test_other_first_bytes_are_no_photo(head: bytes) -> None:
    """Whatever is not one of the four types is refused, also near misses."""
    assert sniff(head) is None
    assert code_of(lambda: tidy(head)) == "unsupported_photo"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("target", TYPES)
def test_a_photo_with_gps_comes_out_upright_and_bare(format: str, target: ContentType) -> None:
    """A rotated photo full of metadata is turned, and nothing of the metadata is in the bytes."""
    options: dict[str, object] = {"exif": exif_with_gps(6), "icc_profile": _srgb_profile()}
    if format == "JPEG":
        options["comment"] = GPS_CANARY
    if format == "PNG":
        text = PngInfo()
        text.add_text("Comment", GPS_CANARY)
        text.add_itxt("XML:com.adobe.xmp", f"<x>{GPS_CANARY}</x>")
        options["pnginfo"] = text
    else:
        options["xmp"] = f"<x>{GPS_CANARY}</x>".encode()
    raw = encoded(quarters(), format, **options)
    assert GPS_CANARY.encode() in raw

    photo = tidy(raw, target)

    image = opened(photo)
    assert image.size == (40, 80)
    assert near(image, 35, 5, RED)
    assert near(image, 5, 75, BLUE)
    assert not any(
        word in photo.data for word in (b"Exif", b"EXIF", b"eXIf", b"http://ns.adobe", b"ICC", b"iCCP")
    )
    assert GPS_CANARY.encode() not in photo.data
    assert not image.getexif()


def _srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_undone(orientation: int) -> None:
    """All eight EXIF orientations give the same upright picture."""
    seen_upright = quarters()
    stored_as = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)
    stored = seen_upright.transpose(stored_as) if stored_as is not None else seen_upright

    image = opened(tidy(encoded(stored, "PNG", exif=exif_with_gps(orientation))))

    assert image.tobytes() == seen_upright.tobytes()


def test_a_photo_with_broken_exif_is_still_a_photo() -> None:
    """EXIF that cannot be parsed is dropped like any other."""
    raw = encoded(quarters(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert opened(tidy(raw)).size == (80, 40)


@pytest.mark.parametrize(
    ("size", "bounded"),
    [((3000, 1500), (1024, 512)), ((20, 4000), (5, 1024)), ((1, 5000), (1, 1024)), ((9, 7), (9, 7))],
)
def test_the_longest_side_is_bounded(size: tuple[int, int], bounded: tuple[int, int]) -> None:
    """A large photo shrinks in proportion, a small one stays as it is."""
    for format in ("JPEG", "PNG", "WEBP"):
        photo = tidy(encoded(quarters(size=size), format), "image/jpeg")
        assert (photo.width, photo.height) == bounded


def test_an_ordinary_photo_is_not_copied_before_it_is_shrunk() -> None:
    """What is decoded is what is shrunk: each copy of all pixels costs milliseconds."""
    photo = encoded(quarters(size=(1600, 1200)), "JPEG")
    _imaging.reset_stats()
    clean(photo, "image/jpeg", 10**7, 1024)
    assert _imaging.get_stats()["new_count"] <= 5  # decoded, shrunk twice, as sRGB, bare


def test_what_is_transparent_becomes_white() -> None:
    """Alpha, in whatever form a file keeps it, is flattened on white."""
    layer = Image.new("RGBA", (80, 40), (0, 0, 0, 0))
    layer.paste((255, 0, 0, 255), (0, 0, 20, 40))
    palette = layer.convert("RGB").quantize(2)
    black = palette.getpixel((79, 0))
    cases = [
        encoded(layer, "PNG"),
        encoded(layer, "WEBP", lossless=True),
        encoded(layer.convert("LA"), "PNG"),
        encoded(palette, "PNG", transparency=black),
        encoded(layer.convert("RGB"), "PNG", transparency=(0, 0, 0)),
    ]
    for raw in cases:
        assert near(opened(tidy(raw)), 70, 20, WHITE)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "I;16"])
def test_every_pixel_mode_comes_out_as_the_same_colours(mode: str) -> None:
    """Grey, palette, print and 16-bit pictures become ordinary RGB without losing their look."""
    grey = Image.new("L", (40, 40), 255)
    grey.paste(0, (0, 0, 20, 40))
    image = (
        grey.point(lambda level: level * 257, "I").convert("I;16") if mode == "I;16" else grey.convert(mode)
    )

    out = opened(tidy(encoded(image, "JPEG" if mode == "CMYK" else "PNG")))

    assert out.mode == "RGB"
    assert near(out, 5, 20, (0, 0, 0))
    assert near(out, 35, 20, WHITE)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    """Mid grey of a 16-bit picture stays mid grey."""
    image = Image.new("I;16", (8, 8), 32768)
    assert near(opened(tidy(encoded(image, "PNG"))), 4, 4, (127, 127, 127))


@pytest.mark.parametrize("profile", [b"garbage", b"\0" * 200, None])
def test_a_profile_that_does_not_fit_is_dropped(profile: bytes | None) -> None:
    """A broken profile, or one for another colour space, leaves the pixels as they are."""
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    raw = encoded(quarters(), "JPEG", icc_profile=profile or lab)
    assert near(opened(tidy(raw)), 5, 5, RED)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(format: str) -> None:
    """Of an animated file only the first frame is seen."""
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "green", "blue")]
    raw = encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=50)
    assert near(opened(tidy(raw)), 10, 10, RED)


def test_a_two_picture_jpeg_is_a_photo() -> None:
    """The multi-picture JPEG that many phones write is taken as its main picture."""
    raw = encoded(quarters(), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert sniff(raw) == "image/jpeg"
    assert near(opened(tidy(raw)), 5, 5, RED)


def _png_claiming(width: int, height: int) -> bytes:
    """A tiny PNG whose header claims any size."""
    raw = bytearray(encoded(Image.new("L", (1, 1)), "PNG"))
    raw[16:24] = struct.pack("!II", width, height)
    raw[29:33] = struct.pack("!I", zlib.crc32(raw[12:29]))
    return bytes(raw)


@pytest.mark.parametrize(("width", "height"), [(64_001, 1000), (100_000, 1000), (1 << 20, 1 << 20)])
def test_a_pixel_bomb_is_refused_before_decoding(width: int, height: int) -> None:
    """A header that claims more pixels than allowed is enough to refuse."""
    assert code_of(lambda: tidy(_png_claiming(width, height))) == "photo_too_complex"


def test_a_webp_bomb_is_refused() -> None:
    """Also for WebP, whose decoder would allocate its canvas while the file is opened."""
    raw = encoded(Image.new("RGB", (2000, 1001)), "WEBP", lossless=True)
    assert code_of(lambda: clean(raw, "image/png", 2_000_000, 1024)) == "photo_too_complex"
    assert code_of(lambda: clean(raw, "image/png", 500_000, 1024)) == "photo_too_complex"


def test_a_photo_of_exactly_the_allowed_pixels_is_taken() -> None:
    """The cap itself is allowed, also an odd one."""
    raw = encoded(Image.new("RGB", (101, 99)), "PNG")
    assert clean(raw, "image/png", 101 * 99, 1024).width == 101
    assert code_of(lambda: clean(raw, "image/png", 101 * 99 - 1, 1024)) == "photo_too_complex"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("percent", [2, 10, 50, 90])
def test_a_cut_photo_is_unreadable(format: str, percent: int) -> None:
    """A file that is cut in the middle never becomes a half-grey photo."""
    raw = encoded(quarters(size=(400, 300)).effect_spread(40), format)
    assert code_of(lambda: tidy(raw[: len(raw) * percent // 100])) == "photo_unreadable"


def test_another_format_behind_the_magic_bytes_is_unreadable() -> None:
    """Only the decoder of the sniffed type is ever asked."""
    gif = encoded(quarters().quantize(), "GIF")
    assert code_of(lambda: tidy(b"\x89PNG\r\n\x1a\n" + gif)) == "photo_unreadable"


@settings(max_examples=150)
@given(data=st.data(), format=st.sampled_from(["JPEG", "PNG", "WEBP"]))
def test_a_damaged_photo_is_a_photo_or_a_failure_code(data: st.DataObject, format: str) -> None:
    """Flipped bytes give a photo or JobFailed, never another error."""
    raw = bytearray(encoded(quarters(), format, exif=exif_with_gps(6)))
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    photo = None
    with contextlib.suppress(JobFailed):
        photo = tidy(bytes(raw), "image/jpeg")
    assert photo is None or GPS_CANARY.encode() not in photo.data


def test_the_codecs_are_built_in() -> None:
    """The installed Pillow can read and write all three types and knows colour profiles."""
    assert all(features.check(name) for name in ("jpg", "zlib", "webp", "littlecms2"))
