"""Two versions side by side on one broker and one Redis, as in every rolling upgrade and every way back.

The other version is the commit EARLIER, taken from this repository's history; `make mixed EARLIER=<commit>`
chooses another. It runs with today's packages.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.faults.cluster import Cluster, Servers
from tests.faults.instruments.oracle import count_by, outcome
from tests.faults.model import SERVER_ERROR
from tests.faults.steps import SETTLE_SECONDS, eventually, use
from tests.faults.versions import restarted_from, sources_of

# The last commit that wrote `ask_back` as a text, and no certainty. Who changes what is written moves it up
# to the last commit that still wrote the old shape.
EARLIER = os.environ.get("EARLIER") or "0b05360e615bfc72240cfbfce96be465da3176ba"
JOBS_EACH_SECOND = 3.0
MODEL_SECONDS = 0.5
JOBS_EACH_STEP = 6
MOST_JOBS = 1000
ROLLS_SECONDS = 240  # eight restarts, each followed by some jobs, on a slow machine
WRONG = (
    '"request_failed"',
    '"job_hit_a_bug"',
    '"handler_hit_a_bug"',
    '"job_dead_lettered"',
    '"stream_broken"',
)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the earlier version, to be put before today's on the path."""
    return sources_of(EARLIER, tmp_path_factory.mktemp("earlier"))


@pytest.mark.long
@pytest.mark.timeout(ROLLS_SECONDS + SETTLE_SECONDS)
async def test_rolled_forward_and_back_under_load_nothing_is_lost(servers: Servers, earlier: Path) -> None:
    """Every process is replaced by today's, one after the other, and then by the earlier one again, while
    people use it and the model fails now and then: every job ends done, nothing is dead-lettered, no bug is
    met, and each mixture works on jobs."""
    async with Cluster.running(servers, gateways=2, consumers=2) as cluster:
        cluster.model.delay_seconds = lambda _marker: MODEL_SECONDS
        for number in range(0, MOST_JOBS, 4):  # so that one version's retry comes to the other
            cluster.model.script(f"job-{number}", SERVER_ERROR)
        for process in cluster.processes:
            await restarted_from(process, earlier)
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(use(cluster, over, JOBS_EACH_SECOND))
            for sources in (None, earlier):
                for process in [*cluster.consumers, *cluster.gateways]:
                    await restarted_from(process, sources)
                    await some_jobs_more(cluster)
            over.set()
        await cluster.prove(SETTLE_SECONDS)
        jobs = cluster.ledger.jobs.values()
        print(f"beside {EARLIER}: {count_by(jobs, outcome)}")
        assert {outcome(job) for job in jobs} == {"done"}
        assert not [
            line for process in cluster.processes for line in process.log.splitlines() if said_wrong(line)
        ]


async def some_jobs_more(cluster: Cluster) -> None:
    """Wait until that many jobs were submitted and ended in the mixture that runs now."""
    known = set(cluster.ledger.jobs)

    async def ended() -> bool:
        new = [job for name, job in cluster.ledger.jobs.items() if name not in known]
        return sum(outcome(job) == "done" for job in new) >= JOBS_EACH_STEP

    await eventually(ended, f"{JOBS_EACH_STEP} jobs more are done")


def said_wrong(line: str) -> bool:
    return any(event in line for event in WRONG)
