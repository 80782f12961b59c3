"""What the terminal sends of a photo."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from PIL import Image

from growbin.commands.photo_to_send import LONGEST_SIDE, MAX_BYTES, UnusablePhoto, photo_to_send
from tests.e2e.photos import drawn, with_secrets
from tests.heic_files import phone_heic


def kept(folder: Path, data: bytes) -> Path:
    file = folder / "photo"
    file.write_bytes(data)
    return file


def noise(image_format: str, side: int) -> bytes:
    picture = Image.frombytes("RGB", (side, side), random.randbytes(side * side * 3))
    output = io.BytesIO()
    picture.save(output, image_format)
    return output.getvalue()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_small_photo_is_sent_as_it_is(tmp_path: Path, image_format: str) -> None:
    """Byte for byte, under its own type."""
    data = drawn(image_format)
    assert photo_to_send(kept(tmp_path, data)) == (data, f"image/{image_format.lower()}")


def test_large_photo_becomes_a_smaller_jpeg(tmp_path: Path) -> None:
    """Upright, no side longer than 2,048 pixels, without camera and place."""
    data, content_type = photo_to_send(kept(tmp_path, with_secrets(4000, 3000)))
    sent = Image.open(io.BytesIO(data))
    assert content_type == "image/jpeg"
    assert sent.size == (1536, LONGEST_SIDE)  # it lay on its side
    assert not sent.getexif()
    assert b"Telltale" not in data


def test_photo_of_many_bytes_becomes_a_jpeg(tmp_path: Path) -> None:
    """Though its sides are short, it has more than 10 MB."""
    heavy = noise("PNG", 2000)
    assert len(heavy) > MAX_BYTES
    data, content_type = photo_to_send(kept(tmp_path, heavy))
    assert content_type == "image/jpeg"
    assert len(data) < MAX_BYTES


@pytest.mark.parametrize(("width", "taken_as"), [(900, "image/heic"), (3000, "image/jpeg")])
def test_phones_heic_is_taken(tmp_path: Path, width: int, taken_as: str) -> None:
    """A small one goes as it is, a large one as JPEG."""
    photo = phone_heic(-(-width // 512), 2, width=width, height=800)
    data, content_type = photo_to_send(kept(tmp_path, photo))
    assert content_type == taken_as
    assert (data == photo) == (taken_as == "image/heic")


def test_damaged_photo_is_left_to_the_service(tmp_path: Path) -> None:
    """Which says what is wrong with it, in the person's language."""
    damaged = drawn("JPEG", 3000, 2000)[:3000]
    assert photo_to_send(kept(tmp_path, damaged)) == (damaged, "image/jpeg")


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"no photo", "unsupported_photo"), (b"\xff\xd8\xff" + bytes(MAX_BYTES), "photo_too_large")],
)
def test_what_cannot_be_sent_is_refused_in_a_sentence(tmp_path: Path, data: bytes, code: str) -> None:
    """With a stable word, before anything is sent."""
    with pytest.raises(UnusablePhoto, match=r"JPEG, PNG, WebP or HEIC|10 MB are taken") as refusal:
        photo_to_send(kept(tmp_path, data))
    assert refusal.value.code == code


def test_absent_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """That says what the system said."""
    with pytest.raises(UnusablePhoto, match="cannot be read: No such file"):
        photo_to_send(tmp_path / "gone.jpg")
