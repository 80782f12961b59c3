"""A gateway and a consumer as real processes on free ports, with a model server whose calls are counted."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web

from tests.load_profile import ONE_ADDRESS
from tests.loopback import served
from tests.processes import command, environment, tail

READY_SECONDS = 60
STOP_SECONDS = 30

# The output of every process that runs now; shown when a test fails.
logs: dict[str, Path] = {}


def free_port() -> int:
    """It stays free until its owner listens: below those of outgoing connections, and no other draw takes it,
    for whoever holds the UDP port of the same number holds its place, as with the local parts."""
    while True:
        port = random.randint(12_000, 21_999)
        with (
            contextlib.suppress(OSError),
            socket.socket() as tcp,
            socket.socket(type=socket.SOCK_DGRAM) as udp,
        ):
            tcp.bind(("127.0.0.1", port))
            udp.bind(("127.0.0.1", port))
            udp.detach()  # until this process ends
            return port


def is_free(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


class CountedModel:
    """Stands between the consumer and the model server and counts the calls."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.calls = 0
        self.bodies: list[bytes] = []

    async def _forward(self, request: web.Request) -> web.Response:
        self.calls += 1
        self.bodies.append(await request.read())
        headers = {"Content-Type": request.content_type, "Authorization": request.headers["Authorization"]}
        async with (
            aiohttp.ClientSession() as http,
            http.request(
                request.method,
                f"{self._upstream}/{request.match_info['path']}",
                data=self.bodies[-1],
                headers=headers,
            ) as answer,
        ):
            return web.Response(
                body=await answer.read(), status=answer.status, content_type=answer.content_type
            )

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Yields the address to be used as OPENAI_BASE_URL."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/v1/{path:.*}", self._forward)
        async with served(app) as url:
            yield f"{url}/v1"


@dataclass(frozen=True)
class System:
    """What a test sees of it."""

    base_url: str
    probe_url: str  # the gateway's
    settings: Mapping[str, str]
    model: CountedModel


@contextlib.asynccontextmanager
async def running_system(parts: Mapping[str, str], **settings: str) -> AsyncIterator[System]:
    """A gateway and a consumer of their own, on their own queue; `settings` come last, "" is the default."""
    model = CountedModel(parts["OPENAI_BASE_URL"])
    port = free_port()
    probe_ports = {"gateway": free_port(), "consumer": free_port()}
    async with model.serving() as model_url, contextlib.AsyncExitStack() as processes:
        shared = {
            **parts,
            "OPENAI_BASE_URL": model_url,
            "QUEUE_NAME": f"e2e.{uuid.uuid4().hex}",
            "PORT": str(port),
            **ONE_ADDRESS,
            **settings,
        }
        async with asyncio.TaskGroup() as starting:
            for name, probe_port in probe_ports.items():
                running = _process(name, {**shared, "PROBE_PORT": str(probe_port)})
                starting.create_task(processes.enter_async_context(running))
        yield System(
            base_url=f"http://127.0.0.1:{port}",
            probe_url=f"http://127.0.0.1:{probe_ports['gateway']}",
            settings=shared,
            model=model,
        )


@contextlib.asynccontextmanager
async def _process(name: str, settings: Mapping[str, str]) -> AsyncIterator[None]:
    """Run until it is ready; at the end SIGTERM must end it in time and with code 0."""
    label = f"{name} on {settings['PORT']}"
    with tempfile.NamedTemporaryFile(prefix=f"growbin-{name}-", suffix=".log") as log:
        process = subprocess.Popen(  # noqa: ASYNC220  # starting takes a moment, and Popen needs no loop
            command(name),
            env=environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        logs[label] = Path(log.name)
        try:
            await _until_ready(process, f"http://127.0.0.1:{settings['PROBE_PORT']}/readyz")
            yield
            process.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(process.wait, STOP_SECONDS)
            assert code == 0, f"{label} ended with {code}"
        except Exception as failure:
            failure.add_note(f"{label} said:\n{tail(logs[label])}")
            raise
        finally:
            process.kill()
            process.wait()
            del logs[label]


async def _until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    async with asyncio.timeout(READY_SECONDS), aiohttp.ClientSession() as http:
        while True:
            assert process.poll() is None, f"ended with {process.returncode} before it was ready"
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(url) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.1)
