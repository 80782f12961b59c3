"""`growbin`'s own commands, run as an operator does."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT, Process

from tests.faults.cluster import Cluster

OPERATOR = "ada"
LONGEST_SECONDS = 60.0


async def said_by(cluster: Cluster, *words: str) -> tuple[int, str]:
    """Exit status and all that `growbin` said; it must end, whatever is away."""
    process = await growbin(cluster, *words, LOGNAME=OPERATOR)
    try:
        async with asyncio.timeout(LONGEST_SECONDS):
            said, _ = await process.communicate()
    except TimeoutError as error:
        raise AssertionError(f"growbin {' '.join(words)} goes on after {LONGEST_SECONDS:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def growbin(cluster: Cluster, *words: str, **settings: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "growbin", *words),
        env=cluster.consumers[0].part.environment() | settings,
        stdout=PIPE,
        stderr=STDOUT,
    )
