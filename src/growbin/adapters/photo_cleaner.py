"""Photo hygiene in child processes (`python -m growbin.photo`): what a hostile picture may crash,
slow down or bloat is a child, never the consumer."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from growbin.errors import JobFailed, Unavailable
from growbin.job import CleanPhoto, ContentType
from growbin.photo import ANSWER, RECEIVED, REQUEST, TARGETS

# An isolated Python (-I) looks neither into a user's own packages nor into PYTHONPATH, where we may have been
# found ourselves: so the child is told where we look.
_CHILD = "import sys; sys.path[:] = sys.argv[1:]; from growbin.photo import main; main()"
# As PNG.
_WHITE_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a494441"
    "54789c63f80f0001010100b138f6140000000049454e44ae426082"
)


class ChildPhotoCleaner:
    """A few long-lived children, each cleaning one photo at a time."""

    def __init__(
        self, children: list[_Child], max_pixels: int, max_side: int, timeout_seconds: float
    ) -> None:
        self._idle = list(children)
        self._turns = _Turns(len(children))
        self._max_pixels = max_pixels
        self._max_side = max_side
        self._timeout_seconds = timeout_seconds

    @classmethod
    @asynccontextmanager
    async def open(
        cls, *, max_pixels: int, max_side: int, children: int | None = None, timeout_seconds: float = 15
    ) -> AsyncIterator[ChildPhotoCleaner]:
        """`max_side` bounds the longest side of what comes out, in pixels; `timeout_seconds` is the
        wall time one photo may take. One child more than there are cores, unless told otherwise: one
        address can then use all cores, and still leaves a child for others."""
        started = [_Child() for _ in range(children or usable_cores() + 1)]
        try:
            for child in started:
                await child.start()
            yield cls(started, max_pixels, max_side, timeout_seconds)
        finally:
            for child in started:
                await child.stop()

    async def look(self) -> None:
        """Clean one white pixel. Raises Unavailable or JobFailed when no photo could be cleaned."""
        await self.clean(_WHITE_PIXEL, "image/jpeg")

    async def clean(
        self, data: bytes, target: ContentType, *, owner: str | None = None, address: str | None = None
    ) -> CleanPhoto:
        """Raises JobFailed: unsupported_photo, photo_unreadable (also when its child died over it),
        photo_too_complex (also when it took too long); Unavailable when no child can be started."""
        header = REQUEST.pack(len(data), TARGETS.index(target), self._max_pixels, self._max_side)
        async with self._turns.turn(_Origin(owner, address)):
            child = self._idle.pop()  # the last used is the warmest
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    width, height, payload = await child.ask(header, data)
            except TimeoutError:
                raise JobFailed("photo_too_complex", "took too long to clean") from None
            finally:
                self._idle.append(child)
        if width == 0:
            raise JobFailed(payload.decode())
        return CleanPhoto(payload, target, width, height)


def usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class _Origin:
    """Whose photo it is, as far as known."""

    owner: str | None
    address: str | None


@dataclass(eq=False, slots=True)
class _Turn:
    origin: _Origin
    round: int
    begun: asyncio.Future[None]


class _Turns:
    """Who goes to work next. One owner has one child at most, and one address leaves one for others; of those
    who wait, each owner's first photo comes before anybody's second. So costly photos of one person make
    nobody else wait."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._at_work: list[_Turn] = []
        self._waiting: list[_Turn] = []
        self._round = 0

    @asynccontextmanager
    async def turn(self, origin: _Origin) -> AsyncIterator[None]:
        begun = asyncio.get_running_loop().create_future()
        turn = _Turn(origin, self._next_round(origin.owner), begun)
        self._waiting.append(turn)
        self._begin()
        try:
            await begun
            yield
        finally:
            (self._at_work if turn in self._at_work else self._waiting).remove(turn)
            self._begin()

    def _next_round(self, owner: str | None) -> int:
        """The present one, or that after the owner's last photo."""
        own = [turn.round + 1 for turn in self._at_work + self._waiting if turn.origin.owner == owner]
        return self._round if owner is None else max([self._round, *own])

    def _begin(self) -> None:
        while ready := [turn for turn in self._waiting if self._may_work(turn.origin)]:
            turn = min(ready, key=lambda turn: (self._at_work_from(turn.origin.address), turn.round))
            self._waiting.remove(turn)
            self._at_work.append(turn)
            self._round = max(self._round, turn.round)
            if not turn.begun.done():  # else it is being given up, and makes room at once
                turn.begun.set_result(None)

    def _may_work(self, origin: _Origin) -> bool:
        idle = self._places - len(self._at_work)
        if origin.owner is not None and any(turn.origin.owner == origin.owner for turn in self._at_work):
            return False
        return idle > (1 if self._at_work_from(origin.address) else 0)

    def _at_work_from(self, address: str | None) -> int:
        return sum(address is not None and turn.origin.address == address for turn in self._at_work)


class _NotReceived(Exception):
    """The child died before it had read the photo, so the photo is not to blame."""


class _Child:
    """One child process; replaced, when next needed, after anything but a complete answer."""

    def __init__(self) -> None:
        self._process: Process | None = None

    async def start(self) -> None:
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-c", _CHILD, *map(os.path.abspath, sys.path)),
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                limit=1 << 30,  # never pause: a paused pipe does not notice the child's end
                env={},  # none of our secrets
                process_group=0,  # a signal meant for us must not end a photo; its stdin does
            )
        except OSError as error:
            raise Unavailable("photo_cleaner", f"cannot start a child: {error}") from error

    async def ask(self, header: bytes, data: bytes) -> tuple[int, int, bytes]:
        """Width, height and bytes of the clean photo, or 0, 0 and a failure code."""
        try:
            return await self._ask_once(header, data)
        except _NotReceived:
            pass
        try:
            return await self._ask_once(header, data)
        except _NotReceived:
            raise Unavailable("photo_cleaner", "children die before they read") from None

    async def _ask_once(self, header: bytes, data: bytes) -> tuple[int, int, bytes]:
        if self._process is None:
            await self.start()
        assert self._process is not None
        answered = False
        try:
            await _send(self._process, header, data)
            answer = await _receive(self._process)
            answered = True
            return answer
        finally:
            if not answered:  # also when cancelled: the rest of an answer must not meet the next photo
                await self.stop()

    async def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await _end(process)


async def _send(process: Process, header: bytes, data: bytes) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(header)
        process.stdin.write(data)
        await process.stdin.drain()
        received = await process.stdout.read(1)
    except ConnectionError as error:
        raise _NotReceived from error
    if received != RECEIVED:
        raise _NotReceived


async def _receive(process: Process) -> tuple[int, int, bytes]:
    assert process.stdout is not None
    try:
        length, width, height = ANSWER.unpack(await process.stdout.readexactly(ANSWER.size))
        return width, height, await process.stdout.readexactly(length)
    except asyncio.IncompleteReadError:
        if await process.wait() == -signal.SIGPROF:
            raise JobFailed("photo_too_complex", "took too much CPU time") from None
        raise JobFailed("photo_unreadable", f"its child died ({process.returncode})") from None


async def _end(process: Process) -> None:
    """Kill and reap."""
    with suppress(ProcessLookupError):
        process.kill()
    assert process.stdin is not None
    process.stdin.close()
    await process.wait()
