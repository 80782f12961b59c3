"""Photo hygiene in child processes (`python -m growbin.photo`): what a hostile picture may crash,
slow down or bloat is a child, never the consumer."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from growbin.errors import JobFailed, Unavailable
from growbin.job import CleanPhoto, ContentType
from growbin.photo import ANSWER, RECEIVED, REQUEST, TARGETS


class ChildPhotoCleaner:
    """A few long-lived children, each cleaning one photo at a time."""

    def __init__(
        self, children: list[_Child], max_pixels: int, max_side: int, timeout_seconds: float
    ) -> None:
        self._idle: asyncio.LifoQueue[_Child] = asyncio.LifoQueue()  # the last used is the warmest
        for child in children:
            self._idle.put_nowait(child)
        self._max_pixels = max_pixels
        self._max_side = max_side
        self._timeout_seconds = timeout_seconds

    @classmethod
    @asynccontextmanager
    async def open(
        cls, *, max_pixels: int, max_side: int, workers: int = 2, timeout_seconds: float = 15
    ) -> AsyncIterator[ChildPhotoCleaner]:
        """`max_side` bounds the longest side of what comes out, in pixels; `timeout_seconds` is the
        wall time one photo may take."""
        children = [_Child() for _ in range(workers)]
        try:
            for child in children:
                await child.start()
            yield cls(children, max_pixels, max_side, timeout_seconds)
        finally:
            for child in children:
                await child.stop()

    async def clean(self, data: bytes, target: ContentType) -> CleanPhoto:
        """Raises JobFailed: unsupported_photo, photo_unreadable (also when its child died over it),
        photo_too_complex (also when it took too long); Unavailable when no child can be started."""
        header = REQUEST.pack(len(data), TARGETS.index(target), self._max_pixels, self._max_side)
        child = await self._idle.get()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                width, height, payload = await child.ask(header, data)
        except TimeoutError:
            raise JobFailed("photo_too_complex", "took too long to clean") from None
        finally:
            self._idle.put_nowait(child)
        if width == 0:
            raise JobFailed(payload.decode())
        return CleanPhoto(payload, target, width, height)


class _NotReceived(Exception):
    """The child died before it had read the photo, so the photo is not to blame."""


class _Child:
    """One child process; replaced, when next needed, after anything but a complete answer."""

    def __init__(self) -> None:
        self._process: Process | None = None

    async def start(self) -> None:
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-m", "growbin.photo"),
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
        if await process.wait() == -signal.SIGXCPU:
            raise JobFailed("photo_too_complex", "took too much CPU time") from None
        raise JobFailed("photo_unreadable", f"its child died ({process.returncode})") from None


async def _end(process: Process) -> None:
    """Kill and reap."""
    with suppress(ProcessLookupError):
        process.kill()
    assert process.stdin is not None
    process.stdin.close()
    await process.wait()
