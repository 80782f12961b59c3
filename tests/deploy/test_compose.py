"""compose.yaml says the same as the local overlay, for people with Docker."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import yaml

from growbin.config import Settings
from tests.deploy.image import stages
from tests.deploy.manifests import K8S, ROOT, rendered
from tests.deploy.policy import CREDENTIALS, SETTINGS

Services = dict[str, dict[str, Any]]
# Answers by name inside, by published port outside.
OUTSIDE = {"http://s3.localhost:8333": "seaweedfs", "http://photos.localhost:8088": "cdn"}


def services() -> Services:
    return dict(yaml.safe_load((ROOT / "compose.yaml").read_text())["services"])


def wrong(found: Services) -> Iterator[str]:
    """What a person with Docker would stumble over."""
    pods = rendered("overlays/local").pods
    overlay = {pod.owner.partition("/")[2]: pod.containers[0] for pod in pods}
    overlay |= {container["name"]: container for pod in pods for container in pod.init_containers}
    if found.keys() != overlay.keys():
        yield f"compose and the overlay differ in {found.keys() ^ overlay.keys()}"
    for name, service in found.items():
        ours = overlay[name]
        if service["image"] != ours["image"]:
            yield f"{name}: {service['image']}, and {ours['image']} in the overlay"
        target = service.get("build", {}).get("target")
        if target and (target not in stages() or not service["image"].startswith(f"{target}:")):
            yield f"{name}: no stage {target}, or another image"
        if name in ("seaweedfs", "cdn", "bucket"):
            words = [*service.get("entrypoint", []), *service.get("command", [])]
            if words != [*ours.get("command", []), *ours.get("args", [])]:
                yield f"{name}: is not started as in the overlay"
        for other in service.get("depends_on", {}):
            if other not in found:
                yield f"{name}: waits for {other}, which does not exist"
    for name in ("gateway", "consumer", "bucket"):
        given = found[name]["environment"]
        yield from (f"{name}: {variable} is no setting" for variable in given.keys() - SETTINGS - CREDENTIALS)
        Settings(**{key.lower(): value for key, value in given.items()})
        for address in given.values():
            host, port = (re.findall(r"://(?:[^@/]*@)?([^:/]+):(\d+)", address) or [("", "")])[0]
            service = OUTSIDE.get(address, host)
            if service and service not in found:
                yield f"{name}: {address} leads nowhere"
            if address in OUTSIDE and (
                f"127.0.0.1:{port}:{port}" not in found[service]["ports"]
                or host not in found[service]["networks"]["default"]["aliases"]
            ):
                yield f"{name}: {address} does not lead to {service} from inside and from outside"


def test_compose_agrees_with_the_overlay() -> None:
    """The same parts, images and words; every variable a setting; every address a service."""
    assert list(wrong(services())) == []


def test_mistakes_in_compose_are_found() -> None:
    """Planted: a misspelled variable, a service that does not exist, another version, an unpublished port."""

    def told(service: str, field: str, value: object) -> bool:
        changed = copy.deepcopy(services())
        changed[service][field] = value
        return any(f"{service}:" in finding or "seaweedfs" in finding for finding in wrong(changed))

    environment = services()["gateway"]["environment"]
    assert told("gateway", "environment", environment | {"S3_BUCKET": "photos"})
    assert told("consumer", "environment", environment | {"REDIS_URL": "redis://redis:6379"})
    assert told("valkey", "image", "valkey/valkey:9.1.1")
    assert told("seaweedfs", "ports", [])


def test_cdn_of_the_overlay_is_the_one_that_is_tested() -> None:
    """Its nginx.conf is the template of `growbin stack`, filled in."""
    parts = ROOT / "src" / "growbin" / "local" / "parts"
    template = (parts / "nginx.conf.template").read_text().partition("\n")[2]
    values = {
        "folder": "/tmp",
        "address": "8088",
        "origin": "seaweedfs:8333",
        "bucket": "growbin-photos",
        "referer": "local-cdn",
        "reader": "local-reader",
        "cache_seconds": "86400",
    }
    for name, value in values.items():
        template = template.replace(f"@{name}@", value)
    assert (K8S / "overlays" / "local" / "nginx.conf").read_text().partition("\n")[2] == template
