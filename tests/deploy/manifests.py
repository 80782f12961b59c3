"""The manifests as `kubectl kustomize` renders them, with the questions that several checks ask of them."""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "deploy" / "k8s"
OVERLAYS = ("base", "overlays/local", "overlays/production", "overlays/eks")

Document = dict[str, Any]

# What the RabbitMQ Cluster Operator makes of a RabbitmqCluster.
RABBITMQ_PORTS = {"amqp": 5672, "management": 15672, "prometheus": 15692, "epmd": 4369, "cluster": 25672}
RABBITMQ_TOOLS = range(35672, 35683)


@dataclass(frozen=True)
class Pod:
    """What a Deployment, StatefulSet or Job makes pods of."""

    owner: str
    labels: Mapping[str, str]
    spec: Document
    ports: Mapping[str, int]

    @property
    def containers(self) -> list[Document]:
        return list(self.spec.get("containers", []))

    @property
    def init_containers(self) -> list[Document]:
        """They come and go before the others begin."""
        return list(self.spec.get("initContainers", []))


@dataclass(frozen=True)
class Manifests:
    documents: list[Document]

    def of_kind(self, *kinds: str) -> list[Document]:
        return [document for document in self.documents if document["kind"] in kinds]

    def named(self, kind: str, name: str) -> Document | None:
        return next((found for found in self.of_kind(kind) if found["metadata"]["name"] == name), None)

    @property
    def pods(self) -> list[Pod]:
        pods = []
        for owner in self.of_kind("Deployment", "StatefulSet", "Job"):
            template = owner["spec"]["template"]
            ports = {
                port["name"]: port["containerPort"]
                for container in template["spec"]["containers"]
                for port in container.get("ports", [])
            }
            pods.append(Pod(name_of(owner), template["metadata"]["labels"], template["spec"], ports))
        for owner in self.of_kind("RabbitmqCluster"):
            labels = {
                "app.kubernetes.io/name": owner["metadata"]["name"],
                "app.kubernetes.io/component": "rabbitmq",
            }
            tools = {f"tool-{port}": port for port in RABBITMQ_TOOLS}
            pods.append(Pod(name_of(owner), labels, {}, RABBITMQ_PORTS | tools))
        return pods

    def selected(self, selector: Mapping[str, Any] | None) -> list[Pod]:
        """The pods that a label selector finds; an empty one finds all."""
        wanted = (selector or {}).get("matchLabels", {})
        return [pod for pod in self.pods if wanted.items() <= pod.labels.items()]

    def environment(self, container: Document) -> dict[str, str | None]:
        """A container's variables; None is a value that only the cluster knows. Raises KeyError."""
        found: dict[str, str | None] = {}
        for source in container.get("envFrom", []):
            config_map = self.named("ConfigMap", source["configMapRef"]["name"])
            if config_map is None:
                raise KeyError(source["configMapRef"]["name"])
            found |= config_map["data"]
        for variable in container.get("env", []):
            found[variable["name"]] = (
                variable["value"]
                if "value" in variable
                else self._secret(**variable["valueFrom"]["secretKeyRef"])
            )
        return found

    def _secret(self, name: str, key: str) -> str | None:
        if secret := self.named("Secret", name):
            return base64.b64decode(secret["data"][key]).decode()
        if external := self.named("ExternalSecret", name):
            external["spec"]["target"]["template"]["data"][key]
        return None


def name_of(document: Document) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"


def growbin_containers(manifests: Manifests, *, init_too: bool = False) -> Iterator[tuple[Pod, Document]]:
    """The containers that run growbin itself, with the settings of config.py."""
    for pod in manifests.pods:
        for container in [*pod.containers, *(pod.init_containers if init_too else [])]:
            if re.fullmatch(r"(.+/)?growbin(:.*)?", container["image"]):
                yield pod, container


def render(folder: Path) -> Manifests:
    """Raises AssertionError with kubectl's words."""
    run = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return Manifests(list(yaml.safe_load_all(run.stdout)))


@cache
def rendered(overlay: str) -> Manifests:
    """As it stands in the repository; read only."""
    return render(K8S / overlay)
