"""The API as /openapi.json describes it, held to that by schemathesis: all its checks, on a real gateway."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.client import Client
from tests.e2e.system import System
from tests.processes import environment

EXAMPLES = os.environ.get("DESCRIBED_EXAMPLES", "8")
SEED = os.environ.get("DESCRIBED_SEED", "7")
CONFIG = Path(__file__).with_name("schemathesis.toml")
LONGEST_SECONDS = 110
MOST_REFUSED = 0.05  # of all calls may be refused for their rate: those saw nothing else


async def statuses(system: System) -> Counter[str]:
    """How many calls the gateway has answered with each."""
    async with aiohttp.ClientSession() as http, http.get(f"{system.probe_url}/metrics") as answer:
        families = text_string_to_metric_families(await answer.text())
    counts: Counter[str] = Counter()
    for family in families:
        for sample in family.samples:
            if sample.name == "growbin_requests_total":
                counts[sample.labels["status"]] += int(sample.value)
    return counts


async def hold(system: System, client: Client, folder: Path, *wanted: str) -> int:
    """Hold the calls that are `wanted` to the description, with a session of their own: how many cases."""
    session = (await client.call("POST", "/api/v1/sessions")).body
    program = Path(sys.executable).with_name("schemathesis")
    command = [
        *(str(program), "--config-file", str(CONFIG), "run", f"{system.base_url}/openapi.json", *wanted),
        *("--checks", "all", "--continue-on-failure", "--no-color"),
        # It spoils the cookie, and the token that goes with every case is good.
        *("--exclude-checks", "ignored_auth"),
        *("--header", f"Authorization: Bearer {session['token']}", "--request-timeout", "70"),
        *("--max-examples", EXAMPLES, "--seed", SEED),
    ]
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        cwd=folder,
        env=environment({}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST_SECONDS if EXAMPLES == "8" else None,
    )
    print(done.stdout)
    assert done.returncode == 0
    cases = re.search(r"(\d+) generated", done.stdout)
    assert cases
    return int(cases[1])


async def test_every_call_does_what_its_description_says(
    system: System, client: Client, tmp_path: Path
) -> None:
    """Some hundreds of calls, right and wrong ones: statuses, bodies and methods as described, and no 500.
    The streams are left out, which stay open; a session's end comes last, alone."""
    before = await statuses(system)
    all_others = ("--exclude-path-regex", "events$", "--exclude-operation-id", "end_session")
    assert await hold(system, client, tmp_path, *all_others) >= 200
    assert await hold(system, client, tmp_path, "--include-operation-id", "end_session") > 1
    seen = await statuses(system) - before
    print(f"{seen.total()} calls: {dict(seen)}")
    assert seen["429"] < MOST_REFUSED * seen.total()
