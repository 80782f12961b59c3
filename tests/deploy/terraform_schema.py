"""What the AWS provider takes, read from the source of its Python bindings: they are generated from the
provider's own schema. Nothing is imported; the package holds some 200 MB of code."""

from __future__ import annotations

import ast
import importlib.util
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

PACKAGE = "cdktn_provider_aws"
META_ARGUMENTS = {"count", "depends_on", "for_each", "lifecycle", "provider"}  # Terraform's own
NOT_ARGUMENTS = META_ARGUMENTS | {"connection", "provisioners"}

# Their docstrings: parameter, perhaps the words "NAME block.", a link that ends in Terraform's own name.
ARGUMENT = re.compile(r":param (\w+): ((?:(?!:param ).)*?)\{@link \S+#(\w+) ", re.DOTALL)


@dataclass(frozen=True)
class Schema:
    """One resource, data source or nested block."""

    blocks: dict[str, Schema] = field(default_factory=dict)
    arguments: frozenset[str] = frozenset()  # those that are no blocks
    required: frozenset[str] = frozenset()  # of both
    exported: frozenset[str] = frozenset()  # what other expressions may read


@cache
def schema_of(kind: str, type_: str) -> Schema | None:
    """`kind` is "resource" or "data"; None where the provider has no such type."""
    name = type_.removeprefix("aws_")
    module = _package() / (f"data_aws_{name}" if kind == "data" else name) / "__init__.py"
    if not module.is_file():
        return None
    classes = {
        node.name: node for node in ast.parse(module.read_text()).body if isinstance(node, ast.ClassDef)
    }
    for node in classes.values():
        if f" {type_}}}" in (ast.get_docstring(node) or "") and _takes(node):
            return _read(node, classes)
    return None


def _package() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"{PACKAGE} is not installed here: run make deploy-check, which installs it.")
    return Path(found.submodule_search_locations[0])


def _read(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> Schema:
    blocks, arguments, required = {}, set(), set()
    for parameter, annotation, has_default in _takes(node):
        if parameter in NOT_ARGUMENTS:
            continue
        is_block, name = _documented(node)[parameter]
        if not has_default:
            required.add(name)
        nested = [found for found in re.findall(r"\w+", annotation) if found in classes]
        if is_block and nested:
            blocks[name] = _read(classes[nested[0]], classes)
        else:
            arguments.add(name)
    return Schema(blocks, frozenset(arguments), frozenset(required), frozenset(_properties(node)))


def _initialiser(node: ast.ClassDef) -> ast.FunctionDef | None:
    return next((it for it in node.body if isinstance(it, ast.FunctionDef) and it.name == "__init__"), None)


def _takes(node: ast.ClassDef) -> list[tuple[str, str, bool]]:
    """Each parameter with its annotation, and whether it may be left out."""
    function = _initialiser(node)
    if function is None:
        return []
    given = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return [
        (argument.arg, ast.unparse(argument.annotation), default is not None)
        for argument, default in given
        if argument.annotation is not None
    ]


def _documented(node: ast.ClassDef) -> dict[str, tuple[bool, str]]:
    """Each parameter: is it a block, and how Terraform spells it (`and_` is `and`)."""
    function = _initialiser(node)
    text = ast.get_docstring(function) if function else None
    return {
        parameter: (f"{name} block." in words, name)
        for parameter, words, name in ARGUMENT.findall(text or "")
    }


def _properties(node: ast.ClassDef) -> set[str]:
    return {
        it.name
        for it in node.body
        if isinstance(it, ast.FunctionDef)
        and any(ast.unparse(decorator).endswith("property") for decorator in it.decorator_list)
    }
