"""One child process in a session of its own, and the ports it may use."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

# Below every system's ephemeral range (32768 on Linux), also after adding GRPC_OFFSET: so no outgoing
# connection can take a port while its part is down.
FIRST_PORT, LAST_PORT = 12_000, 21_999
# SeaweedFS listens for gRPC at every HTTP port + 10000. All parts keep both ends free: one rule for all.
GRPC_OFFSET = 10_000

# Makes the kernel kill the child when we die, however we die; then becomes the command. It is not a
# preexec_fn, because Python code between fork and exec may deadlock when there are threads.
_TIED_TO_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; survives exec
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class PartFailed(Exception):
    """A part cannot run; the text is for people: which part, why, and what to do."""


def is_free(port: int) -> bool:
    """Whether we could listen on the loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def is_open(port: int) -> bool:
    """Whether somebody listens on the loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def draw_port() -> int:
    """A free loopback port (TCP) that stays free while its owner restarts: no process that draws is given
    it again as long as this one lives."""
    for _ in range(1000):
        port = random.randint(FIRST_PORT, LAST_PORT)  # noqa: S311  # a port, not a secret
        if is_free(port) and is_free(port + GRPC_OFFSET) and _reserve(port):
            return port
    raise PartFailed(f"No free loopback port between {FIRST_PORT} and {LAST_PORT}: end what uses them.")


def _reserve(port: int) -> bool:
    """Nobody here speaks UDP, so who holds the UDP port of the same number holds the TCP port's place. The
    kernel lets go of it with our process, which is why nothing closes it."""
    with socket.socket(type=socket.SOCK_DGRAM) as holder:
        try:
            holder.bind(("127.0.0.1", port))
        except OSError:
            return False
        holder.detach()
    return True


class Child:
    """Started, ended and killed as one: the process leads a group of its own, so that Ctrl-C in the
    terminal reaches only us and we decide the order. Its output is appended to the file `log`."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Process (and group) id while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        """Start `command` (its first word is a path) inside `folder`, with exactly this environment."""
        if self.pid is not None:
            raise RuntimeError(f"{command[0]} runs already")
        if sys.platform == "linux":
            wrapper = [sys.executable, "-I", "-S", "-c", _TIED_TO_PARENT, str(os.getpid())]
            command = [*wrapper, *command]
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                env=dict(environment),
                cwd=folder,
                start_new_session=True,
            )

    async def ended(self) -> int:
        """Wait for the end; returns the exit code (negative: the signal)."""
        return await self._process.wait() if self._process else 0

    async def stop(self, seconds: float) -> None:
        """Ask it to end, wait that long, then kill whatever is left of its group. Safe to repeat."""
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
                os.kill(self.pid, signal.SIGCONT)  # a frozen process could not hear the request
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.ended()
        await self.kill()

    async def kill(self) -> None:
        """End it and its group at once, without a chance to tidy up. Safe to repeat."""
        self.kill_group()
        await self.ended()
        self._process = None  # its group id may now become a stranger's

    def kill_group(self) -> None:
        """The signal only, for callers that cannot wait."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):  # nobody left (macOS: not permitted)
                os.killpg(self._process.pid, signal.SIGKILL)
