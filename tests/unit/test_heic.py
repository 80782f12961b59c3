"""HEIC and HEIF: how iPhones and many others keep their photos."""

from __future__ import annotations

import io
import struct

import pytest
from PIL import Image, ImageCms

from growbin.errors import JobFailed
from growbin.job import CleanPhoto
from growbin.photo import clean
from growbin.photo_file.by_type import sniff
from tests.heic_files import heic, phone_heic
from tests.hostile_photos import CANARY, exif, xmp

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def cleaned(data: bytes) -> CleanPhoto:
    return clean(data, "image/jpeg", max_pixels=200_000_000, max_side=1024)


def corners(photo: CleanPhoto) -> list[tuple[int, int, int] | None]:
    """Top left, top right, bottom left, bottom right; None where the colour is none of ours."""
    image = Image.open(io.BytesIO(photo.data))
    right, bottom = photo.width - 9, photo.height - 9
    return [named(image.getpixel(at)) for at in ((8, 8), (right, 8), (8, bottom), (right, bottom))]


def named(pixel: object) -> tuple[int, int, int] | None:
    assert isinstance(pixel, tuple)
    for colour in (RED, BLUE, WHITE):
        if all(abs(have - want) < 12 for have, want in zip(pixel, colour, strict=True)):
            return colour
    return None


@pytest.mark.parametrize(
    ("brands", "is_taken"),
    [
        (b"heic\0\0\0\0mif1heic", True),
        (b"heix\0\0\0\0mif1heix", True),
        (b"hevc\0\0\0\0msf1hevc", True),
        (b"mif1\0\0\0\0mif1heic", True),
        (b"mif1\0\0\0\0mif1heix", True),
        (b"mif1\0\0\0\0mif1avif", False),
        (b"avif\0\0\0\0mif1avif", False),
        (b"isom\0\0\0\0mp41heic", False),
        (b"mif1\0\0\0\0", False),
    ],
)
def test_the_first_bytes_tell_heic_from_its_relatives(brands: bytes, is_taken: bool) -> None:
    """By its brands: AVIF and films begin alike."""
    head = struct.pack("!I", 8 + len(brands)) + b"ftyp" + brands
    assert sniff(head + bytes(30)) == ("image/heic" if is_taken else None)


@pytest.mark.parametrize(
    ("turns", "size", "shown"),
    [
        (0, (1024, 768), [RED, WHITE, WHITE, BLUE]),
        (1, (768, 1024), [WHITE, BLUE, RED, WHITE]),
        (2, (1024, 768), [BLUE, WHITE, WHITE, RED]),
        (3, (768, 1024), [WHITE, RED, BLUE, WHITE]),
    ],
)
def test_a_phones_grid_of_tiles_comes_out_upright(
    turns: int, size: tuple[int, int], shown: list[tuple[int, int, int]]
) -> None:
    """12 megapixels with a preview, a depth map and Exif, whose orientation counts no second time."""
    photo = cleaned(phone_heic(8, 6, width=4032, height=3024, turns=turns, exif=exif(6).tobytes()[6:]))
    assert (photo.width, photo.height) == size
    assert corners(photo) == shown
    assert CANARY.encode() not in photo.data


def test_a_photo_of_48_megapixels_comes_out_upright() -> None:
    """The largest that phones write as HEIC."""
    photo = cleaned(phone_heic(16, 12, width=8064, height=6048, turns=3))
    assert (photo.width, photo.height) == (768, 1024)
    assert corners(photo) == [WHITE, RED, BLUE, WHITE]


def test_a_photo_in_one_piece_comes_out_bare() -> None:
    """12 megapixels without a grid; nothing of its metadata is in the bytes."""
    image = Image.new("RGB", (4032, 3024), "white")
    image.paste("red", (0, 0, 800, 800))
    photo = cleaned(heic(image, exif=exif(1).tobytes(), xmp=xmp()))
    assert corners(photo) == [RED, WHITE, WHITE, WHITE]
    assert CANARY.encode() not in photo.data


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "I;16"])
def test_every_pixel_mode_comes_out_as_the_same_colours(mode: str) -> None:
    """With alpha, in grey, and with more than eight bits."""
    if mode == "I;16":
        image = Image.new("I;16", (64, 64), 65_535)
    else:
        image = Image.new("RGB", (64, 64), "white").convert(mode)
    if mode == "RGBA":
        image.paste((0, 0, 0, 0), (0, 0, 64, 64))
    assert corners(cleaned(heic(image, quality=-1))) == [WHITE] * 4


def test_a_profile_is_followed() -> None:
    """Phones write colours of a wider space, and say so."""
    image = Image.new("RGB", (64, 64), (200, 60, 60))
    swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = swapped.replace(b"rXYZ", b"tXYZ").replace(b"gXYZ", b"rXYZ").replace(b"tXYZ", b"gXYZ")
    plain = Image.open(io.BytesIO(cleaned(heic(image, quality=95)).data)).getpixel((32, 32))
    followed = Image.open(io.BytesIO(cleaned(heic(image, quality=95, icc_profile=swapped)).data)).getpixel(
        (32, 32)
    )
    assert isinstance(plain, tuple)
    assert isinstance(followed, tuple)
    assert plain[0] > plain[1] + 80
    assert followed[1] > followed[0] + 80


def test_more_than_phones_write_is_refused_before_it_is_decoded() -> None:
    """The largest size that the file tells counts."""
    with pytest.raises(JobFailed) as failure:
        cleaned(phone_heic(1, 1, width=8000, height=6400))
    assert failure.value.code == "photo_too_complex"


def test_a_photo_of_ten_bits_comes_out_with_the_same_colours() -> None:
    """Fewer pixels of them are taken than of eight bits: each fills two bytes of the planes."""
    photo = cleaned(phone_heic(8, 6, width=4032, height=3024, turns=3, is_deep=True))
    assert corners(photo) == [WHITE, RED, BLUE, WHITE]
    with pytest.raises(JobFailed) as failure:
        cleaned(phone_heic(16, 12, width=8064, height=6048, is_deep=True))
    assert failure.value.code == "photo_too_complex"


def test_tiles_that_lie_about_their_size_are_unreadable() -> None:
    """The decoder compares what it decodes with what was told."""
    with pytest.raises(JobFailed) as failure:
        cleaned(phone_heic(4, 4, width=2048, height=2048, is_lying=True))
    assert failure.value.code == "photo_unreadable"


@pytest.mark.parametrize("percent", [1, 10, 50, 95])
def test_a_cut_photo_is_unreadable(percent: int) -> None:
    """A truncated file never becomes a photo with holes."""
    raw = phone_heic(2, 2, width=1024, height=1024)
    with pytest.raises(JobFailed) as failure:
        cleaned(raw[: len(raw) * percent // 100])
    assert failure.value.code == "photo_unreadable"
