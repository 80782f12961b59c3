"""`kubectl apply` works a second time, whatever has been changed meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.deploy.manifests import K8S, OVERLAYS, Document, Manifests, name_of, render, rendered

# What the API server lets nobody change of an object that is there; all the rest it does.
FIXED = {
    "Deployment": ("selector",),
    "Job": ("selector", "template", "completionMode"),
    "StorageClass": ("provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"),
}
CHANGEABLE_OF_STATEFUL_SETS = {
    "minReadySeconds",
    "ordinals",
    "persistentVolumeClaimRetentionPolicy",
    "replicas",
    "revisionHistoryLimit",
    "template",
    "updateStrategy",
}
# Each a text that stands in the overlays or in what they are made of, and what an operator may make of it.
CHANGES = {
    "growbin:0.1.0": "growbin:0.2.0",
    "newTag: 0.1.0": "newTag: 0.2.0",
    "LOG_FORMAT=json": "LOG_FORMAT=console",
    "password=local-only": "password=another",
    "cpu: 100m": "cpu: 200m",
}


def fixed(document: Document) -> Document:
    spec = document.get("spec", document)
    if document["kind"] == "StatefulSet":
        return {name: value for name, value in spec.items() if name not in CHANGEABLE_OF_STATEFUL_SETS}
    return {name: spec.get(name) for name in FIXED.get(document["kind"], ())}


def refused(before: Manifests, after: Manifests) -> list[str]:
    """Objects that a second apply could not change."""
    there = {name_of(document): document for document in before.documents}
    return [
        name
        for name, document in ((name_of(document), document) for document in after.documents)
        if name in there and fixed(document) != fixed(there[name])
    ]


def changed(folder: Path, overlay: str) -> Manifests:
    shutil.copytree(K8S, folder / "k8s")
    for file in (folder / "k8s").rglob("*.yaml"):
        text = file.read_text()
        for old, new in CHANGES.items():
            text = text.replace(old, new)
        file.write_text(text)
    return render(folder / "k8s" / overlay)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_second_apply_with_other_settings_is_taken(overlay: str, tmp_path: Path) -> None:
    """Another version, another setting, another secret, other requests: nothing needs to be deleted first."""
    after = changed(tmp_path, overlay)
    assert after != rendered(overlay)
    assert refused(rendered(overlay), after) == []


def test_job_that_reads_the_settings_would_be_refused() -> None:
    """Planted: a Job's pods name the ConfigMap by its content, and may not be changed."""

    def with_job(settings: str) -> Manifests:
        template = {"spec": {"containers": [{"envFrom": [{"configMapRef": {"name": settings}}]}]}}
        return Manifests([{"kind": "Job", "metadata": {"name": "bucket"}, "spec": {"template": template}}])

    assert refused(with_job("growbin-settings-1"), with_job("growbin-settings-2")) == ["Job/bucket"]
