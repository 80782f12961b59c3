"""The functions that guard the CDN, in the words that Terraform would deploy."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from growbin.job import READER_HEADER
from tests.deploy.terraform_tools import TERRAFORM, node, readme_values, terraform

RUNNER = Path(__file__).with_name("run_edge_function.js")
SECRETS = ("a" * 64, "the one that replaces it")
PHOTO = "0b8a1d6e-3c5f-4a7b-9d2e-6f1c8e4b7a90.jpg"
LONGEST_BYTES = 10 * 1024  # CloudFront takes no longer function
# The runtime knows ECMAScript 5.1 and a part of what came later; we keep to 5.1 and `const`.
TOO_NEW = re.compile(r"\b(class|let|import|export|async|await|yield)\b|=>|`|\?\.|\?\?|\.\.\.")


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The `code` of each function in cdn.tf, evaluated by Terraform itself, without a provider."""
    folder = tmp_path_factory.mktemp("functions")
    shutil.copy(TERRAFORM / "variables.tf", folder)
    shutil.copytree(TERRAFORM / "functions", folder / "functions")
    digests = [hashlib.sha256(secret.encode()).hexdigest() for secret in SECRETS]
    (folder / "terraform.tfvars").write_text(readme_values())
    (folder / "z.auto.tfvars.json").write_text(json.dumps({"cdn_reader_secret_sha256": digests}))
    blocks = re.findall(
        r'resource "aws_cloudfront_function" "(\w+)" \{.*?\n  code\s+= (.*?\))\n\}',
        (TERRAFORM / "cdn.tf").read_text(),
        re.DOTALL,
    )
    rendered = {}
    for name, expression in blocks:
        line = f"base64encode({' '.join(expression.split())})\n"
        done = terraform("console", "-no-color", folder=folder, text=line)
        assert done.returncode == 0, done.stderr
        rendered[name] = base64.b64decode(done.stdout.strip().strip('"')).decode()
    assert rendered.keys() == {"public_photo", "incoming_photo"}
    return rendered


def request(uri: str, **headers: str) -> dict[str, Any]:
    return {
        "method": "GET",
        "uri": uri,
        "querystring": {},
        "headers": {name.replace("_", "-"): {"value": value} for name, value in headers.items()},
        "cookies": {},
    }


def answers(code: str, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    events = [
        {
            "version": "1.0",
            "context": {
                "distributionDomainName": "d111111abcdef8.cloudfront.net",
                "distributionId": "E1EXAMPLE",
                "eventType": "viewer-request",
                "requestId": "request",
            },
            "viewer": {"ip": "198.51.100.7"},
            "request": it,
        }
        for it in requests
    ]
    answered: list[dict[str, Any]] = node(RUNNER, json.dumps({"code": code, "events": events}))
    return answered


def ways_to_a_raw_photo() -> list[str]:
    """Spellings that S3, or something before it, may read as the key of a raw photo."""
    plain = f"/incoming/{PHOTO}"
    encoded = [
        f"{plain[:index]}%{ord(character):{case}}{plain[index + 1 :]}"
        for index, character in enumerate(plain)
        for case in ("02x", "02X")
        if index
    ]
    whole = "/" + "".join(f"%{ord(character):02X}" for character in plain[1:])
    odd = [
        f"/{plain}",
        f"/.{plain}",
        f"/x/..{plain}",
        f"/{PHOTO}/..{plain}",
        f"/incoming//{PHOTO}",
        f"/incoming/./{PHOTO}",
        f"/incoming%252F{PHOTO}",
        f"/incoming\\{PHOTO}",
        f"{plain}\n",
        f"{plain}%00",
        f"/{PHOTO}\n{plain}",
        f"incoming/{PHOTO}",
        "/incoming/",
        "/incoming",
    ]
    return [plain, whole, *encoded, *odd]


def leaks(code: str) -> list[str]:
    """Raw photos that a stranger gets past the function, be it shown the path as it came or decoded."""
    spelled = ways_to_a_raw_photo()
    uris = [*spelled, *map(unquote, spelled)]
    guesses: list[dict[str, str]] = [{}, {"x_growbin_reader": ""}, {"x_growbin_reader": "guessed"}]
    asked = [request(uri, **guess) for uri in uris for guess in guesses]
    return [answer["uri"] for answer in answers(code, *asked) if "incoming" in unquote(answer.get("uri", ""))]


@pytest.mark.parametrize("name", ["public_photo", "incoming_photo"])
def test_a_stranger_asking_for_a_raw_photo_gets_none(functions: dict[str, str], name: str) -> None:
    """However the path is spelled, neither behaviour hands a raw photo to who does not know the secret."""
    assert not leaks(functions[name])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("incoming_photo", lambda code: code.replace("header && isReader(header.value)", "header")),
        ("incoming_photo", lambda code: code.replace(">= 0", ">= -1")),
        ("public_photo", lambda code: code.replace("[0-9a-f-]{36}", "[0-9a-z%-]+")),
        ("public_photo", lambda code: code.replace("/^", "/").replace(r"\/[", "[")),
    ],
    ids=["any header", "any digest", "encoded slash", "any beginning"],
)
def test_a_weakened_function_is_caught(
    functions: dict[str, str], name: str, change: Callable[[str], str]
) -> None:
    """The test above would see it: each of these lets a raw photo out."""
    weakened = change(functions[name])
    assert weakened != functions[name]
    assert leaks(weakened)


