"""An outage is the part's, not the job's: whoever waits through it is done in the first attempt."""

from __future__ import annotations

import asyncio
import os
import statistics
import time

import pytest

from tests.faults.cluster import Cluster, Servers
from tests.faults.instruments.oracle import TrackedJob
from tests.faults.model import ANSWER, BAD_KEY, PROBE, SERVER_ERROR, SILENCE, Reply, refused
from tests.faults.steps import eventually
from tests.faults.surgery import PROGRESS, attempts_of, database, waiting_in

AWAY_SECONDS = float(os.environ.get("AWAY_SECONDS", "12"))
BACK_SECONDS = 15.0  # from a part's return to the end of the jobs that waited for it, and a second for each
KEY_BACK_SECONDS = 10.0  # the same for a few jobs and a key
LATE_PAUSE_SECONDS = 1.0  # between two jobs that come while the part is away
LEASE_LAPSED_SECONDS = 8.0
LAPSES_SECONDS = 30  # the word that a part is away
PROBED_SECONDS = 4.0  # a breaker has heard of the part's return
DEADLINE_SECONDS = str(round(AWAY_SECONDS) + 120)
LONG_ENOUGH_SECONDS = AWAY_SECONDS + 240
LONGEST_PAUSE_SECONDS = 40.0  # of a model that asks for patience, with its jitter
GOOD_PHOTOS = 100
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


async def seconds_to_done(cluster: Cluster, jobs: list[TrackedJob]) -> list[float]:
    ends = await asyncio.gather(*map(cluster.client.seen, jobs))
    assert {end.code for end in ends} == {"done"}
    return [end.at - (job.accepted_at or 0) for job, end in zip(jobs, ends, strict=True)]


async def parts_away(cluster: Cluster) -> list[str]:
    """As consumers tell it."""
    async with database(cluster, PROGRESS) as progress:
        return [str(key) async for key in progress.scan_iter(match="part:*")]


async def is_waiting(cluster: Cluster, at_least: int) -> bool:
    return int((await waiting_in(cluster)).get("messages_ready") or 0) >= at_least


async def forget_outages(cluster: Cluster) -> None:
    """Of a consumer that an earlier row has ended."""
    async with database(cluster, PROGRESS) as progress:
        await progress.delete("part:{model}", "part:{s3}")


async def submitted_while_away(cluster: Cluster) -> list[TrackedJob]:
    """A job each second, for as long as the part is away."""
    jobs: list[TrackedJob] = []
    over_at = time.monotonic() + AWAY_SECONDS
    while time.monotonic() < over_at:
        jobs += await submitted(cluster, f"late-{len(jobs)}")
        await asyncio.sleep(LATE_PAUSE_SECONDS)
    return jobs


def notices_of(job: TrackedJob) -> list[str]:
    told = (notice["part"] for stream in job.streams for notice in stream.notices)
    return [part for part in told if part != "queue"]  # a place in line has fallen: no outage


async def told_of(cluster: Cluster, part: str, early: list[TrackedJob]) -> None:
    """Who waits longest has heard once that it takes longer, and whoever asks reads it."""
    assert [notices_of(job) for job in early] == [[part]] * len(early)
    read = await cluster.client.read(early[0])
    assert (read["notice"]["part"], read["stage"]) == (part, "analysing" if part == "model" else "fetching")
    assert await parts_away(cluster) == [key := f"part:{{{part}}}"]
    async with database(cluster, PROGRESS) as progress:
        assert 0 < await progress.ttl(key) <= LAPSES_SECONDS, "it would outlive its consumers"


