"""Another version of the processes, from this repository's history; it runs with today's packages."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.faults.cluster import Process

ROOT = Path(__file__).parents[2]


def sources_of(commit: str, folder: Path) -> Path:
    """The sources of that commit, unpacked into the folder, to be put before today's on the path."""
    archive = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, capture_output=True)
    assert archive.returncode == 0, f"{archive.stderr.decode()}Fetch the history: git fetch --unshallow"
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    sources = folder / "src"
    where = subprocess.run(
        [sys.executable, "-c", "import growbin; print(growbin.__file__)"],
        env={**os.environ, "PYTHONPATH": str(sources)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(sources)), f"the path leads to {where.stdout}"
    return sources


async def restarted_from(process: Process, sources: Path | None) -> None:
    """Stop it as a rollout does, and start it from `sources`, or from today's."""
    assert await process.stop() == 0
    process.run_from(sources)
    await process.start()
