"""`/docs`: what a developer reads. Its frame is `page/docs/docs.html`; the calls, the codes and the clients
are put in from where they stand. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from growbin.gateway.openapi import Call, describe
from growbin.messages import failure, failure_codes, problem_title

FOLDER = Path(__file__).parent / "page" / "docs"
EXAMPLE = "http://127.0.0.1:8080"  # in the page stands instead by what address it was asked for
CLIENTS = (
    ("curl, in a POSIX shell", ("client.sh",)),
    ("TypeScript, without a package", ("client.ts", "run.ts")),
    ("Python, without a package", ("client.py",)),
)


def page(calls: Sequence[Call]) -> str:
    text = (FOLDER / "docs.html").read_text(encoding="utf-8")
    description = describe(calls)
    parts = {
        "clients": _clients(),
        "problems": _problems(description["components"]["responses"]),
        "failures": _failures(),
        "calls": _calls(description),
    }
    for name, part in parts.items():
        text = text.replace("{{" + name + "}}", part)
    return text


def _clients() -> str:
    shown = []
    for title, files in CLIENTS:
        sources = "".join(
            f'<p><a href="/docs/{name}" download>{name}</a></p>'
            f"<pre><code>{escape((FOLDER / name).read_text(encoding='utf-8'))}</code></pre>"
            for name in files
        )
        shown.append(f"<details><summary>{title}</summary>{sources}</details>")
    return "".join(shown)


def _problems(responses: Mapping[str, Any]) -> str:
    rows = [(response, code) for response in responses.values() for code in _codes(response)]
    return _table(
        ("status", "code", "means"),
        (
            [str(_example(response, code)["status"]), f"<code>{code}</code>", escape(problem_title(code))]
            for response, code in rows
        ),
    )


def _codes(response: Mapping[str, Any]) -> list[str]:
    return list(response["content"]["application/problem+json"]["examples"])


def _example(response: Mapping[str, Any], code: str) -> Mapping[str, Any]:
    example: Mapping[str, Any] = response["content"]["application/problem+json"]["examples"][code]["value"]
    return example


def _failures() -> str:
    told = [failure(code, "en") for code in failure_codes()]
    return _table(
        ("code", "once more?", "what the person reads"),
        ([f"<code>{one.code}</code>", "yes" if one.retryable else "no", escape(one.detail)] for one in told),
    )


def _calls(description: Mapping[str, Any]) -> str:
    schemas, responses = description["components"]["schemas"], description["components"]["responses"]
    sections = "".join(
        _call(method.upper(), path, operation, responses)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    )
    shapes = "".join(
        # Inside, so that a link to it unfolds it.
        f'<details><summary>{name}</summary><p id="{name}">{escape(schema.get("description", ""))}</p>'
        f"{_fields(schema)}</details>"
        for name, schema in sorted(schemas.items())
    )
    return f"{sections}<h3>Shapes</h3>{shapes}"


def _call(method: str, path: str, operation: Mapping[str, Any], responses: Mapping[str, Any]) -> str:
    parts = [f"<p>{escape(operation['summary'])}.</p>"]
    if parameters := operation.get("parameters"):
        rows = (
            [f"<code>{one['name']}</code>", one["in"], escape(one.get("description", ""))]
            for one in parameters
        )
        parts.append(_table(("parameter", "in", ""), rows))
    if body := operation.get("requestBody"):
        parts.append(f"<p>Body: {_shape(body['content']['application/json']['schema'])}</p>")
    rows = ([status, _answer(answer, responses)] for status, answer in operation["responses"].items())
    parts.append(_table(("status", "answer"), rows))
    name = f"<code>{method} {escape(path)}</code>"
    return f"<details><summary>{name}</summary>{''.join(parts)}</details>"


def _answer(answer: Mapping[str, Any], responses: Mapping[str, Any]) -> str:
    if refused := answer.get("$ref", "").rpartition("/")[2]:
        return ", ".join(
            f'<a href="#problems"><code>{code}</code></a>' for code in _codes(responses[refused])
        )
    [(media_type, content)] = answer.get("content", {"": {}}).items()
    if media_type == "text/event-stream":
        return 'a stream of <a href="#ProgressEvent">ProgressEvent</a>'
    shape = _shape(content["schema"]) if content else ""
    return " ".join(filter(None, [escape(answer["description"]), shape]))


def _fields(schema: Mapping[str, Any]) -> str:
    if "properties" not in schema:
        return f"<p>{_shape(schema)}</p>"
    needed = schema.get("required", ())
    return _table(
        ("field", "type", ""),
        (
            [f"<code>{name}</code>", _shape(field), "" if name in needed else "optional"]
            for name, field in schema["properties"].items()
        ),
    )


def _shape(schema: Mapping[str, Any]) -> str:
    """A type in words; a named one as a link."""
    if name := schema.get("$ref", "").rpartition("/")[2]:
        return f'<a href="#{name}">{name}</a>'
    if "enum" in schema:
        return ", ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(str(schema['const']))}</code>"
    if "anyOf" in schema:
        return " or ".join(_shape(one) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_shape(schema['items'])}" if schema.get("items") else "list"
    return escape(" ".join(filter(None, [schema.get("format", ""), schema.get("type", "anything")])))


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f'<th scope="col">{one}</th>' if one else "<td></td>" for one in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
