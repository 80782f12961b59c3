"""The children that clean photos: one may crash, hang or be killed, and nobody else notices."""

import asyncio
import io
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from PIL import Image

from growbin.adapters.photo_cleaner import ChildPhotoCleaner, _Origin, _Turns, usable_cores
from growbin.config import Settings
from growbin.errors import JobFailed
from growbin.photo import ANSWER, MEMORY_BYTES, REQUEST
from growbin.wiring.consumer import open_cleaner
from growbin.wiring.parts import CannotStart
from tests.heic_files import phone_heic
from tests.hostile_photos import RGB, png, scan_bomb


def jpeg(size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "JPEG", **options)
    return buffer.getvalue()


def slow_jpeg() -> bytes:
    """About the slowest that is let through: a second or two."""
    return scan_bomb(7000, 7000, 75, refining=True)


def child_pids() -> set[int]:
    return {
        child.pid
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "growbin.photo" in " ".join(child.cmdline())
    }


@asynccontextmanager
async def opened(children: int = 1, timeout_seconds: float = 60) -> AsyncIterator[ChildPhotoCleaner]:
    async with ChildPhotoCleaner.open(
        max_pixels=200_000_000, max_side=1024, children=children, timeout_seconds=timeout_seconds
    ) as cleaner:
        yield cleaner


async def works(cleaner: ChildPhotoCleaner) -> bool:
    photo = await cleaner.clean(jpeg(), "image/jpeg")
    return (photo.width, photo.height, photo.content_type) == (40, 30, "image/jpeg")


CLEANS_ONE = """
import asyncio
from growbin.adapters.photo_cleaner import ChildPhotoCleaner

async def clean() -> None:
    async with ChildPhotoCleaner.open(max_pixels=100, max_side=100, children=1) as cleaner:
        await cleaner.look()

asyncio.run(clean())
"""