async def all_done_at_once(
    cluster: Cluster, jobs: list[TrackedJob], within_seconds: float | None = None
) -> None:
    """Soon after the part's return, in the first attempt, with one start each; nobody is told twice."""
    back_at = time.monotonic()
    async with asyncio.timeout(within_seconds or BACK_SECONDS + len(jobs)):
        ends = await asyncio.gather(*map(cluster.client.seen, jobs))
    print(
        f"away {AWAY_SECONDS:g} s: {len(jobs)} jobs done, the last {time.monotonic() - back_at:.1f} s after"
    )
    assert {end.code for end in ends} == {"done"}
    assert all(len(notices_of(job)) <= 1 for job in jobs)
    for job in jobs:
        assert attempts_seen(job) == {1}
        attempts = await attempts_of(cluster, job)
        assert (attempts["starts"], attempts["paid"] <= 3) == (1, True)
        assert cluster.model.paid(job.marker) == 1


@pytest.mark.long
@pytest.mark.timeout(LONG_ENOUGH_SECONDS)
@pytest.mark.parametrize("manner", [None, SERVER_ERROR, SILENCE], ids=["refused", "500", "hanging"])
async def test_model_away_costs_nobody_an_answer(servers: Servers, manner: Reply | None) -> None:
    """Jobs from before and during the outage wait, and are told so once; the queue is not consumed; then all
    are done."""
    async with Cluster.running(
        servers, MODEL_TIMEOUT_SECONDS="4", JOB_DEADLINE_SECONDS=DEADLINE_SECONDS
    ) as cluster:
        await forget_outages(cluster)
        links = cluster.links("model")
        if manner is None:
            for link in links:
                await link.down()
        else:
            cluster.model.default = manner
        jobs = await submitted(cluster, *(f"early-{number}" for number in range(6)))
        await eventually(lambda: is_away(cluster), "the breaker is open")
        late = await submitted_while_away(cluster)
        await eventually(lambda: is_waiting(cluster, len(late) // 2), "the jobs wait in the queue")
        await told_of(cluster, "model", jobs)
        jobs += late
        assert not any(job.end for job in jobs)
        cluster.model.default = ANSWER
        for link in links:
            await link.passing()
        await all_done_at_once(cluster, jobs)
        assert await parts_away(cluster) == []
        if manner is None:  # a call that was never sent is not counted as paid
            assert {(await attempts_of(cluster, job))["paid"] for job in jobs} == {1}
        await cluster.prove()


@pytest.mark.long
@pytest.mark.timeout(LONG_ENOUGH_SECONDS)
async def test_model_that_is_loading_is_waited_for(servers: Servers) -> None:
    """A 503 is no outage but a request for patience: nothing is paid, and no start is burned."""
    async with Cluster.running(servers, JOB_DEADLINE_SECONDS=DEADLINE_SECONDS) as cluster:
        cluster.model.default = LOADING
        jobs = await submitted(cluster, *(f"job-{number}" for number in range(6)))
        await asyncio.sleep(AWAY_SECONDS)
        assert not any(job.end for job in jobs)
        cluster.model.default = ANSWER
        await all_done_at_once(cluster, jobs, LONGEST_PAUSE_SECONDS + len(jobs))
        assert not await is_away(cluster)
        await cluster.prove()


@pytest.mark.long
@pytest.mark.timeout(LONG_ENOUGH_SECONDS)
async def test_photos_away_cost_nobody_an_answer(servers: Servers) -> None:
    """S3 and CDN are gone: what was uploaded waits for them."""
    async with Cluster.running(servers, JOB_DEADLINE_SECONDS=DEADLINE_SECONDS) as cluster:
        await forget_outages(cluster)
        (consumer,) = cluster.consumers
        for link in (consumer.links["s3"], cluster.cdn_link):
            await link.down()
        jobs = await submitted(cluster, *(f"early-{number}" for number in range(6)))
        await eventually(lambda: is_away(cluster), "the breaker is open")
        late = await submitted_while_away(cluster)
        await told_of(cluster, "s3", jobs)
        jobs += late
        assert not any(job.end for job in jobs)
        for link in (consumer.links["s3"], cluster.cdn_link):
            await link.passing()
        await all_done_at_once(cluster, jobs)
        assert await parts_away(cluster) == []
        await cluster.prove()


@pytest.mark.long
async def test_photo_that_is_refused_stops_nobody_else(servers: Servers) -> None:
    """One 403 that may mean anything, among a hundred good photos: the probe passes, so that job ends, with
    one call; no breaker opens, and the others are done as fast as without it."""
    names = [f"good-{number}" for number in range(GOOD_PHOTOS)]
    async with Cluster.running(servers) as cluster:
        await forget_outages(cluster)
        alone = await submitted(cluster, *(f"alone-{name}" for name in names))
        seconds_alone = await seconds_to_done(cluster, alone)
        cluster.model.script("flagged", refused(403, "forbidden"))
        good = await submitted(cluster, *names[: GOOD_PHOTOS // 2])
        [flagged] = await submitted(cluster, "flagged")
        good += await submitted(cluster, *names[GOOD_PHOTOS // 2 :])
        seconds_beside = await seconds_to_done(cluster, good)
        p95_alone, p95_beside = (
            statistics.quantiles(told, n=20)[-1] for told in (seconds_alone, seconds_beside)
        )
        print(f"p95 of {GOOD_PHOTOS} good photos: {p95_alone:.2f} s, beside a refused one {p95_beside:.2f} s")
        assert p95_beside < 3 * p95_alone + 1  # a machine's noise; a breaker would cost 3 s and more
        assert (await cluster.client.seen(flagged)).code == "failed: model_refused"
        assert len(cluster.model.calls_of("flagged")) == 1
        assert len(cluster.model.calls_of(PROBE)) == 1
        for job in good:
            assert attempts_seen(job) == {1}
            assert notices_of(job) == []
        assert not await is_away(cluster)
        await cluster.prove()


@pytest.mark.long
@pytest.mark.timeout(LONG_ENOUGH_SECONDS)
async def test_key_refused_for_everybody_is_one_line_for_the_operator(servers: Servers) -> None:
    """Nobody fails, all wait; within ten seconds of the key's return all are done."""
    async with Cluster.running(servers, JOB_DEADLINE_SECONDS=DEADLINE_SECONDS) as cluster:
        await forget_outages(cluster)
        cluster.model.default = BAD_KEY
        jobs = await submitted(cluster, *(f"job-{number}" for number in range(6)))
        await eventually(lambda: is_away(cluster), "the breaker is open")
        await asyncio.sleep(AWAY_SECONDS)
        assert not any(job.end for job in jobs)
        cluster.model.default = ANSWER
        await all_done_at_once(cluster, jobs, KEY_BACK_SECONDS)
        said = [line for line in cluster.consumers[0].log.splitlines() if '"level": "error"' in line]
        assert len(said) == 1
        assert "401" in said[0]
        await cluster.prove()


@pytest.mark.long
async def test_redis_that_goes_away_as_well_costs_nobody_an_answer(servers: Servers) -> None:
    """Who waits for the model keeps its place in memory though its lease has lapsed; once both are back, the
    model first, all are done in their first attempt, and nothing was paid twice."""
    async with Cluster.running(servers) as cluster:
        await forget_outages(cluster)
        cluster.model.default = BAD_KEY
        jobs = await submitted(cluster, *(f"job-{number}" for number in range(6)))
        await eventually(lambda: is_away(cluster), "the breaker is open")
        await cluster.redis.kill()
        await asyncio.sleep(LEASE_LAPSED_SECONDS)
        cluster.model.default = ANSWER
        await asyncio.sleep(PROBED_SECONDS)
        assert not any(job.end for job in jobs)
        await cluster.redis.start()
        await all_done_at_once(cluster, jobs)
        assert {(await attempts_of(cluster, job))["paid"] for job in jobs} == {1}
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
        assert {(await attempts_of(cluster, job)).get("starts", 0) for job in jobs} == {0}
        cluster.model.default = ANSWER
        await second.start()
        await first.start()
        ends = await asyncio.gather(*map(cluster.client.seen, jobs))
        assert {end.code for end in ends} == {"done"}
        await cluster.prove()
