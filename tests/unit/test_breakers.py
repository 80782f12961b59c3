"""Whose outage is it? The part's costs no job anything; a job's own trouble stops nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from growbin.consumer import breakers
from growbin.consumer.breakers import Breakers
from growbin.consumer.handle_job import handle_job
from growbin.errors import PARTS, Throttled, Unavailable
from growbin.job import Job
from growbin.ports import Ack, HandBack, Retry, Started, Verdict
from tests.fakes import Clock, FakeOutages
from tests.unit.test_consumer import Bench, job


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(breakers, "PROBE_PAUSE_SECONDS", 0.02)
    return Bench()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.005)


def handled(bench: Bench, *jobs: Job) -> list[asyncio.Task[Verdict]]:
    return [asyncio.create_task(handle_job(one, bench.consumer)) for one in jobs]


UNREACHABLE = Throttled("unreachable", away=True)
REFUSALS = {"perhaps paid": Unavailable("model", "500"), "never sent": UNREACHABLE}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS.keys())
async def test_model_away_for_everybody_costs_no_start(bench: Bench, refusal: Unavailable) -> None:
    """All wait where they are, and each is done in its first attempt once the model is back."""
    bench.outside.away, bench.outside.refusal = {"model"}, refusal
    jobs = [job() for _ in range(5)]
    running = handled(bench, *jobs)
    await until(lambda: bench.consumer.breakers.open_parts == ["model"])
    assert bench.consumer.concurrency() == 0
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in running)
    bench.outside.away.clear()
    assert await asyncio.gather(*running) == [Ack()] * 5
    for one in jobs:
        assert await bench.stages(one) == ["queued", "fetching", "analysing", "advising", "done"]
    assert bench.outside.model_calls == 10  # each asked once before, once after
    assert bench.consumer.concurrency() == 32


async def test_storage_away_costs_no_start(bench: Bench) -> None:
    """The photo is fetched once it can be."""
    bench.outside.away = {"s3"}
    event = job()
    [running] = handled(bench, event)
    await until(lambda: bench.consumer.breakers.open_parts == ["s3"])
    bench.outside.away.clear()
    assert await running == Ack()
    assert await bench.stages(event) == ["queued", "fetching", "analysing", "advising", "done"]


async def test_no_job_is_begun_while_a_part_is_away(bench: Bench) -> None:
    """What is delivered meanwhile waits without a lease."""
    bench.outside.away = {"model"}
    first, later = job(), job()
    running = handled(bench, first)
    await until(lambda: bench.consumer.breakers.open_parts)
    running += handled(bench, later)
    await asyncio.sleep(0.1)
    assert await bench.told(later) == []
    bench.outside.away.clear()
    assert await asyncio.gather(*running) == [Ack(), Ack()]
    assert (await bench.stages(later))[-1] == "done"


async def test_failure_while_the_probe_passes_is_the_jobs_own(bench: Bench) -> None:
    """It comes again after a delay, and nobody else stops."""
    bench.outside.model_errors = [Unavailable("model", "500")]
    assert await handle_job(job(), bench.consumer) == Retry(1)
    assert bench.outside.probes == ["model"]
    assert bench.consumer.breakers.open_parts == []


async def test_doubtful_refusal_is_this_photos_when_the_probe_passes(bench: Bench) -> None:
    """A 403 for one photo ends that job; its neighbours do not notice."""
    bench.outside.model_errors = [Throttled("403", broken=True, doubtful=True)]
    event = job()
    assert await handle_job(event, bench.consumer) == Ack()
    assert await bench.failure_code(event) == "model_refused"
    assert await handle_job(job(), bench.consumer) == Ack()
    assert bench.consumer.throttle.places == 32


async def test_doubtful_refusal_is_everybodys_when_the_probe_is_refused(bench: Bench) -> None:
    """A 403 for all is the operator's to mend: the job waits and is done."""
    bench.outside.away, bench.outside.refusal = {"model"}, Throttled("403", broken=True, doubtful=True)
    event = job()
    [running] = handled(bench, event)
    await until(lambda: bench.consumer.breakers.open_parts)
    bench.outside.away.clear()
    assert await running == Ack()
    assert await bench.stages(event) == ["queued", "fetching", "analysing", "advising", "done"]


async def test_many_failures_ask_one_probe(bench: Bench) -> None:
    """However many jobs fail at once."""
    bench.outside.model_errors = [Unavailable("model", "500")] * 20
    verdicts = await asyncio.gather(*handled(bench, *[job() for _ in range(20)]))
    assert set(verdicts) == {Retry(1)}
    assert len(bench.outside.probes) < 5


