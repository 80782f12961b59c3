"""`make run`: one command, one photo, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.e2e.client import browsing
from tests.e2e.photos import drawn
from tests.e2e.system import free_port, is_free
from tests.loopback import served
from tests.processes import Stack, command, environment, tail
from tests.stream_conformance.scripted_model import ScriptedModel

ROOT = Path(__file__).parents[2]


def make_run(port: int) -> list[str]:
    """`make run` with the interpreter of this test; `--old-file` says that its venv is set up."""
    runnable = f"{sys.prefix}/.runnable-{sys.version_info.major}.{sys.version_info.minor}"
    choice = [f"PYTHON={sys.executable}", f"VENV={sys.prefix}", f"PORT={port}"]
    return ["make", "--directory", str(ROOT), "--old-file", runnable, "run", *choice]


def test_run_installs_less_than_the_tests_need(tmp_path: Path) -> None:
    """Who only wants to try it waits for the packages that growbin runs with, not for linters."""
    choice = [f"PYTHON={sys.executable}", f"VENV={tmp_path}"]
    plans = {
        task: subprocess.run(
            ["make", "--directory", str(ROOT), "--dry-run", task, *choice], capture_output=True, text=True
        ).stdout
        for task in ("run", "setup")
    }
    installed = {task: set(re.findall(r"requirements/(\w+)\.txt", plan)) for task, plan in plans.items()}
    assert installed == {"run": {"local"}, "setup": {"local", "dev"}}


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Stack]:
    """The whole of growbin, as one command starts it."""
    running = Stack(tmp_path_factory.mktemp("stack"), make_run(port))
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


def test_printed_walk_through_works_when_pasted(stack: Stack, port: int) -> None:
    """The address is printed, and the commands below it take a real photo to its advice."""
    printed = stack.log.read_text()
    assert f"http://127.0.0.1:{port}" in printed
    walk_through = re.search(r"^api=.*?(?=^$|^Ready)", printed, re.MULTILINE | re.DOTALL)
    assert walk_through, printed
    pasted = subprocess.run(
        ["sh", "-eu"], input=walk_through[0], env=environment({}), capture_output=True, text=True, timeout=60
    )
    assert pasted.returncode == 0, pasted.stderr
    assert pasted.stderr == ""
    assert re.findall("^event: (.*?)\r?$", pasted.stdout, re.MULTILINE) == ["progress"] * 5 + ["done"]


async def test_page_takes_no_question_for_the_embedded_model(stack: Stack, port: int) -> None:
    """The gateway knows which model answers, though it never calls it."""
    async with browsing(f"http://127.0.0.1:{port}") as client:
        page = (await client.call("GET", "/")).body
    assert 'data-questions="no"' in page


@pytest.mark.parametrize("same", ["data folder", "port"])
def test_second_start_is_refused_with_a_sentence(stack: Stack, port: int, tmp_path: Path, same: str) -> None:
    """A second stack on the same data or the same port says so, and the first goes on."""
    data, its_port = (stack.data, free_port()) if same == "data folder" else (tmp_path, port)
    second = subprocess.run(
        command("stack", "--data", str(data), "--port", str(its_port)),
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode != 0
    assert len(second.stderr.strip().splitlines()) == 1
    assert (str(data) if same == "data folder" else str(port)) in second.stderr
    assert "in use" in second.stderr
    assert stack.process.poll() is None


def test_doctor_finds_the_stack_by_its_file(stack: Stack, tmp_path: Path) -> None:
    """In the folder of `var/stack.env`, which only its owner may read, no setting need be given."""
    (tmp_path / "var").mkdir()
    told = tmp_path / "var" / "stack.env"
    told.write_bytes(stack.env_file.read_bytes())
    examined = subprocess.run(
        command("doctor"), env=environment({}), cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert stack.env_file.stat().st_mode & 0o777 == 0o600
    assert str(told) in examined.stderr
    assert examined.returncode == 0, examined.stdout


async def test_photo_comes_from_s3_once_nginx_is_killed(stack: Stack, port: int) -> None:
    """The CDN's process dies; the stack says so and goes on, and the next photo comes from S3."""
    async with browsing(f"http://127.0.0.1:{port}") as client:
        await client.read_through_the_cdn()
        os.killpg(stack.pids["nginx"], signal.SIGKILL)
        after = await client.result(await client.submit(drawn("JPEG")))
    assert after["photo"]["source"] == "s3"
    assert "nginx" in tail(stack.log)


@pytest.mark.parametrize("killed", [["gateway"], ["consumer"], ["gateway", "consumer"]])
async def test_killed_program_is_started_again(stack: Stack, port: int, killed: list[str]) -> None:
    """The stack says so, and the next photo has its result."""
    before = dict(stack.pids)
    for name in killed:
        os.killpg(before[name], signal.SIGKILL)
    async with asyncio.timeout(60):
        while any(stack.pids[name] == before[name] for name in killed):
            await asyncio.sleep(0.1)
            stack.read_files()
    async with browsing(f"http://127.0.0.1:{port}") as client:
        assert (await client.result(await client.submit(drawn("JPEG"))))["items"]
    for name in killed:
        assert f"{name} ended unexpectedly (exit code -9)" in tail(stack.log)


