"""The manifests' pods as plain processes: their words, their variables (only addresses and keys lead to this
machine's servers), their ports on addresses of their own, and a kubelet that probes and stops them."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import aiohttp

from growbin.local.child import PartFailed
from growbin.local.parts.programs import Program
from tests.deploy.image import Image
from tests.deploy.manifests import Pod, rendered
from tests.deploy.policy import patience_seconds
from tests.faults.client import Client
from tests.faults.cluster import Cluster, Process, api_key
from tests.faults.instruments.journal import Journal
from tests.faults.model import MODEL_NAME
from tests.faults.photos import photo_for

OVERLAY = "overlays/local"
STREAM_SILENCE_SECONDS = 45  # three heartbeats of the default


class Container(Program):
    """One pod's container, started as its image and manifest say, with its ports on `address`."""

    def __init__(
        self, data: Path, name: str, pod: Pod, address: str, image: Image, variables: Mapping[str, str]
    ) -> None:
        self.name = name  # type: ignore[misc]  # a part's name is its class'; here it is the pod's
        super().__init__(data, variables)
        self.pod = pod
        [self.manifest] = pod.containers
        self.pre_stop_seconds = float(
            self.manifest.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        )
        self.start_seconds = patience_seconds(self.manifest["startupProbe"])  # type: ignore[misc]
        grace_seconds = pod.spec["terminationGracePeriodSeconds"]
        self.stop_seconds = grace_seconds - self.pre_stop_seconds  # type: ignore[misc]
        self._address = address
        self._image = image

    def settings(self) -> dict[str, str]:
        return {}

    def command(self) -> list[str]:
        return self._image.command(*self.manifest["args"])

    def environment(self) -> dict[str, str]:
        return self._image.environment() | self._environment

    def url(self, port: str) -> str:
        return f"http://{self._address}:{self.pod.ports[port]}"

    async def passes(self, probe_name: str) -> bool:
        """Ask once, as a kubelet does: any answer from 200 to 399 within the time-out is a yes."""
        probe = self.manifest[probe_name]
        asked = probe["httpGet"]
        timeout = aiohttp.ClientTimeout(total=probe["timeoutSeconds"])
        with suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with (
                aiohttp.ClientSession(timeout=timeout) as http,
                http.get(self.url(asked["port"]) + asked["path"]) as answer,
            ):
                return 200 <= answer.status < 400
        return False

    async def check(self) -> None:
        for probe_name in ("startupProbe", "readinessProbe"):
            if not await self.passes(probe_name):
                raise PartFailed(f"its {probe_name} fails")


class PodProcess(Process):
    """A pod, and its kubelet."""

    def __init__(self, name: str, part: Container, journal: Journal) -> None:
        super().__init__(name, part, journal, {})
        self.container = part
        self._kubelet: asyncio.Task[object] | None = None
        self.is_ready = False
        self.is_ending = False
        self.restarts: list[str] = []  # why a kubelet would have restarted it

    @property
    def url(self) -> str:
        return self.container.url("http")

    @property
    def probe_url(self) -> str:
        return self.container.url("probe")

    async def start(self) -> float:
        """Until its readiness probe passes, within its startup probe's patience."""
        seconds = await super().start()
        self.is_ready, self.is_ending = True, False
        self._kubelet = asyncio.create_task(self._probe_on())
        return seconds

    async def stop(self) -> int:
        """No new clients, preStop, SIGTERM, and no longer than the grace period; returns the exit code."""
        self.is_ready, self.is_ending = False, True
        if self._kubelet is not None:
            self._kubelet.cancel()
        await asyncio.sleep(self.container.pre_stop_seconds)
        return await super().stop()

    async def _probe_on(self) -> None:
        await asyncio.gather(self._follow("readinessProbe"), self._follow("livenessProbe"))

    async def _follow(self, probe_name: str) -> None:
        probe = self.container.manifest[probe_name]
        failures = 0
        while True:
            await asyncio.sleep(probe["periodSeconds"])
            failures = 0 if await self.container.passes(probe_name) else failures + 1
            has_failed = failures >= probe["failureThreshold"]
            if probe_name == "readinessProbe":
                self.is_ready = not has_failed
            elif has_failed:
                self.restarts.append(f"{self.name} failed its liveness probe {failures} times")


class Pods(Cluster):
    """A cluster of the manifests' pods, on the servers of the fault tests. Set `image` first."""

    image: ClassVar[Image]

    def __init__(self, *given: object) -> None:
        self._numbers = itertools.count(1)
        # Loopback addresses of our own: every pod may have the ports that its manifest says.
        self._network = f"127.{random.randrange(64, 250)}.{random.randrange(256)}"
        self.broker_user: str | None = None  # user:password of the pods to come, where not the server's own
        super().__init__(*given)  # type: ignore[arg-type]  # what Cluster.running gives
        self.settings = {"JOB_DEADLINE_SECONDS": "300"}  # growbin's own defaults: nothing is shortened

    @property
    def pods(self) -> list[PodProcess]:
        return [process for process in self.processes if isinstance(process, PodProcess)]

    def new_client(self) -> Client:
        return Client(self.ledger, self.endpoints, photo_for, silence_seconds=STREAM_SILENCE_SECONDS)

    def endpoints(self) -> list[str]:
        """Where the Service leads: to gateways that are ready and not about to end."""
        return [pod.url for pod in self.pods if pod.is_ready and "http" in pod.container.pod.ports]

    async def roll(self, pods: list[Process], kind: type[Program]) -> list[PodProcess]:
        """One new pod (maxSurge), then one old pod ends (maxUnavailable 0), until all are new."""
        ended: list[PodProcess] = []
        for place, old in enumerate(list(pods)):
            assert isinstance(old, PodProcess)
            new = self._process(kind, 0)
            await new.start()
            pods[place] = new
            code = await old.stop()
            assert code == 0, f"{old.name} ended with {code}: {old.log[-2000:]}"
            ended.append(old)
        return ended

    def _process(self, kind: type[Program], number: int) -> PodProcess:
        number = next(self._numbers)
        name, address = f"{kind.name}-{number}", f"{self._network}.{number}"
        manifests = rendered(OVERLAY)
        pod = next(pod for pod in manifests.pods if pod.owner == f"Deployment/{kind.name}")
        given = {key: value or "" for key, value in manifests.environment(pod.containers[0]).items()}
        here = self._addresses(name, address)
        assert set(here) >= {key for key in given if "://" in given[key]}, (
            "an address leads out of this machine"
        )
        variables = given | {key: value for key, value in here.items() if key in given}
        variables["QUEUE_NAME"] = self.queue_name
        part = Container(self.folder / name, name, pod, address, self.image, variables)
        return PodProcess(name, part, self.journal)

    def _addresses(self, name: str, address: str) -> dict[str, str]:
        servers = self.servers
        amqp, management = servers.rabbitmq.url, servers.rabbitmq.management_url
        if self.broker_user is not None:
            amqp, management = (re.sub("//.*@", f"//{self.broker_user}@", url) for url in (amqp, management))
        return {
            **servers.seaweedfs.settings(),
            **servers.nginx.settings(),
            "HOST": address,
            "PROBE_HOST": address,
            "RABBITMQ_URL": amqp,
            "RABBITMQ_MANAGEMENT_URL": management,
            "REDIS_URL": servers.valkey.url,
            "OPENAI_BASE_URL": f"http://127.0.0.1:{self.model.port}/v1",
            "OPENAI_API_KEY": api_key(name),
            "OPENAI_MODEL": MODEL_NAME,
        }
