"""The children that clean photos: one may crash, hang or be killed, and nobody else notices."""

import asyncio
import io
import os
import signal
import struct
import sys
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest
from PIL import Image

from growbin.adapters.photo_cleaner import ChildPhotoCleaner
from growbin.errors import JobFailed
from growbin.photo import MEMORY_BYTES, REQUEST


def jpeg(size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "JPEG", **options)
    return buffer.getvalue()


def endless_jpeg() -> bytes:
    """A small progressive JPEG that repeats its last scan often enough to take minutes."""
    whole = jpeg((6000, 6000), progressive=True)
    last_scan = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last_scan * 5000 + whole[-2:]


def bit_png(width: int, height: int) -> bytes:
    """A whole white PNG of one bit a pixel, in whose decoded form each pixel takes a byte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", checksum)

    packer = zlib.compressobj(1)
    line = b"\0" + b"\xff" * (width // 8)
    pixels = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    header = struct.pack("!IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def child_pids() -> set[int]:
    return {
        child.pid
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "growbin.photo" in " ".join(child.cmdline())
    }


@asynccontextmanager
async def opened(workers: int = 1, timeout_seconds: float = 15) -> AsyncIterator[ChildPhotoCleaner]:
    async with ChildPhotoCleaner.open(
        max_pixels=50_000_000, max_side=1024, workers=workers, timeout_seconds=timeout_seconds
    ) as cleaner:
        yield cleaner


async def works(cleaner: ChildPhotoCleaner) -> bool:
    photo = await cleaner.clean(jpeg(), "image/jpeg")
    return (photo.width, photo.height, photo.content_type) == (40, 30, "image/jpeg")


async def gone(pids: set[int]) -> bool:
    for _ in range(100):
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
            return True
        await asyncio.sleep(0.05)
    return False


async def test_photos_are_cleaned_by_a_few_children_that_stay() -> None:
    """Many photos at once are shared among the same children, each answer to its own photo."""
    async with opened(workers=2) as cleaner:
        first = child_pids()
        sizes = [(20 + number, 10) for number in range(20)]
        photos = await asyncio.gather(*(cleaner.clean(jpeg(size), "image/png") for size in sizes))
        assert [(photo.width, photo.height) for photo in photos] == sizes
        assert child_pids() == first
        assert len(first) == 2


async def test_closing_the_cleaner_ends_its_children() -> None:
    """No child is left when the cleaner is closed."""
    async with opened(workers=2) as cleaner:
        assert await works(cleaner)
        pids = child_pids()
    assert not child_pids()
    assert await gone(pids)


async def test_a_large_answer_passes_whole() -> None:
    """A picture that does not compress comes back complete."""
    noise = Image.frombytes("RGB", (1024, 1024), os.urandom(1024 * 1024 * 3))
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    async with opened() as cleaner:
        photo = await cleaner.clean(buffer.getvalue(), "image/png")
    assert Image.open(io.BytesIO(photo.data)).tobytes() == noise.tobytes()


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"GIF89a", "unsupported_photo"), (b"", "unsupported_photo"), (jpeg()[:300], "photo_unreadable")],
)
async def test_a_bad_photo_fails_with_its_code_and_keeps_its_child(data: bytes, code: str) -> None:
    """What the child refuses politely costs no child."""
    async with opened() as cleaner:
        assert await works(cleaner)
        before = child_pids()
        with pytest.raises(JobFailed) as failure:
            await cleaner.clean(data, "image/jpeg")
        assert failure.value.code == code
        assert await works(cleaner)
        assert child_pids() == before


async def test_a_photo_that_takes_too_long_is_given_up_and_its_child_replaced() -> None:
    """After the time-out the child is dead, the photo failed, and the next photo is cleaned."""
    async with opened(timeout_seconds=3) as cleaner:
        assert await works(cleaner)
        before = child_pids()
        with pytest.raises(JobFailed) as failure:
            await cleaner.clean(endless_jpeg(), "image/jpeg")
        assert failure.value.code == "photo_too_complex"
        assert await gone(before)
        assert await works(cleaner)


async def test_a_photo_that_needs_more_memory_than_a_child_may_have_fails_and_the_pool_lives_on() -> None:
    """Few bytes that unpack to more than the limit end `failed`, not the machine; a large one within it and
    the next photos are cleaned."""
    side = 1 << 15
    assert side * side >= MEMORY_BYTES
    async with ChildPhotoCleaner.open(max_pixels=2 * side * side, max_side=64, workers=2) as cleaner:
        with pytest.raises(JobFailed) as failure:
            await cleaner.clean(bit_png(side, side), "image/png")
        assert failure.value.code == "photo_too_complex"
        photo = await cleaner.clean(bit_png(side // 8, side // 8), "image/png")
        assert (photo.width, photo.height) == (64, 64)
        assert all(await asyncio.gather(*(works(cleaner) for _ in range(4))))
        assert len(child_pids()) == 2


async def test_a_child_that_dies_over_a_photo_fails_only_that_photo() -> None:
    """A child killed in the middle takes its own photo with it, not the neighbour's or the next one's."""
    async with opened(workers=2) as cleaner:
        assert all(await asyncio.gather(works(cleaner), works(cleaner)))
        doomed = asyncio.create_task(cleaner.clean(endless_jpeg(), "image/jpeg"))
        victim = await _busy_child()
        assert await works(cleaner)
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(JobFailed) as failure:
            await doomed
        assert failure.value.code == "photo_unreadable"
        assert all(await asyncio.gather(*(works(cleaner) for _ in range(4))))


async def _busy_child() -> int:
    """The child that has begun to use the processor."""
    start = {pid: psutil.Process(pid).cpu_times().user for pid in child_pids()}
    for _ in range(200):
        await asyncio.sleep(0.05)
        for pid, seconds in start.items():
            if psutil.Process(pid).cpu_times().user > seconds + 0.3:
                return pid
    raise AssertionError("no child is busy")


async def test_a_child_killed_while_idle_fails_no_photo() -> None:
    """Whoever kills an idle child, the next photo gets a fresh one."""
    async with opened() as cleaner:
        assert await works(cleaner)
        for kill in (signal.SIGKILL, signal.SIGTERM):
            for pid in child_pids():
                os.kill(pid, kill)
            assert await works(cleaner)
            assert len(child_pids()) == 1


async def test_a_cancelled_photo_leaves_no_answer_for_the_next() -> None:
    """After a cancel the next photo gets its own answer, from a fresh child."""
    async with opened() as cleaner:
        assert await works(cleaner)
        before = child_pids()
        cleaning = asyncio.create_task(cleaner.clean(endless_jpeg(), "image/jpeg"))
        await asyncio.sleep(0.1)
        cleaning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cleaning
        assert await works(cleaner)
        assert child_pids().isdisjoint(before)


async def test_a_child_ends_with_its_parent() -> None:
    """When standard input closes, as it does when the consumer is killed, the child ends by itself."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "growbin.photo"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    photo = jpeg()
    rest, _ = await child.communicate(
        REQUEST.pack(len(photo), 0, 1_000_000, 1024) + photo + b"half a header"[:5]
    )
    assert rest.startswith(b"\x06")
    assert child.returncode == 0


async def test_a_child_runs_without_our_environment() -> None:
    """No secret of the consumer is in reach of a hostile photo."""
    async with opened():
        for pid in child_pids():
            assert not psutil.Process(pid).environ()
