"""A small dose of random harm with every test run; `make chaos` gives larger ones."""

from __future__ import annotations

from typing import get_args

import pytest

from tests.faults.chaos import Dose, run
from tests.faults.chaos_table import table
from tests.faults.cluster import Servers
from tests.faults.instruments.nemesis import Kind, plan

DOSE = Dose(seed=20, jobs=500, kills=10, rarer=False)


def test_seed_decides_the_whole_plan() -> None:
    """The same seed does the same things at the same offsets, another seed others."""
    assert plan(1, 500, 10) == plan(1, 500, 10)
    assert plan(1, 500, 10) != plan(2, 500, 10)


def test_plan_has_every_kind_of_harm() -> None:
    """As many kills as were asked for, of each part at least one, and all other harms with them."""
    actions = plan(1, 500, 10, upgrades=True)
    killed = [action.target.partition("-")[0] for action in actions if action.kind == "kill"]
    assert len(killed) == 10
    assert set(killed) == {"consumer", "gateway", "valkey", "rabbitmq"}
    assert {action.kind for action in actions} == set(get_args(Kind))
    outages = {action.target for action in actions if action.kind == "outage"}
    assert outages == {"model", "s3", "model errors"}
    assert len({action.target for action in actions if action.kind == "upgrade"}) == 5


@pytest.mark.timeout(400)
async def test_500_jobs_through_10_kills_keep_every_promise(servers: Servers) -> None:
    """Nothing is lost, paid twice without a reason or stuck, and nearly every job is done."""
    result = await run(servers, DOSE)
    print(table(result))
    assert not result.failings, "\n".join(result.failings)