@pytest.mark.parametrize("secret", SECRETS)
def test_the_consumer_with_a_valid_secret_gets_the_raw_photo(functions: dict[str, str], secret: str) -> None:
    """Both secrets open incoming/ while one replaces the other, and the request goes on unchanged."""
    asked = [
        request(f"/incoming/{name}", x_growbin_reader=secret) for name in (PHOTO, "doctor-0123456789abcdef")
    ]
    assert answers(functions["incoming_photo"], *asked) == asked


def test_a_wrong_secret_is_refused(functions: dict[str, str]) -> None:
    """None, an empty one, a part, one too long, the digest itself: 403, never an error."""
    right = SECRETS[0]
    wrong = ["", right[:-1], right + "a", right.upper(), hashlib.sha256(right.encode()).hexdigest(), "\u00e9"]
    asked = [request(f"/incoming/{PHOTO}", x_growbin_reader=secret) for secret in wrong]
    answered = answers(functions["incoming_photo"], request(f"/incoming/{PHOTO}"), *asked)
    assert [answer.get("statusCode") for answer in answered] == [403] * (len(wrong) + 1)


def test_the_secret_opens_nothing_but_raw_photos(functions: dict[str, str]) -> None:
    """With the secret, too, a path that is no name under incoming/ is refused."""
    uris = ["/", "/incoming/", f"/incoming/a/{PHOTO}", f"/incoming%2F{PHOTO}", f"/{PHOTO}"]
    asked = [request(uri, x_growbin_reader=SECRETS[0]) for uri in uris]
    assert {answer.get("statusCode") for answer in answers(functions["incoming_photo"], *asked)} == {403}


def test_everyone_gets_a_public_photo(functions: dict[str, str]) -> None:
    """The clean copy in each of its types, with or without a secret."""
    stem = PHOTO.removesuffix(".jpg")
    asked = [request(f"/{stem}.{extension}") for extension in ("jpg", "png", "webp")]
    asked.append(request(f"/{PHOTO}", x_growbin_reader="guessed"))
    assert answers(functions["public_photo"], *asked) == asked


def test_any_other_path_is_not_found(functions: dict[str, str]) -> None:
    """No list of the bucket, no page, no type that a browser would run."""
    stem = PHOTO.removesuffix(".jpg")
    uris = ["/", "/index.html", f"/{stem}.svg", f"/{stem}", f"/{PHOTO.upper()}", f"/x/{PHOTO}", f"/{PHOTO}/"]
    answered = answers(functions["public_photo"], *map(request, uris))
    assert [answer.get("statusCode") for answer in answered] == [404] * len(uris)


def test_functions_need_nothing_that_the_runtime_lacks(functions: dict[str, str]) -> None:
    """Short enough, and in the part of the language that is certain to be there."""
    for code in functions.values():
        assert len(code.encode()) <= LONGEST_BYTES
        assert not TOO_NEW.search(re.sub(r"//.*", "", code))


@pytest.mark.parametrize(
    "code",
    ["require('fs')", "process.exit()", "eval('1')", "fetch('/')", "require('crypto').createHash('sha512')"],
)
def test_a_function_that_asks_for_more_than_cloudfront_has_fails(code: str) -> None:
    """The runner is no Node: what the runtime does not offer is an error here, too."""
    (answer,) = answers(f"function handler(event) {{ {code}; return event.request; }}", request("/"))
    assert "error" in answer


def test_function_and_consumer_mean_the_same_header() -> None:
    """CloudFront shows header names in small letters; the consumer's constant is the one that is checked."""
    assert (
        f"headers['{READER_HEADER.lower()}']" in (TERRAFORM / "functions/incoming-photo.js.tftpl").read_text()
    )


def test_no_secret_stands_in_a_function(functions: dict[str, str]) -> None:
    """Who may read the function, the plan or the state learns digests only."""
    assert not [secret for secret in SECRETS if any(secret in code for code in functions.values())]
