"""An outage is the part's, not the job's: whoever waits through it is done in the first attempt."""

from __future__ import annotations

import asyncio
import os

import pytest

from tests.faults.cluster import Cluster, Servers
from tests.faults.model import ANSWER, BAD_KEY, SERVER_ERROR, SILENCE, Reply, refused
from tests.faults.oracle import TrackedJob
from tests.faults.steps import eventually
from tests.faults.surgery import attempts_of, waiting_in

AWAY_SECONDS = float(os.environ.get("AWAY_SECONDS", "12"))
BACK_SECONDS = 15.0  # from a part's return to the end of the jobs that waited for it
LONGEST_PAUSE_SECONDS = 40.0  # of a model that asks for patience, with its jitter
LOADING = refused(503, "loading")


def attempts_seen(job: TrackedJob) -> set[int]:
    return {event.data["attempt"] for stream in job.streams for event in stream.events}


async def submitted(cluster: Cluster, *markers: str) -> list[TrackedJob]:
    jobs = [await cluster.client.submit(marker) for marker in markers]
    for job in jobs:
        cluster.client.watch(job)
    return jobs


async def is_away(cluster: Cluster) -> bool:
    return '"part_away"' in cluster.consumers[0].log


async def all_done_at_once(
    cluster: Cluster, jobs: list[TrackedJob], within_seconds: float = BACK_SECONDS
) -> None:
    """Soon after the part's return, in the first attempt, with one start each."""
    async with asyncio.timeout(within_seconds + len(jobs)):
        ends = await asyncio.gather(*map(cluster.client.seen, jobs))
    assert {end.code for end in ends} == {"done"}
    for job in jobs:
        assert attempts_seen(job) == {1}
        attempts = await attempts_of(cluster, job)
        assert (attempts["starts"], attempts["paid"] <= 3) == (1, True)
        assert cluster.model.paid(job.marker) == 1


@pytest.mark.long
@pytest.mark.parametrize("manner", [None, SERVER_ERROR, SILENCE], ids=["refused", "500", "hanging"])
async def test_model_away_costs_nobody_an_answer(servers: Servers, manner: Reply | None) -> None:
    """Jobs from before and during the outage wait; the queue is not consumed; then all are done."""
    async with Cluster.running(servers, MODEL_TIMEOUT_SECONDS="4") as cluster:
        links = cluster.links("model")
        if manner is None:
            for link in links:
                await link.down()
        else:
            cluster.model.default = manner
        jobs = await submitted(cluster, *(f"early-{number}" for number in range(6)))
        await eventually(lambda: is_away(cluster), "the breaker is open")
        jobs += await submitted(cluster, *(f"late-{number}" for number in range(6)))
        await asyncio.sleep(AWAY_SECONDS)
        assert not any(job.end for job in jobs)
        cluster.model.default = ANSWER
        for link in links:
            await link.passing()
        await all_done_at_once(cluster, jobs)
        if manner is None:  # a call that was never sent is not counted as paid
            assert {(await attempts_of(cluster, job))["paid"] for job in jobs} == {1}
        await cluster.prove()


@pytest.mark.long
async def test_model_that_is_loading_is_waited_for(servers: Servers) -> None:
    """A 503 is no outage but a request for patience: nothing is paid, and no start is burned."""
    async with Cluster.running(servers) as cluster:
        cluster.model.default = LOADING
        jobs = await submitted(cluster, *(f"job-{number}" for number in range(6)))
        await asyncio.sleep(AWAY_SECONDS)
        assert not any(job.end for job in jobs)
        cluster.model.default = ANSWER
        await all_done_at_once(cluster, jobs, LONGEST_PAUSE_SECONDS)
        assert not await is_away(cluster)
        await cluster.prove()


@pytest.mark.long
async def test_photos_away_cost_nobody_an_answer(servers: Servers) -> None:
    """S3 and CDN are gone: what was uploaded waits for them."""
    async with Cluster.running(servers) as cluster:
        (consumer,) = cluster.consumers
        for link in (consumer.links["s3"], cluster.cdn_link):
            await link.down()
        jobs = await submitted(cluster, *(f"early-{number}" for number in range(6)))
        await eventually(lambda: is_away(cluster), "the breaker is open")
        await asyncio.sleep(AWAY_SECONDS)
        assert not any(job.end for job in jobs)
        for link in (consumer.links["s3"], cluster.cdn_link):
            await link.passing()
        await all_done_at_once(cluster, jobs)
        await cluster.prove()


@pytest.mark.long
async def test_photo_that_is_refused_stops_nobody_else(servers: Servers) -> None:
    """One 403 that may mean anything, among good photos: the probe passes, so that job ends, with one call;
    the others do not wait."""
    async with Cluster.running(servers) as cluster:
        cluster.model.script("flagged", refused(403, "forbidden"))
        flagged, *good = await submitted(cluster, "flagged", *(f"good-{number}" for number in range(10)))
        ends = await asyncio.gather(*map(cluster.client.seen, [flagged, *good]))
        assert [end.code for end in ends] == ["failed: model_refused", *["done"] * 10]
        assert len(cluster.model.calls_of("flagged")) == 1
        assert not await is_away(cluster)
        await cluster.prove()


@pytest.mark.long
async def test_key_refused_for_everybody_is_one_line_for_the_operator(servers: Servers) -> None:
    """Nobody fails, all wait; within seconds of the key's return all are done."""
    async with Cluster.running(servers) as cluster:
        cluster.model.default = BAD_KEY
        jobs = await submitted(cluster, *(f"job-{number}" for number in range(6)))
        await eventually(lambda: is_away(cluster), "the breaker is open")
        await asyncio.sleep(AWAY_SECONDS)
        assert not any(job.end for job in jobs)
        cluster.model.default = ANSWER
        await all_done_at_once(cluster, jobs)
        said = [line for line in cluster.consumers[0].log.splitlines() if '"level": "error"' in line]
        assert len(said) == 1
        assert "401" in said[0]
        await cluster.prove()


@pytest.mark.long
async def test_consumer_that_stops_during_an_outage_hands_back_at_once(servers: Servers) -> None:
    """Waiting is not work: the next consumer finds every start refunded."""
    async with Cluster.running(servers, consumers=2) as cluster:
        first, second = cluster.consumers
        await second.stop()
        cluster.model.default = SERVER_ERROR
        jobs = await submitted(cluster, *(f"job-{number}" for number in range(6)))
        await eventually(lambda: is_away(cluster), "the breaker is open")
        async with asyncio.timeout(5):
            assert await first.stop() == 0

        async def is_handed_back() -> bool:
            return (await waiting_in(cluster)).get("messages_ready") == len(jobs)

        await eventually(is_handed_back, "every job is back in the queue")
        assert {(await attempts_of(cluster, job))["starts"] for job in jobs} == {0}
        cluster.model.default = ANSWER
        await second.start()
        await first.start()
        ends = await asyncio.gather(*map(cluster.client.seen, jobs))
        assert {end.code for end in ends} == {"done"}
        await cluster.prove()