def test_ctrl_c_ends_everything(stack: Stack, port: int) -> None:
    """After Ctrl-C no process is left and the port is free. It ends the stack of the tests above."""
    os.killpg(stack.process.pid, signal.SIGINT)  # as the terminal does it: to the whole foreground group
    stack.wait_until_gone()
    assert is_free(port)


def test_sigterm_to_make_ends_everything(stack: Stack, port: int) -> None:
    """Started once more on the same data, it ends as wholly when only `make` itself is told to."""
    stack.stop()
    again = Stack(stack.data.parent, make_run(port))
    try:
        again.wait_until_ready()
        assert not is_free(port)
        again.process.send_signal(signal.SIGTERM)
    finally:
        again.wait_until_gone()
    assert is_free(port)


def with_parts_of(parts: dict[str, str], **chosen: str) -> dict[str, str]:
    """An environment whose stack has less to start."""
    shared = {name: parts[name] for name in ("RABBITMQ_URL", "RABBITMQ_MANAGEMENT_URL", "REDIS_URL")}
    return shared | {"QUEUE_NAME": f"run.{uuid.uuid4().hex}"} | chosen


@pytest.mark.parametrize("key", ["sk-somebodys-own-key", ""])
async def test_other_model_server_is_asked_instead_of_ours(
    parts: dict[str, str], tmp_path: Path, key: str
) -> None:
    """With OPENAI_BASE_URL, with or without a key, no model server of ours is started, and the consumer asks
    the one that is named, for the default model."""
    model, port = ScriptedModel(), free_port()
    async with model.serving() as address:
        chosen = with_parts_of(parts, OPENAI_BASE_URL=address, **({"OPENAI_API_KEY": key} if key else {}))
        stack = Stack(tmp_path, make_run(port), **chosen)
        try:
            await asyncio.to_thread(stack.wait_until_ready)
            assert {"gateway", "consumer"} <= stack.pids.keys()
            assert "model-server" not in stack.pids
            async with browsing(f"http://127.0.0.1:{port}") as client:
                result = await client.result(await client.submit(drawn("JPEG")))
                page = (await client.call("GET", "/")).body
            async with asyncio.timeout(20):
                while "scripted answered in" not in tail(stack.log):
                    await asyncio.sleep(0.1)
        finally:
            await asyncio.to_thread(stack.stop)
    assert result["model"] == "scripted"
    assert 'data-questions="yes"' in page
    assert set(model.asked) == {("gpt-6-luna", f"Bearer {key or 'none'}")}
    assert len(model.asked) == 2  # once by the stack, once for the photo


async def test_refused_key_is_told_at_once(parts: dict[str, str], tmp_path: Path) -> None:
    """Before anybody has sent a photo the terminal names the setting; the rest runs on."""

    async def refuse(_request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "Incorrect API key provided"}}, status=401)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuse)
    async with served(app) as address:
        chosen = with_parts_of(parts, OPENAI_BASE_URL=address, OPENAI_API_KEY="sk-somebodys-old-key")
        stack = Stack(tmp_path, command("stack", "--port", str(free_port())), **chosen)
        try:
            await asyncio.to_thread(stack.wait_until_ready)
            async with asyncio.timeout(20):
                while "NO PHOTO WILL BE ANSWERED" not in tail(stack.log):
                    await asyncio.sleep(0.1)
            assert stack.process.poll() is None
        finally:
            await asyncio.to_thread(stack.stop)
    assert "401" in tail(stack.log)
    assert "Correct OPENAI_API_KEY" in tail(stack.log)
    assert "sk-somebodys-old-key" not in tail(stack.log)


def test_folder_with_other_letters_will_do(tmp_path: Path) -> None:
    """A Korean name of the data folder ends no part, on a first start as on the next; no link is left."""
    for _ in range(2):
        stack = Stack(tmp_path / "데이터", command("stack", "--parts-only"))
        try:
            stack.wait_until_ready()
        finally:
            stack.stop()
    links = [link for link in Path("/tmp").glob("growbin-*") if link.is_symlink()]
    assert not [link for link in links if str(tmp_path) in str(link.readlink())]


def test_key_alone_leads_to_openai(parts: dict[str, str], tmp_path: Path) -> None:
    """With OPENAI_API_KEY no model server of ours is started, and nothing leads elsewhere than to OpenAI."""
    chosen = with_parts_of(parts, OPENAI_API_KEY="sk-somebodys-own-key")
    stack = Stack(tmp_path, command("stack", "--parts-only"), **chosen)
    try:
        stack.wait_until_ready()
        assert "model-server" not in stack.pids
        assert stack.settings["OPENAI_API_KEY"] == chosen["OPENAI_API_KEY"]
        assert stack.settings.keys().isdisjoint({"OPENAI_BASE_URL", "OPENAI_MODEL"})
    finally:
        stack.stop()
