"""Photos that are hostile, broken or merely odd, made here: `for name, data in corpus(): ...`.

Whatever of their metadata can hold a text holds CANARY, which must be found nowhere behind the photo cleaner.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator

from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from tests.heic_files import heic, phone_heic

CANARY = "GPSCANARY-37.56657"
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
_SAMPLES = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}

Photos = Iterator[tuple[str, bytes]]


def corpus() -> Photos:
    """Some 3,100, always the same."""
    chance = random.Random(7)
    yield from damaged(chance)
    yield from told_wrongly(chance)
    yield from odd(chance)
    yield from packed()
    yield from larger_than_they_look()
    yield from costly()


# --- making them ---------------------------------------------------------------------------------


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def noise(width: int, height: int) -> Image.Image:
    return Image.effect_noise((width, height), 80).convert("RGB")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack("!I", len(content)) + kind + content + struct.pack("!I", zlib.crc32(kind + content))


def png(
    width: int, height: int, depth: int, colour: int, *, extra: bytes = b"", pixels: bytes | None = None
) -> bytes:
    """A PNG of one grey, whatever its size; `extra` stands before its pixels."""
    if pixels is None:
        packer = zlib.compressobj(9)
        line = b"\0" + b"\x55" * ((width * depth * _SAMPLES[colour] + 7) // 8)
        pixels = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    header = struct.pack("!IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def flat_jpeg(width: int, height: int) -> bytes:
    """A grey 4:2:0 JPEG of any size, of which each 16 x 16 pixels take 12 bits."""
    tables = b"\xff\xdb\0\x43\0" + b"\1" * 64 + b"".join(_huffman(kind, 0) for kind in (0x00, 0x10))
    frame = struct.pack("!HBHHB", 17, 8, height, width, 3) + b"\1\x22\0\2\x11\0\3\x11\0"
    scan = b"\xff\xda\0\x0c\3\1\0\2\0\3\0\0\x3f\0"
    blocks = -(-width // 16) * -(-height // 16) * 6
    return b"\xff\xd8" + tables + b"\xff\xc0" + frame + scan + bytes(-(-blocks * 2 // 8)) + b"\xff\xd9"


def scan_bomb(width: int, height: int, scans: int, *, refining: bool = False) -> bytes:
    """A progressive grey JPEG that walks over all its blocks with each few bytes of a further scan."""
    frame = struct.pack("!HBHHB", 11, 8, height, width, 1) + b"\1\x11\0"
    blocks = -(-width // 8) * -(-height // 8)
    runs = -(-blocks // 32_767)
    bits = ("0" + "1" * 14) * runs
    bits += "1" * (-len(bits) % 8)
    data = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)).replace(b"\xff", b"\xff\0")
    first = b"\xff\xda\0\x08\1\1\0\0\0\0" + bytes(-(-blocks // 8))
    begun = b"\xff\xda\0\x08\1\1\0\1\x3f\1" + data if refining else b""
    further = b"\xff\xda\0\x08\1\1\0\1\x3f" + (b"\x10" if refining else b"\0") + data
    return (
        b"\xff\xd8\xff\xdb\0\x43\0"
        + b"\1" * 64
        + b"\xff\xc2"
        + frame
        + _huffman(0x00, 0)
        + _huffman(0x10, 0xE0)
        + first
        + begun
        + further * scans
        + b"\xff\xd9"
    )


def _huffman(kind: int, symbol: int) -> bytes:
    """A table that knows one symbol, written as a single 0."""
    return b"\xff\xc4\0\x14" + bytes((kind, 1)) + bytes(15) + bytes((symbol,))


def behind_start(jpeg: bytes, inserted: bytes) -> bytes:
    return jpeg[:2] + inserted + jpeg[2:]


def segment(code: int, content: bytes) -> bytes:
    return bytes((0xFF, code)) + struct.pack("!H", len(content) + 2) + content


def exif(orientation: int | None = None) -> Image.Exif:
    made = Image.Exif()
    if orientation is not None:
        made[0x0112] = orientation
    made[0x010E] = CANARY
    made.get_ifd(0x8825).update({1: "N", 2: (37.0, 33.0, 59.9), 3: "E", 4: (126.0, 58.0, 41.0), 29: CANARY})
    return made


def xmp() -> bytes:
    return f'<x:xmpmeta><rdf:Description exif:GPSLatitude="{CANARY}"/></x:xmpmeta>'.encode()


def profile(space: str = "sRGB") -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()  # type: ignore[arg-type]  # a name


# --- the corpus ----------------------------------------------------------------------------------


def whole() -> dict[str, bytes]:
    """One of each kind, full of metadata."""
    picture, small = noise(640, 480), noise(320, 240)
    return {
        "jpeg": encoded(picture, "JPEG", quality=85, exif=exif(6), xmp=xmp(), comment=CANARY),
        "progressive": encoded(picture, "JPEG", progressive=True, exif=exif(3)),
        "png": encoded(small, "PNG", exif=exif(6)),
        "webp": encoded(picture, "WEBP", quality=80, exif=exif(3), xmp=xmp()),
        "lossless": encoded(small, "WEBP", lossless=True, exif=exif(8)),
        "heic": heic(small, exif=exif(6).tobytes(), xmp=xmp()),
        "grid": phone_heic(2, 2, width=900, height=800, turns=3, exif=exif(6).tobytes()[6:]),
    }


def damaged(chance: random.Random) -> Photos:
    for kind, data in whole().items():
        for percent in range(100):
            yield f"cut/{kind}-{percent}", data[: len(data) * percent // 100]
        for number in range(200):
            changed = bytearray(data)
            for _ in range(chance.choice((1, 1, 4, 32))):
                changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            yield f"flipped/{kind}-{number}", bytes(changed)
        for number in range(120):
            changed = bytearray(data)
            changed[chance.randrange(4, min(len(data), 1200))] = chance.randrange(256)
            yield f"header/{kind}-{number}", bytes(changed)


def told_wrongly(chance: random.Random) -> Photos:
    """Metadata that lies, is broken, or far too large."""
    image = Image.new("RGB", (60, 40), "red")
    profiles = {
        "junk": chance.randbytes(3000),
        "huge": profile() + bytes(9_000_000),
        "cut": profile()[:200],
        "zero": bytes(128),
        "lab": profile("LAB"),
        "canary": profile() + CANARY.encode(),
    }
    for format in ("JPEG", "PNG", "WEBP"):
        for orientation in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 65_535):
            yield f"orientation/{format}-{orientation}", encoded(image, format, exif=exif(orientation))
        broken = b"Exif\0\0II*\0\xff\xff\xff\xff" + chance.randbytes(200)
        yield f"exif/{format}", encoded(image, format, exif=broken)
        for name, made in profiles.items():
            yield f"profile/{format}-{name}", encoded(image, format, icc_profile=made)
    entries = struct.pack("<HHII", 0x010E, 7, 60_000, 8) * 4900
    greedy = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 4900) + entries
    yield "exif/greedy", behind_start(encoded(image, "JPEG"), segment(0xE1, greedy))
    text = PngInfo()
    text.add_text("Comment", CANARY)
    text.add_text("zz", CANARY, zip=True)
    text.add_itxt("XML:com.adobe.xmp", xmp().decode())
    yield "text/png", encoded(image, "PNG", pnginfo=text, exif=exif(1))
    plain = encoded(noise(640, 480), "JPEG")
    yield "filler/run", behind_start(plain, b"\xff" * 9_000_000)
    yield "filler/zeros", behind_start(plain, segment(0xFE, b"") + bytes(9_000_000))
    yield "filler/pairs", behind_start(plain, segment(0xFE, b"") + b"\xff\0" * 4_500_000)
    yield "filler/comments", behind_start(plain, segment(0xFE, b"") * 2_000_000)
    yield "filler/large-comments", behind_start(plain, segment(0xFE, CANARY.encode() * 3600) * 130)
    yield "filler/restarts", behind_start(plain, b"\xff\xd0" * 4_500_000)
    yield "filler/in-scan", plain[:-2] + b"\xff" * 9_000_000 + plain[-2:]
    yield "filler/tail", plain + bytes(9_000_000)


def odd(chance: random.Random) -> Photos:
    picture, red = noise(300, 200), Image.new("RGB", (60, 40), "red")
    for mode in ("L", "CMYK", "YCbCr"):
        yield f"mode/jpeg-{mode}", encoded(picture.convert(mode), "JPEG")
    for depth, colour in (
        *((depth, GREY) for depth in (1, 2, 4, 8, 16)),
        *((depth, colour) for colour in (RGB, GREY_ALPHA, RGBA) for depth in (8, 16)),
    ):
        yield f"mode/png-{depth}-{colour}", png(300, 200, depth, colour)
    for depth in (1, 2, 4, 8, 16):
        yield f"transparent/{depth}", png(300, 200, depth, GREY, extra=chunk(b"tRNS", b"\0\1"))
    frames = [Image.new("RGB", (200, 200), (number * 5, 0, 0)) for number in range(50)]
    for format in ("PNG", "WEBP", "GIF", "MPO"):
        yield f"frames/{format}", encoded(frames[0], format, save_all=True, append_images=frames[1:])
    for format in ("TIFF", "BMP", "GIF", "ICO", "PPM", "TGA", "PCX", "JPEG2000", "DDS", "SGI", "AVIF"):
        yield f"other/{format}", encoded(red, format)
    jpeg = encoded(picture, "JPEG")
    for name, data in {
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "html": b"<html><script>alert(1)</script>",
        "pdf": b"%PDF-1.7\n",
        "empty": b"",
        "one": b"\xff",
        "start": b"\xff\xd8",
        "signature": b"\x89PNG\r\n\x1a\n",
        "riff": b"RIFF\0\0\0\0WEBP",
        "ftyp": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "random": chance.randbytes(5000),
        "random-jpeg": b"\xff\xd8\xff" + chance.randbytes(50_000),
        "random-png": b"\x89PNG\r\n\x1a\n" + chance.randbytes(50_000),
        "random-webp": b"RIFF\x50\xc3\0\0WEBP" + chance.randbytes(50_000),
        "random-heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + chance.randbytes(50_000),
        "jpeg-html": jpeg + f"<html>{CANARY}".encode(),
        "gif-jpeg": b"GIF89a" + jpeg,
        "jpeg-jpeg": jpeg + jpeg,
    }.items():
        yield f"bytes/{name}", data


def packed() -> Photos:
    """Few bytes that unpack to many."""
    large = zlib.compress(b"A" * 200_000_000, 9)
    for kind, head in ((b"zTXt", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0"), (b"iCCP", b"k\0\0")):
        yield f"packed/{kind.decode()}", png(60, 40, 8, RGB, extra=chunk(kind, head + large))
    many = b"".join(chunk(b"zTXt", b"k%d\0\0" % n + zlib.compress(b"A" * 1_000_000)) for n in range(200))
    yield "packed/many-zTXt", png(60, 40, 8, RGB, extra=many)
    yield "packed/many-tEXt", png(60, 40, 8, RGB, extra=chunk(b"tEXt", b"k\0a") * 50_000)
    yield "packed/pixels", png(60, 40, 8, RGB, pixels=zlib.compress(bytes(100_000_000), 9))


def larger_than_they_look() -> Photos:
    yield "large/png-1-bit", png(30_000, 30_000, 1, GREY)
    for depth, colour in ((1, GREY), (8, RGB), (16, GREY), (16, RGBA), (8, RGBA)):
        yield f"large/png-{depth}-{colour}", png(10_000, 6400, depth, colour)
    yield "large/png-just-too-large", png(10_000, 6401, 8, RGB)
    palette = chunk(b"PLTE", b"\1\2\3" * 256) + chunk(b"tRNS", b"\x80" * 256)
    yield "large/png-palette", png(10_000, 6400, 8, PALETTE, extra=palette)
    yield "large/png-claims", png(2**31 - 1, 1, 8, GREY, pixels=b"x")
    yield "large/png-nothing", png(0, 0, 8, RGB, pixels=zlib.compress(b""))
    yield "large/png-across", png(50_000_000, 1, 8, GREY)
    yield "large/png-down", png(1, 50_000, 8, GREY)
    yield "large/jpeg-200", flat_jpeg(16_320, 12_240)
    yield "large/jpeg-across", flat_jpeg(65_500, 3000)
    yield "large/jpeg-line", flat_jpeg(65_500, 1)
    yield "large/jpeg-claims", flat_jpeg(16, 16).replace(b"\x08\0\x10\0\x10", b"\x08\xff\xdc\xff\xdc")
    yield "large/jpeg-claims-less", flat_jpeg(16, 16).replace(b"\x08\0\x10\0\x10", b"\x08\x1b\x58\x1b\x58")
    for name, size in (("allowed", (6200, 4100)), ("too-large", (7000, 7000))):
        flat = Image.new("RGBA", size, (1, 2, 3, 100))
        yield f"large/webp-{name}", encoded(flat, "WEBP", lossless=True, quality=0, method=0)
    yield "large/webp-claims", b"RIFF\x1e\0\0\0WEBPVP8L\x11\0\0\0\x2f\xff\xff\xff\x0f" + bytes(12)
    yield "large/heic-48", phone_heic(16, 12, width=8064, height=6048, turns=3)
    yield "large/heic-tiles-that-lie", phone_heic(16, 12, width=8064, height=6048, is_lying=True)
    yield "large/heic-claims", phone_heic(1, 1, width=60_000, height=60_000)


def costly() -> Photos:
    """What costs the most time, of what is let through and of what is not."""
    for scans in (10, 75, 1000, 20_000):
        yield f"scans/{scans}", scan_bomb(7000, 7000, scans)
        yield f"scans/refining-{scans}", scan_bomb(7000, 7000, scans, refining=True)
    yield "scans/110-megapixels", scan_bomb(12_208, 9008, 20, refining=True)
