"""growbin's processes as the tests start them: with a clean environment, watched, and gone at the end."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

START_SECONDS = 180  # the first start turns the model's weights into ONNX
STOP_SECONDS = 60
LOG_TAIL_CHARACTERS = 6_000
# What a process needs to run at all, the broker to be used where none can be installed, and another Redis.
INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "RABBITMQ_URL", "RABBITMQ_MANAGEMENT_URL", "REDIS_SERVER")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "growbin", *arguments]


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The settings, and nothing of the person's own shell that could change what is tested."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ} | dict(settings)


def tail(log: Path) -> str:
    return log.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:]


class Stack:
    """A `growbin stack`, started with `words` (or by make, where these are for make) on data in `folder`,
    with the settings `chosen`. Its output is in `log`; once it is ready, `settings` lead to its parts."""

    def __init__(self, folder: Path, words: list[str], **chosen: str) -> None:
        folder.mkdir(exist_ok=True)
        self.data, self.log, self.env_file = folder / "data", folder / "stack.log", folder / "parts.env"
        options = ["--data", str(self.data), "--env-file", str(self.env_file)]
        arguments = [*words, f"ARGS={shlex.join(options)}"] if words[0] == "make" else [*words, *options]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                arguments,
                env=environment(chosen),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.settings: dict[str, str] = {}
        self.pids: dict[str, int] = {}

    def wait_until_ready(self) -> None:
        """The stack writes its files when every part has proved useful."""
        deadline = time.monotonic() + START_SECONDS
        while not self.env_file.exists():
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self.process.wait(0.2)
                raise AssertionError(f"the stack ended with {code}:\n{tail(self.log)}")
            assert time.monotonic() < deadline, f"not ready after {START_SECONDS} s:\n{tail(self.log)}"
        self.read_files()

    def read_files(self) -> None:
        """Again after a program was started anew."""
        words = shlex.split(self.env_file.read_text())
        self.settings = dict(word.split("=", 1) for word in words)
        parts = json.loads((self.data / "status.json").read_text())["parts"]
        self.pids = {name: part["pid"] for name, part in parts.items()}

    def stop(self) -> None:
        """Ask it to end, if it has not, and wait until nothing is left."""
        self.process.send_signal(signal.SIGTERM)
        self.wait_until_gone()

    def stop_in_a_hurry(self) -> None:
        """The second signal lets it wait for nothing: RabbitMQ alone takes seconds to end cleanly."""
        self.process.send_signal(signal.SIGINT)
        self.stop()  # another number, for two equal signals may become one

    def wait_until_gone(self) -> None:
        """It was asked to end. Nothing of it may be left, and what is left is killed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        left = list(self._remains())
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        assert not left, f"the stack left processes behind: {left}\n{tail(self.log)}"

    def _remains(self) -> Iterator[psutil.Process]:
        """What still runs of it: the pids it wrote down, and whatever names its data folder."""
        ours = {self.process.pid, *self.pids.values()}
        for process in psutil.process_iter(["pid", "cmdline", "status"]):
            names_us = str(self.data) in " ".join(process.info["cmdline"] or [])
            if process.info["status"] != psutil.STATUS_ZOMBIE and (process.pid in ours or names_us):
                yield process
