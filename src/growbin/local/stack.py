"""`growbin stack`: everything one machine needs, started in order, ended in order, nothing left behind."""

from __future__ import annotations

import asyncio
import fcntl
import json
import locale
import os
import shlex
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from growbin.capabilities import CALL_SETTINGS
from growbin.local.child import PartFailed, draw_port, is_free
from growbin.local.parts.nginx import Nginx
from growbin.local.parts.part import Part, write_private
from growbin.local.parts.programs import ConsumerProgram, GatewayProgram, ModelServerProgram, Program
from growbin.local.parts.rabbitmq import RabbitMQ
from growbin.local.parts.seaweedfs import SeaweedFS
from growbin.local.parts.valkey import Valkey
from growbin.rules.overlay import BadRules, load_rulebook

DEFAULT_CACHE_SECONDS = "86400"


RESTART_SECONDS = (0, 1, 2, 5, 10, 30)  # before the next try; the last for all that follow
WELL_SECONDS = 60  # who has run that long is started again at once


def run(
    *,
    data: Path,
    port: int,
    parts_only: bool,
    env_file: Path | None,
    model_id: str,
    look_at_model: Callable[[], Awaitable[str]],
) -> int:
    """Run until SIGINT or SIGTERM; returns the exit code. The gateway listens on `port`, `model_id` is the
    name to which the embedded model answers, and `look_at_model` says how another one is.

    All state lives in the folder `data`: two stacks need two folders. `env_file` (`data/stack.env`) is
    written when the parts are useful and removed when they no longer are; `data/status.json` says which
    process is which.
    """
    data = data.resolve()
    env_file = env_file or data / "stack.env"
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _only_one(data, "parts only" if parts_only else f"http://127.0.0.1:{port}"):
            if not parts_only and not is_free(port):
                raise PartFailed(
                    f"Port {port} is in use: end what listens there, or choose another with --port."
                )
            asyncio.run(_Stack(data, port, parts_only, env_file, model_id, look_at_model).run())
    except (PartFailed, OSError) as failure:
        print(f"growbin stack: {failure}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _only_one(data: Path, address: str) -> Iterator[None]:
    """Hold the data folder for ourselves; the kernel lets go of it when we die."""
    with (data / "stack.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise PartFailed(
                f"The data folder {data} is in use by {lock.read() or 'another stack'}: "
                "use that one, end it, or choose another folder with --data."
            ) from None
        lock.truncate(0)
        lock.write(f"the stack with process id {os.getpid()} ({address})")
        lock.flush()
        yield


class _Stack:
    def __init__(
        self,
        data: Path,
        port: int,
        parts_only: bool,
        env_file: Path,
        model_id: str,
        look_at_model: Callable[[], Awaitable[str]],
    ) -> None:
        self._data = data
        self._port = port
        self._parts_only = parts_only
        self._env_file = env_file
        self._model_id = model_id
        self._look_at_model = look_at_model
        rules_dir = os.environ.get("RULES_DIR")
        self._rules_dir = Path(rules_dir).absolute() if rules_dir else None
        self._status_file = data / "status.json"
        self._started_at = time.monotonic()
        self._parts: list[Part] = []
        self._programs: list[Program] = []  # the gateway, then the consumer: ended in this order
        self._settings_told: dict[str, str] = {}
        self._asked_to_stop = asyncio.Event()

    async def run(self) -> None:
        """Start everything, wait for a signal, end everything. Raises PartFailed."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop_or_hurry)
        self._withdraw_files()
        starting = asyncio.create_task(self._start())
        stopping = asyncio.create_task(self._asked_to_stop.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        self._asked_to_stop.set()
        starting.cancel()
        [outcome] = await asyncio.gather(starting, return_exceptions=True)
        await self._stop()
        if isinstance(outcome, Exception):
            raise outcome

    def _stop_or_hurry(self) -> None:
        """The first signal asks everything to end; from the second on, nothing is waited for."""
        if self._asked_to_stop.is_set():
            for part in (*self._programs, *self._parts):
                part.kill_group()
        self._asked_to_stop.set()

    async def _start(self) -> None:
        self._check_rules()
        self._parts = self._choose_parts()
        await self._start_together(self._parts)
        settings = self._settings()
        if self._parts_only:
            settings |= {"PROBE_PORT": str(draw_port())}
        else:
            environment = self._inherited() | settings
            gateway = GatewayProgram(self._data, environment)
            consumer = ConsumerProgram(self._data, environment)
            self._programs = [gateway, consumer]
            await self._start_together(self._programs)
            settings |= gateway.settings()
            _say(_banner(self._port, self._env_file))
        seconds = time.monotonic() - self._started_at
        _say(f"Ready after {seconds:.1f} s. Logs: {self._data / 'log'}. Ctrl-C ends it.")
        self._settings_told = settings
        self._publish_files()
        async with asyncio.TaskGroup() as group:
            for part in (*self._parts, *self._programs):
                group.create_task(self._watch(part))
            if self._programs and not any(isinstance(part, ModelServerProgram) for part in self._parts):
                group.create_task(self._tell_of_model())

    async def _tell_of_model(self) -> None:
        try:
            _say(await self._look_at_model())
        except Exception as error:  # noqa: BLE001  # whatever it is, the stack runs on without it
            _say(f"model        not asked: {error!r}")

    def _check_rules(self) -> None:
        """A mistake in them would stop each of growbin's processes, in a log that nobody has open."""
        try:
            load_rulebook(self._rules_dir)
        except BadRules as error:
            raise PartFailed(f"the rules cannot be used:\n{error}") from None

    def _choose_parts(self) -> list[Part]:
        """Ours, except where the environment names another."""
        seaweedfs = SeaweedFS(self._data)
        cache_seconds = os.environ.get("CDN_CACHE_TTL") or DEFAULT_CACHE_SECONDS
        if not cache_seconds.isdecimal():
            raise PartFailed(f"CDN_CACHE_TTL is {cache_seconds!r}: it must be a number of seconds.")
        parts: list[Part] = [seaweedfs, Nginx(self._data, seaweedfs, int(cache_seconds))]
        if not self._named("RABBITMQ_URL"):
            parts.append(RabbitMQ(self._data))
        if not self._named("REDIS_URL"):
            parts.append(Valkey(self._data))
        if not self._named("OPENAI_API_KEY") and not self._named("OPENAI_BASE_URL"):
            parts.append(ModelServerProgram(self._data, self._inherited(), self._model_id))
        return parts

    def _named(self, variable: str) -> bool:
        if not os.environ.get(variable):
            return False
        _say(f"{variable} is set: what it names is used instead of a part of ours")
        return True

    async def _start_together(self, parts: Sequence[Part]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for part in parts:
                    group.create_task(self._start_one(part))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _start_one(self, part: Part) -> None:
        started_at = time.monotonic()
        await part.start()
        await part.ready()
        _say(f"{part.name:<12} ready in {time.monotonic() - started_at:4.1f} s on 127.0.0.1:{part.port}")

    async def _watch(self, part: Part) -> None:
        """A part of somebody else's is left to the person; a program of ours is started again, as a service
        manager would do it."""
        tries = 0
        while True:
            started_at = time.monotonic()
            code = await part.ended()
            if self._asked_to_stop.is_set():
                return
            told = f"{part.name} ended unexpectedly (exit code {code}), see {part.log}"
            if not isinstance(part, Program):
                _say(f"{told}: the rest runs on")
                return
            tries = 0 if time.monotonic() - started_at > WELL_SECONDS else tries
            delay_seconds = RESTART_SECONDS[min(tries, len(RESTART_SECONDS) - 1)]
            tries += 1
            _say(f"{told}: it is started again{f' in {delay_seconds} s' if delay_seconds else ''}")
            await asyncio.sleep(delay_seconds)
            await part.kill()  # what is left of its group would be in the way
            with suppress(PartFailed, OSError):  # its end is seen above, and told
                await self._start_one(part)
                self._publish_files()

    async def _stop(self) -> None:
        self._withdraw_files()
        started_at = time.monotonic()
        for program in self._programs:
            await program.stop()
        await asyncio.gather(*(part.stop() for part in self._parts))
        _say(f"Ended in {time.monotonic() - started_at:.1f} s.")

    def _inherited(self) -> dict[str, str]:
        """Our environment without AWS credentials: a session token or profile from the user's shell
        would be mixed with ours. The children have folders of their own, so that paths are whole."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return inherited | ({"RULES_DIR": str(self._rules_dir)} if self._rules_dir else {})

    def _settings(self) -> dict[str, str]:
        """What growbin's processes need to know, in the words of their environment."""
        outside = (
            ("RABBITMQ_URL", "RABBITMQ_MANAGEMENT_URL"),
            ("REDIS_URL",),
            ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL", *CALL_SETTINGS),
            ("LOG_FORMAT",),
        )
        settings = {name: os.environ[name] for names in outside for name in names if os.environ.get(name)}
        for part in self._parts:
            settings |= part.settings()
        return settings | {"PORT": str(self._port)}

    def _publish_files(self) -> None:
        running = {
            part.name: {"pid": part.pid, "port": part.port} for part in (*self._parts, *self._programs)
        }
        write_private(self._status_file, json.dumps({"parts": running}, indent=2) + "\n")
        lines = (f"{name}={shlex.quote(value)}\n" for name, value in self._settings_told.items())
        write_private(self._env_file, "".join(lines))

    def _withdraw_files(self) -> None:
        for path in (self._status_file, self._env_file):
            path.unlink(missing_ok=True)


def _say(text: str) -> None:
    with suppress(BrokenPipeError):  # whoever read us may have gone; the parts still have to be ended
        print(text, flush=True)


def _banner(port: int, env_file: Path) -> str:
    """Where it answers, and what may be done next, in words that can be pasted."""
    own_name = "python -m growbin" if sys.argv[0].endswith("__main__.py") else sys.argv[0]
    # From its own folder the file is found; from elsewhere the shell must be told.
    is_found = env_file == Path.cwd() / "var" / "stack.env"
    found = "" if is_found else f"  set -a; . {shlex.quote(str(env_file))}; set +a\n"
    commands = {
        "a photo, yours as well": f"analyze {_example()}",
        "is every part well?": "doctor",
        "what could not be done": "dead-letters list",
    }
    lines = "\n".join(f"  {why + ':':24} {own_name} {words}" for why, words in commands.items())
    return f"""
growbin answers on http://127.0.0.1:{port}

In another terminal:

{found}{lines}
{_walk_through(port)}"""


def _example() -> str:
    return shlex.quote(os.path.relpath(Path(__file__).parents[3] / "examples" / "coffee-cup.jpg"))


def _walk_through(port: int) -> str:
    """One job by hand, for any POSIX shell with curl and python3. Without comments: not every
    interactive shell understands them."""
    photo = Path(__file__).parents[3] / "examples" / "coffee-cup.jpg"
    language = "ko" if (locale.getlocale()[0] or "").startswith("ko") else "en"
    return f"""
To see one job by hand, paste this into another terminal. It takes a ticket, puts the photo straight into
S3 with the headers the ticket asks for, says that it is there, and watches.

api=http://127.0.0.1:{port} jar=$(mktemp) photo={shlex.quote(str(photo))}
ticket=$(curl -sS -b "$jar" -c "$jar" -H "Accept-Language: {language}" -X POST "$api/api/v1/waste/analyze")
job=$(printf %s "$ticket" | python3 -c 'import json, sys; print(json.load(sys.stdin)["job_id"])')
printf %s "$ticket" | python3 -c '
import json, sys
ticket = json.load(sys.stdin)
print("url =", json.dumps(ticket["upload_url"]))
for name, value in ticket["upload_headers"].items():
    print("header =", json.dumps(f"{{name}}: {{value}}"))
' | curl -sS -K - -T "$photo"
curl -sS -b "$jar" -X POST "$api/upload-complete/$job"; echo
curl -sSN -b "$jar" "$api/api/v1/waste/jobs/$job/events"
"""
