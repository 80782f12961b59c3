"""Custom resources against their operators' own definitions, as strict as an API server that is asked to be.

The definitions (KEDA, External Secrets, Prometheus operator: Apache-2.0; RabbitMQ Cluster Operator: MPL-2.0)
lie beside the repository, not in it; where they are missing, the checks that need them say so. Their rules in
CEL are not evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml

from tests.deploy.manifests import ROOT, Document, Manifests, name_of

DEFINITIONS = ROOT.parent / "shared" / "data" / "crds"
TYPES: dict[str, type | tuple[type, ...]] = {
    "array": list,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "object": dict,
    "string": str,
}
# Of every object, whoever defines the rest.
COMMON = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}


@cache
def definitions() -> dict[tuple[str, str], Document]:
    """The schema for each (apiVersion, kind) that is served."""
    return {
        (f"{spec['group']}/{version['name']}", spec["names"]["kind"]): version["schema"]["openAPIV3Schema"]
        for path in sorted(DEFINITIONS.glob("*.yaml"))
        for spec in [yaml.safe_load(path.read_text())["spec"]]
        for version in spec["versions"]
        if version["served"]
    }


def wrong(manifests: Manifests) -> list[str]:
    """What an API server would refuse, of the kinds whose definitions are here."""
    return [
        f"{name_of(document)}: {found}"
        for document in manifests.documents
        if (schema := definitions().get((document["apiVersion"], document["kind"])))
        for found in _refused(document, schema | {"properties": schema["properties"] | COMMON}, "")
    ]


def _refused(value: Any, schema: Document, path: str) -> Iterator[str]:
    if schema.get("x-kubernetes-int-or-string"):
        if type(value) not in (int, str):
            yield f"{path} must be a number or a text"
        return
    kind = schema.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or (kind != "boolean" and isinstance(value, bool))):
        yield f"{path} must be of type {kind}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path} must be one of {schema['enum']}"
    if isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{path} must match {schema['pattern']}"
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            yield f"{path} is too short or too long"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            yield f"{path} is out of bounds"
    elif isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{path} has too few or too many items"
        for place, item in enumerate(value):
            yield from _refused(item, schema.get("items", {}), f"{path}[{place}]")
    elif isinstance(value, dict):
        yield from _refused_fields(value, schema, path)


def _refused_fields(value: Document, schema: Document, path: str) -> Iterator[str]:
    known, others = schema.get("properties", {}), schema.get("additionalProperties")
    yield from (f"{path}.{name} is missing" for name in schema.get("required", []) if name not in value)
    for name, given in value.items():
        if name in known:
            yield from _refused(given, known[name], f"{path}.{name}")
        elif isinstance(others, dict):
            yield from _refused(given, others, f"{path}.{name}")
        elif known and not schema.get("x-kubernetes-preserve-unknown-fields"):
            yield f"{path}.{name} is no field"