async def test_operator_reads_one_line_for_an_outage(bench: Bench) -> None:
    """However many jobs wait, and how often the probe fails."""
    bench.outside.away = {"model"}
    with capture_logs() as logs:
        running = handled(bench, *[job() for _ in range(5)])
        await until(lambda: len(bench.outside.probes) > 5)
        bench.outside.away.clear()
        await asyncio.gather(*running)
    told = [line for line in logs if line["event"] in ("part_away", "part_back")]
    assert [(line["event"], line["log_level"], line["part"]) for line in told] == [
        ("part_away", "error", "model"),
        ("part_back", "info", "model"),
    ]


@pytest.mark.parametrize("part", PARTS)
async def test_outage_is_told_on_while_it_lasts(bench: Bench, part: str) -> None:
    """For the people who wait; with the part's return it is over."""
    bench.outside.away = {part}
    [running] = handled(bench, job())
    await until(lambda: bench.consumer.breakers.open_parts)
    for _ in range(3):
        probes = len(bench.outside.probes)
        await until(lambda seen=probes: len(bench.outside.probes) > seen + 1)  # type: ignore[misc]
        assert [away.part for away in await bench.outages.away(PARTS)] == [part]
        bench.clock.advance(25)  # each telling holds for half a minute
    bench.outside.away.clear()
    await running
    assert await bench.outages.away(PARTS) == []


async def test_outage_is_waited_out_though_it_cannot_be_told(bench: Bench) -> None:
    """Redis is away as well: the jobs wait all the same, and go on."""
    bench.outside.away, bench.outages.is_away = {"model"}, True
    [running] = handled(bench, job())
    await until(lambda: len(bench.outside.probes) > 3)
    bench.outside.away.clear()
    assert await running == Ack()


async def test_stop_hands_back_who_waits_for_a_part_and_refunds_the_start(bench: Bench) -> None:
    """Waiting is not work: begun or not, the job goes back at once."""
    bench.outside.away = {"model"}
    begun, waiting = job(), job()
    running = handled(bench, begun)
    await until(lambda: bench.consumer.breakers.open_parts)
    running += handled(bench, waiting)
    await asyncio.sleep(0.05)
    async with asyncio.timeout(30):
        await bench.consumer.close()
        assert await asyncio.gather(*running) == [HandBack(), HandBack()]
    again = await bench.progress.begin(begun, alone=False, call_id="test")
    assert isinstance(again, Started)
    assert again.starts == 1


async def test_cancel_ends_the_wait_for_a_part(bench: Bench) -> None:
    """Whoever cancels is heard while the part is away."""
    bench.outside.away = {"model"}
    event = job()
    [running] = handled(bench, event)
    await until(lambda: bench.consumer.breakers.open_parts)
    await bench.progress.cancel(event.job_id)
    async with asyncio.timeout(30):
        assert await running == Ack()


async def test_deadline_ends_the_wait_for_a_part(bench: Bench) -> None:
    """A part that stays away longer than the job may live lets it expire, begun or not."""
    bench.outside.away = {"model"}
    begun, waiting = job(0.4), job(0.4)
    running = handled(bench, begun)
    await until(lambda: bench.consumer.breakers.open_parts)
    running += handled(bench, waiting)
    bench.clock.advance(1)
    async with asyncio.timeout(30):
        assert await asyncio.gather(*running) == [Ack(), Ack()]
    for event in (begun, waiting):
        assert (await bench.stages(event))[-1] == "expired"


async def test_probe_that_hangs_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that takes a call and says nothing is away."""
    monkeypatch.setattr(breakers, "PROBE_SECONDS", 0.05)
    hanging = asyncio.Event()

    async def probe() -> None:
        await hanging.wait()

    all_breakers = Breakers({"model": probe}, FakeOutages(Clock()))
    waiting = asyncio.create_task(all_breakers.wait_if_away("model"))
    await until(lambda: all_breakers.open_parts)
    hanging.set()
    assert await waiting
    await all_breakers.close()


async def test_bug_of_the_probe_stops_nobody() -> None:
    """It is logged, and the part counts as well: else nothing would ever close the breaker."""

    async def probe() -> None:
        raise ZeroDivisionError

    all_breakers = Breakers({"model": probe}, FakeOutages(Clock()))
    with capture_logs() as logs:
        assert not await all_breakers.wait_if_away("model")
    assert [line["event"] for line in logs] == ["probe_hit_a_bug"]
    assert all_breakers.open_parts == []


async def test_part_without_a_breaker_is_never_waited_for() -> None:
    """Its trouble is the job's, as before."""
    assert not await Breakers({}, FakeOutages(Clock())).wait_if_away("photo_cleaner")
