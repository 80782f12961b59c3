"""growbin's own processes, as parts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import aiohttp

from growbin.capabilities import CALL_SETTINGS
from growbin.local.parts.part import Part


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


class ModelServerProgram(Program):
    """The embedded model behind OpenAI's API."""

    name = "model-server"
    port_names = ("http",)
    secret_names = ("key",)
    health_path = "/healthz"

    def __init__(self, data: Path, environment: Mapping[str, str], model_id: str) -> None:
        super().__init__(data, environment)
        self._model_id = model_id

    def settings(self) -> dict[str, str]:
        return {
            "OPENAI_BASE_URL": f"http://127.0.0.1:{self.port}/v1",
            "OPENAI_API_KEY": self.secrets["key"],
            "OPENAI_MODEL": self._model_id,
            **dict.fromkeys(CALL_SETTINGS, ""),  # what the shell sets is for another model
        }

    def arguments(self) -> Sequence[str]:
        return [self.name, "--host", "127.0.0.1", "--port", str(self.port)]


class GatewayProgram(Program):
    """The way in. Its API listens on PORT of its environment."""

    name = "gateway"

    @property
    def port(self) -> int:
        return int(self._environment["PORT"])


class ConsumerProgram(Program):
    """Works on the jobs."""

    name = "consumer"
    stop_seconds = 80  # running jobs get 75
