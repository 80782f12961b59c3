"""Each resource is what the API server's schema allows, and has no field that it does not know."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.deploy.checkers import checked_resources, run_checker
from tests.deploy.definitions import DEFINITIONS, definitions, wrong
from tests.deploy.manifests import K8S, OVERLAYS, ROOT, Manifests, rendered

KUBERNETES = ("1.30", "1.37")  # the oldest that has what we use, and the newest whose schema can be had
# No package holds its schema.
UNCHECKED = {"rabbitmq.com/v1beta1 RabbitmqCluster"}


def core_findings(manifests: Manifests, version: str, folder: Path) -> list[str]:
    file = folder / "rendered.yaml"
    file.write_text(yaml.safe_dump_all(manifests.documents))
    run = run_checker("kubernetes-validate", "--strict", "-k", version, str(file))
    wrong = [line for line in run.stdout.splitlines() + run.stderr.splitlines() if line.startswith("ERROR")]
    assert bool(wrong) == (run.returncode != 0), run.stdout + run.stderr
    return wrong


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_core_kinds_meet_the_schema(overlay: str, version: str, tmp_path: Path) -> None:
    """Every kind of Kubernetes itself is valid for the oldest and the newest version."""
    assert core_findings(rendered(overlay), version, tmp_path) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_custom_resources_meet_their_schemas(overlay: str) -> None:
    """KEDA, Prometheus, External Secrets and the Gateway API would take what we give them."""
    said = checked_resources(rendered(overlay))
    assert said["wrong"] == []
    assert set(said["unchecked"]) <= UNCHECKED


@pytest.mark.skipif(not DEFINITIONS.is_dir(), reason="the operators' definitions are not ours to ship")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_custom_resources_meet_their_operators_definitions(overlay: str) -> None:
    """RabbitMQ's, too: the API server of a cluster with these operators would take them as they are."""
    assert wrong(rendered(overlay)) == []
    defined = {f"{group} {kind}" for group, kind in definitions()}
    assert defined >= UNCHECKED


def test_argo_cd_example_meets_its_schema() -> None:
    """The example is an Application, and its path is an overlay of ours."""
    application = yaml.safe_load((K8S / "argocd-application.yaml").read_text())
    assert checked_resources(Manifests([application])) == {"wrong": [], "unchecked": []}
    assert (ROOT / application["spec"]["source"]["path"] / "kustomization.yaml").exists()


def test_unchecked_kinds_are_told() -> None:
    """The deployment page names each kind whose schema nobody could check."""
    page = (ROOT / "docs" / "deploy.md").read_text()
    assert not [kind for kind in UNCHECKED if kind.split()[1] not in page]
