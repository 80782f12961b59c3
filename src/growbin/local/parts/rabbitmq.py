"""RabbitMQ, from the system's package."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import aio_pika
import aiohttp

from growbin.local.child import Child, PartFailed, is_open
from growbin.local.parts.part import CHECK_SECONDS, Part, installed, write_private


class RabbitMQ(Part):
    """A private node: its own name, cookie, ports and epmd; it never meets the system's broker.
    Written for 3.10 to 4.x."""

    name = "rabbitmq"
    port_names = ("amqp", "management", "distribution", "epmd")
    secret_names = ("node", "password")
    # On a stop, releases before 3.13 wait 5 s for their statistics to calm down.
    stop_seconds = 20

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        self._real_folder = self.folder
        self.folder = _ascii_name(self._real_folder)
        self._epmd = Child(data / "log" / "rabbitmq-epmd.log")

    @property
    def url(self) -> str:
        return f"amqp://growbin:{self.secrets['password']}@127.0.0.1:{self.port}/"

    @property
    def management_url(self) -> str:
        return f"http://growbin:{self.secrets['password']}@127.0.0.1:{self.ports['management']}"

    def settings(self) -> dict[str, str]:
        return {"RABBITMQ_URL": self.url, "RABBITMQ_MANAGEMENT_URL": self.management_url}

    def command(self) -> Sequence[str]:
        # Statistics every second: the backlog is read from them (a quorum queue has a clock of its own for
        # that). The write-ahead log must stay small, for it is kept in memory, below the watermark.
        write_private(
            self.folder / "rabbitmq.conf",
            f"""\
listeners.tcp.local = 127.0.0.1:{self.port}
management.tcp.ip = 127.0.0.1
management.tcp.port = {self.ports["management"]}
default_user = growbin
default_pass = {self.secrets["password"]}
collect_statistics_interval = 1000
vm_memory_high_watermark.absolute = 512MB
disk_free_limit.absolute = 50MB
raft.wal_max_size_bytes = 33554432
log.console.level = warning
""",
        )
        write_private(self.folder / "enabled_plugins", "[rabbitmq_management].\n")
        write_private(self.folder / "advanced.config", "[{rabbit, [{quorum_tick_interval, 1000}]}].\n")
        (self.folder / "conf.d").mkdir(exist_ok=True)
        return [str(_rabbitmq_script())]

    def environment(self) -> dict[str, str]:
        own = {
            "HOME": self.folder,  # holds the Erlang cookie
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": self.ports["epmd"],
            "RABBITMQ_NODENAME": f"growbin-{self.secrets['node'][:8]}@localhost",
            "RABBITMQ_NODE_PORT": self.port,
            "RABBITMQ_DIST_PORT": self.ports["distribution"],
            "RABBITMQ_MNESIA_BASE": self.folder / "mnesia",
            "RABBITMQ_LOG_BASE": self.folder,
            "RABBITMQ_LOGS": "-",
            # Every file the system's own broker might bring along is replaced by ours.
            "RABBITMQ_CONFIG_FILE": self.folder / "rabbitmq.conf",
            "RABBITMQ_CONFIG_FILES": self.folder / "conf.d",
            "RABBITMQ_ADVANCED_CONFIG_FILE": self.folder / "advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": self.folder / "enabled_plugins",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}",
            # The start script then becomes the Erlang machine instead of waiting beside it, so that our
            # signals reach the broker itself.
            "RUNNING_UNDER_SYSTEMD": "true",
        }
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))
        }
        return inherited | {name: str(value) for name, value in own.items()}

    async def start(self) -> None:
        self._point_to_folder()
        # Left alone, the node would start a daemon that outlives it; this one is ours to end.
        if self._epmd.pid is None:
            port = str(self.ports["epmd"])
            command = [installed("epmd", RABBITMQ_MISSING), "-port", port, "-address", "127.0.0.1"]
            await self._epmd.start(command, self.environment(), self.folder)
            while not is_open(self.ports["epmd"]) and self._epmd.pid is not None:
                await asyncio.sleep(0.01)
        await super().start()

    async def check(self) -> None:
        if not is_open(self.port):  # the client would log every refused connection
            raise ConnectionRefusedError("its port is still closed")
        async with await aio_pika.connect(self.url, timeout=CHECK_SECONDS) as connection:
            channel = await connection.channel()
            await channel.declare_queue(exclusive=True)
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            await (await session.get(f"{self.management_url}/api/overview")).read()

    async def stop(self) -> None:
        await super().stop()
        await self._epmd.stop(1)
        self._forget_name()

    async def kill(self) -> None:
        await super().kill()
        await self._epmd.kill()
        self._forget_name()

    def kill_group(self) -> None:
        super().kill_group()
        self._epmd.kill_group()

    def _point_to_folder(self) -> None:
        if self.folder == self._real_folder:
            return
        self._forget_name()
        try:
            self.folder.symlink_to(self._real_folder)
        except OSError as error:
            raise PartFailed(f"rabbitmq needs {self.folder}, which is another's: {error.strerror}.") from None

    def _forget_name(self) -> None:
        if self.folder != self._real_folder and self.folder.is_symlink():
            with suppress(OSError):  # another user's: to point it elsewhere fails as well, and is told
                self.folder.unlink()


def _ascii_name(folder: Path) -> Path:
    """The folder itself, or a link to it: releases like Debian 12's 3.10 end at once where a path has other
    letters. The name stays the same, for the node remembers where its data lies."""
    if str(folder).isascii():
        return folder
    return Path("/tmp") / f"growbin-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"  # noqa: S108


RABBITMQ_MISSING = (
    "RabbitMQ is not installed: run `apt-get install rabbitmq-server` (Debian) or `brew install rabbitmq`, "
    "or set RABBITMQ_URL."
)


def _rabbitmq_script() -> Path:
    """The start script in the package's own folder: unlike Debian's on the PATH, it serves any user. Such a
    folder on the PATH is a release that was unpacked somewhere, and goes first."""
    unpacked = [Path(folder) for folder in os.get_exec_path() if Path(folder, "rabbitmq-env").exists()]
    folders = [iter(unpacked), Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin")]
    for prefix in ("/opt/homebrew", "/usr/local", "/home/linuxbrew/.linuxbrew"):
        folders.append(Path(prefix).glob("opt/rabbitmq/sbin"))
    for found in folders:
        for folder in sorted(found, reverse=True):
            if (script := folder / "rabbitmq-server").exists():
                return script
    raise PartFailed(RABBITMQ_MISSING)
