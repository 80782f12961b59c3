"""The shipped image, built from the Dockerfile, run as a cluster runs it: one job goes through it."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.manifests import rendered
from tests.deploy.pods import Pods
from tests.faults.cluster import Servers
from tests.faults.collector import Collector
from tests.faults.instruments.oracle import outcome
from tests.faults.steps import begin
from tests.image.built_image import USER, BuiltImage

WHO_AM_I = """
import os, pathlib
status = dict(line.split(":\t", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
print(os.getuid(), os.getgid(), os.getgroups(), os.getcwd())
print(status["CapEff"], status["CapBnd"], status["NoNewPrivs"])
print(pathlib.Path("/etc/ssl/certs/ca-certificates.crt").stat().st_size > 0)
pathlib.Path("/tmp/scratch").write_text("may be written")
pathlib.Path("/opt/growbin/new").write_text("may not")
"""
SEND_A_SPAN = """
import sys
from growbin.telemetry import traces
from growbin.telemetry.span_recorder import SpanRecorder
recorder = SpanRecorder.to_collector(sys.argv[1], "growbin-image")
traces.record_with(recorder)
with traces.request("one", None, None, "sent from the image"):
    pass
recorder.close()
"""


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Its files belong to several users, so it is root's to remove."""
    with tempfile.TemporaryDirectory(prefix="growbin-image-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def built(folder: Path) -> BuiltImage:
    """Built once."""
    image = BuiltImage(folder)
    image.build()
    return image


def test_image_says_what_the_manifests_count_on(built: BuiltImage) -> None:
    """Its user is the pods' user, its ports are theirs, and nothing is left of how it was built."""
    config = built.config
    assert config["User"] == f"{USER}:{USER}"
    for name in ("gateway", "consumer"):
        pod = next(it for it in rendered("base").pods if it.owner == f"Deployment/{name}")
        assert pod.spec["securityContext"]["runAsUser"] == int(USER)
        assert {f"{port}/tcp" for port in pod.ports.values()} <= config["ExposedPorts"].keys()
    assert built.environment().keys() == {"PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
    assert not (built.root / "src").exists()
    assert not [found for top in ("usr", "opt") for found in built.root.glob(f"{top}/**/pip/__init__.py")]


def test_what_runs_in_it_has_no_privileges_and_cannot_write(built: BuiltImage) -> None:
    """The user, no capability, certificates; /tmp is all that may be written."""
    words = built.confined("python", "-c", WHO_AM_I)
    run = subprocess.run(words, env=built.environment(), capture_output=True, text=True)
    assert run.stdout.splitlines() == [
        f"{USER} {USER} [] /tmp",
        f"{16 * '0'} {16 * '0'} 1",
        "True",
    ], run.stderr
    assert "Read-only file system: '/opt/growbin/new'" in run.stderr


@pytest.mark.timeout(180)
async def test_one_job_goes_through_the_image(built: BuiltImage, tmp_path: Path) -> None:
    """A gateway and a consumer of it, with the manifests' words and variables: the job is done, paid once."""
    Pods.image = built
    async with Servers.running(tmp_path) as servers, Pods.running(servers, gateways=1, consumers=1) as pods:
        job, hold = await begin(pods, "image")
        hold.release()
        await pods.client.seen(job)
        await pods.prove()
        assert (outcome(job), pods.model.paid("image")) == ("done", 1)
        assert [await pod.stop() for pod in pods.pods] == [0, 0]


@pytest.mark.timeout(400)
async def test_image_sends_traces_only_if_it_was_built_to(built: BuiltImage, folder: Path) -> None:
    """What the shipped one does not hold comes with `--build-arg REQUIREMENTS=tracing`."""
    tracing = BuiltImage(folder, "tracing")
    tracing.build()
    async with Collector.running() as collector:
        said = {
            image: await _output(image, "python", "-c", SEND_A_SPAN, collector.url)
            for image in (built, tracing)
        }
        assert "No module named 'opentelemetry'" in said[built]
        assert (said[tracing], [span.name for span in collector.spans]) == ("", ["sent from the image"])


async def _output(image: BuiltImage, *words: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *image.confined(*words),
        env=image.environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    return (await process.communicate())[0].decode()
