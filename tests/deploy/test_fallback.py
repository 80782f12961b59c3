"""The component that lets the embedded model answer where the other one may not or cannot."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.deploy.manifests import K8S, Document, Manifests, render, rendered
from tests.deploy.policy import findings

SWITCHED_OFF = "# components: [../../components/fallback]"


def consumer_of(manifests: Manifests) -> Document:
    consumer = manifests.named("Deployment", "consumer")
    assert consumer
    [container] = consumer["spec"]["template"]["spec"]["containers"]
    return dict(container)


def test_fallback_is_switched_on_by_one_line_of_the_overlay(tmp_path: Path) -> None:
    """Consumers run the image that holds the model, from the same registry, with memory for it and the
    setting; the gateways stay as they are, and no rule is broken."""
    shutil.copytree(K8S, tmp_path / "k8s")
    overlay = tmp_path / "k8s" / "overlays" / "production"
    file = overlay / "kustomization.yaml"
    file.write_text(file.read_text().replace(SWITCHED_OFF, SWITCHED_OFF.removeprefix("# ")))
    manifests = render(overlay)
    before, consumer = consumer_of(rendered("overlays/production")), consumer_of(manifests)
    assert "FALLBACK_MODEL" not in rendered("overlays/production").environment(before)
    assert manifests.environment(consumer)["FALLBACK_MODEL"] == "embedded"
    assert consumer["image"] == before["image"].replace("/growbin:", "/growbin-model:")
    for kind in ("requests", "limits"):
        had, has = (int(one["resources"][kind]["memory"].removesuffix("Mi")) for one in (before, consumer))
        assert has == had + 256
    gateway = manifests.named("Deployment", "gateway")
    assert gateway
    assert gateway["spec"]["template"]["spec"]["containers"][0]["image"] == before["image"]
    # The rules know growbin by its image's name: by that one they look at these consumers as well.
    deployment = manifests.named("Deployment", "consumer")
    assert deployment
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = before["image"]
    assert findings(manifests) == []