def test_children_find_what_their_parent_found() -> None:
    """Packages of a user's own (`pip install --user`) or on PYTHONPATH are no Python's of itself."""
    bare_python = Path(sys.base_prefix) / "bin" / Path(sys.executable).name
    paths = [path for path in sys.path if path and not path.startswith(sys.base_prefix)]
    ended = subprocess.run(
        [bare_python, "-c", CLEANS_ONE],
        env={"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr


async def test_children_that_cannot_work_are_told_before_a_photo_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A consumer that could clean nothing does not start, rather than fail every photo."""
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(CannotStart, match="no photo can be cleaned here"):
        async with open_cleaner(Settings(photo_children=1)):
            pass


async def gone(pids: set[int]) -> bool:
    for _ in range(600):
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
            return True
        await asyncio.sleep(0.05)
    return False


async def test_photos_are_cleaned_by_a_few_children_that_stay() -> None:
    """Many photos at once are shared among the same children, each answer to its own photo."""
    async with opened(children=2) as cleaner:
        first = child_pids()
        sizes = [(20 + number, 10) for number in range(20)]
        photos = await asyncio.gather(*(cleaner.clean(jpeg(size), "image/png") for size in sizes))
        assert [(photo.width, photo.height) for photo in photos] == sizes
        assert child_pids() == first
        assert len(first) == 2


async def test_closing_the_cleaner_ends_its_children() -> None:
    """No child is left when the cleaner is closed."""
    async with opened(children=2) as cleaner:
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
    async with opened(timeout_seconds=8) as cleaner:
        assert await works(cleaner)
        before = child_pids()
        for pid in before:
            os.kill(pid, signal.SIGSTOP)
        with pytest.raises(JobFailed) as failure:
            await cleaner.clean(jpeg(), "image/jpeg")
        assert failure.value.code == "photo_too_complex"
        assert await gone(before)
        assert await works(cleaner)


async def answer_of(changes: str, data: bytes, *, times: int = 1) -> tuple[int, bytes]:
    """Exit status and what a child said to the photo; `changes` are made to its module before it begins."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", f"from growbin import photo\n{changes}\nphoto.main()"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await child.communicate((REQUEST.pack(len(data), 0, 200_000_000, 64) + data) * times)
    assert child.returncode is not None
    return child.returncode, said[1 + ANSWER.size :]


async def test_a_photo_that_needs_more_memory_than_a_child_may_have_fails() -> None:
    """The limit is the system's: what a walk did not foresee is refused by it, and the child lives."""
    for photo in (png(6000, 4000, 8, RGB), phone_heic(8, 6, width=4032, height=3024)):
        assert await answer_of("photo.MEMORY_BYTES = 80_000_000", photo) == (0, b"photo_too_complex")
        assert (await answer_of("", photo))[1].startswith(b"\xff\xd8")


async def test_a_photo_that_needs_more_time_than_a_child_may_take_ends_it() -> None:
    """CPU time is counted for each photo, not for the child's life."""
    assert (await answer_of("photo.CPU_SECONDS = 0.2", slow_jpeg()))[0] == -signal.SIGPROF
    quicker = scan_bomb(7000, 7000, 10, refining=True)
    assert (await answer_of("photo.CPU_SECONDS = 1.0", quicker, times=6))[0] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="psutil reads another process's limits on Linux only")
async def test_children_have_the_limits_that_pods_are_sized_for() -> None:
    """What they write to, and the libraries they read, stay below 400 MB."""
    async with opened() as cleaner:
        assert await works(cleaner)
        (pid,) = child_pids()
        assert psutil.Process(pid).rlimit(psutil.RLIMIT_DATA) == (MEMORY_BYTES, MEMORY_BYTES)
        shared_bytes = psutil.Process(pid).memory_info().shared
    assert MEMORY_BYTES + shared_bytes < 400_000_000


async def test_a_child_that_dies_over_a_photo_fails_only_that_photo() -> None:
    """A child killed in the middle takes its own photo with it, not the neighbour's or the next one's."""
    async with opened(children=2) as cleaner:
        assert all(await asyncio.gather(works(cleaner), works(cleaner)))
        doomed = asyncio.create_task(cleaner.clean(slow_jpeg(), "image/jpeg"))
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
    for _ in range(600):
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
        cleaning = asyncio.create_task(cleaner.clean(slow_jpeg(), "image/jpeg"))
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


# --- turns ---------------------------------------------------------------------------------------


async def order_of(children: int, *photos: tuple[str | None, str | None]) -> list[list[int]]:
    """Which photos, by number, are at work at each moment: all come at once, and each takes as long."""
    turns, moments, at_work = _Turns(children), list[list[int]](), list[int]()
    steps = asyncio.Condition()

    async def work(number: int, origin: _Origin) -> None:
        async with turns.turn(origin):
            at_work.append(number)
            async with steps:
                await steps.wait()
            at_work.remove(number)

    working = [asyncio.create_task(work(number, _Origin(*photo))) for number, photo in enumerate(photos)]
    while not all(task.done() for task in working):
        for _ in range(5):
            await asyncio.sleep(0)
        if at_work:
            moments.append(sorted(at_work))
        async with steps:
            steps.notify_all()
    return moments


async def test_photos_of_one_owner_are_cleaned_one_after_another() -> None:
    """Whoever sends four keeps one child busy, and the next person's photo is cleaned at once."""
    mine = [("me", "home")] * 4
    assert await order_of(4, *mine, ("you", "away")) == [[0, 4], [1], [2], [3]]


async def test_photos_of_one_address_leave_a_child_for_others() -> None:
    """Four sessions of one address never have all children, whoever waits."""
    here = [(f"session {number}", "here") for number in range(4)]
    assert await order_of(3, *here, ("you", "away")) == [[0, 1, 4], [2, 3]]
    assert await order_of(2, *here, ("you", "away")) == [[0, 4], [1], [2], [3]]


async def test_address_with_the_fewest_photos_at_work_comes_first() -> None:
    """Who waits longest among those with equally few."""
    here = [(f"session {number}", "here") for number in range(3)]
    assert await order_of(3, *here, ("you", "away"), ("she", "there")) == [[0, 1, 3], [2, 4]]


async def test_owners_of_one_address_take_turns() -> None:
    """Behind one address each session's first photo comes before anybody's second."""
    mine, yours = [("me", "here")] * 3, [("you", "here")] * 2
    assert await order_of(2, *mine, *yours) == [[0], [3], [1], [4], [2]]
    assert await order_of(3, *mine, *yours) == [[0, 3], [1, 4], [2]]


async def test_photos_of_unknown_origin_take_every_child() -> None:
    """An event of an earlier version may know no address, and what asks without a job knows no owner."""
    assert await order_of(2, (None, None), (None, None), (None, None)) == [[0, 1], [2]]
    assert await order_of(2, ("a", None), ("b", None), ("b", None)) == [[0, 1], [2]]


async def test_one_child_serves_all_in_turn() -> None:
    """A consumer with a single child cannot keep one free."""
    assert await order_of(1, ("a", "x"), ("b", "x"), ("a", "x")) == [[0], [1], [2]]


async def test_photo_given_up_while_it_waits_keeps_no_place() -> None:
    """Cancelled before its turn, or in it, it makes room for the next."""
    turns, me = _Turns(1), _Origin("me", "home")

    async def work() -> None:
        async with turns.turn(me):
            await asyncio.Event().wait()

    first, second = asyncio.create_task(work()), asyncio.create_task(work())
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    async with asyncio.timeout(30), turns.turn(me):
        pass


async def test_photo_of_another_is_cleaned_beside_the_slowest() -> None:
    """Four of the worst of one session hold one child; somebody else's photo needs no turn of theirs."""
    async with opened(children=2) as cleaner:
        worst = [
            asyncio.create_task(cleaner.clean(slow_jpeg(), "image/jpeg", owner="they", address="away"))
            for _ in range(4)
        ]
        await _busy_child()
        photo = await cleaner.clean(jpeg(), "image/jpeg", owner="me", address="home")
        assert photo.width == 40
        assert not any(task.done() for task in worst)
        for task in worst:
            task.cancel()
        await asyncio.gather(*worst, return_exceptions=True)


async def test_children_follow_the_cores_unless_told() -> None:
    """One more than there are cores."""
    async with ChildPhotoCleaner.open(max_pixels=1000, max_side=64):
        assert len(child_pids()) == usable_cores() + 1


async def test_largest_photo_finds_the_room_that_usual_ones_took() -> None:
    """Between photos a child keeps as much memory as a usual one takes, also for one that needs all that a
    child may have."""
    usual, largest = png(4080, 2040, 8, RGB), scan_bomb(16_320, 10_160, 1)
    async with opened() as cleaner:
        for photo in (usual, usual, largest, usual):
            assert (await cleaner.clean(photo, "image/jpeg")).width == 1024
