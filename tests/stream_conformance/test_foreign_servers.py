"""Other people's ways of streaming a job's progress, put through the rules: the verdicts are right."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence

import pytest_asyncio

from tests.loopback import served
from tests.stream_conformance.any_service import AnyService
from tests.stream_conformance.foreign import honest, numbered, polled
from tests.stream_conformance.verdicts import Verdict, table, verdicts_on

# What each breaks, with a pattern of what must have been seen, and what nobody can try on it.
POLLED_BREAKS = {
    "kept from buffers": "X-Accel-Buffering: none",
    "reconnect time": "no `retry`",
    "every stage": "missing: downloading,.* finishing",
    "same to all": "missing: ",
    "latecomer": "missing: ",
    "ids": "no id",
    "resume after the end": "no id",
    "resume while it runs": "no id",
    "cut anywhere": "no id",
    "stop after the end": "no id",
    "unknown id": "no id",
    "id of another job": "no id",
    "no job no stream": "answered with 200",
}
POLLED_CANNOT = {
    "open at once": "no `start`",
    "heartbeat": "no `start`",
    "nothing after the end": "no `cancel`",
    "race with the end": "no `cancel`",
    "resume by query": "no `last_id_parameter`",
    "unknown id while it runs": "no `start`",
    "restart": "no `restart`",
    "strangers": "no `session`",
}
NUMBERED_BREAKS = {
    "reconnect time": "`retry: 3000` to each",
    "stop after the end": "200 to who has seen event 6 of 6",
    "unknown id": "'nonsense' \\(nonsense\\): told created",
    "id of another job": "event 1: told queued",
    "unknown id while it runs": "told created",
    "restart": "missing: |silence",
}
NUMBERED_CANNOT = {"resume by query": "no `last_id_parameter`", "strangers": "no `session`"}
# It is never waited for in vain: however slow the machine is, what comes at all is in time.
HONEST = honest.DESCRIPTION.model_copy(
    update={"stream": honest.DESCRIPTION.stream.model_copy(update={"patience_seconds": 30.0})}
)


@pytest_asyncio.fixture(scope="module")
async def verdicts() -> Mapping[str, list[Verdict]]:
    """Of all three, who are judged at the same time: mostly they wait."""
    async with (
        served(polled.PolledServer().app) as polled_url,
        served(numbered.NumberedServer().app) as numbered_url,
        served(honest.HonestServer().app) as honest_url,
    ):
        services = {
            "polled": AnyService(polled_url, polled.DESCRIPTION),
            "numbered": AnyService(numbered_url, numbered.description(numbered_url)),
            "honest": AnyService(honest_url, HONEST),
        }
        judged = await asyncio.gather(*map(verdicts_on, services.values()))
    return dict(zip(services, judged, strict=True))


def _check(verdicts: Sequence[Verdict], breaks: Mapping[str, str], cannot: Mapping[str, str]) -> None:
    print(table("a foreign stream", verdicts))
    for verdict in verdicts:
        due = "broken" if verdict.rule in breaks else "cannot be tried" if verdict.rule in cannot else "kept"
        assert verdict.outcome == due, verdict
        assert re.search({**breaks, **cannot}.get(verdict.rule, ""), verdict.seen), verdict
    assert {verdict.rule for verdict in verdicts} >= {*breaks, *cannot}


async def test_stream_that_polls_drops_what_happens_between_two_looks(
    verdicts: Mapping[str, list[Verdict]],
) -> None:
    """Rule by rule: it tells its jobs' ends, and little else of what happened."""
    _check(verdicts["polled"], POLLED_BREAKS, POLLED_CANNOT)


async def test_stream_that_replays_by_number_goes_on_wrongly_where_numbers_mean_something_else(
    verdicts: Mapping[str, list[Verdict]],
) -> None:
    """Rule by rule: good as long as nothing is restarted and every id is its own."""
    _check(verdicts["numbered"], NUMBERED_BREAKS, NUMBERED_CANNOT)


async def test_honest_stream_keeps_every_rule(verdicts: Mapping[str, list[Verdict]]) -> None:
    """There is a way to keep them all, in few lines, and to be told so."""
    _check(verdicts["honest"], {}, {})
