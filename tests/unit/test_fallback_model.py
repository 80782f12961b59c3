"""The fallback: who answers where the model may not be asked, or is away for too long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest

from growbin.budgets import Budget, parse_limits
from growbin.consumer.attempt import LEAST_PATIENCE_SECONDS
from growbin.consumer.breakers import Breakers
from growbin.consumer.handle_job import handle_job
from growbin.errors import PARTS, JobFailed, Throttled, Unavailable
from growbin.job import Job
from growbin.ports import Ack, Retry
from growbin.telemetry import metrics
from tests.fakes.budget_book import BudgetBook
from tests.unit.test_consumer import ANSWER, Bench, Outside, job

EMBEDDED = ANSWER.model_copy(update={"model": "humble"})


def counted(by: str) -> float:
    return float(metrics.answers.labels(by=by)._value.get())


@dataclass
class Covered(Bench):
    """A consumer with a fallback, whose people wait no longer than a moment."""

    embedded: Outside = field(default_factory=lambda: Outside(answer=EMBEDDED))

    def __post_init__(self) -> None:
        Bench.__init__(self)
        probes = {part: partial(self.outside.probe, part) for part in PARTS}
        self.consumer = replace(
            self.consumer,
            fallback=self.embedded,
            fallback_after_seconds=0,
            breakers=Breakers(probes, self.outages, covered=frozenset({"model"})),
        )

    def spend_budget(self) -> None:
        self.progress.book = BudgetBook(Budget(parse_limits("everybody", "0 calls/day")))

    async def end(self, event: Job) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((await self.told(event))[-1].data)
        return told


@pytest.fixture
async def bench() -> AsyncIterator[Covered]:
    covered = Covered()
    yield covered
    await covered.consumer.close()


async def test_spent_budget_is_answered_by_the_fallback_and_says_so(bench: Covered) -> None:
    """No call is made; the result names who answered, and so does the metric."""
    bench.spend_budget()
    before, event = counted("fallback"), job()
    assert await handle_job(event, bench.consumer) == Ack()
    result = (await bench.end(event))["result"]
    assert (result["answered_by"], result["model"]) == ("fallback", "humble")
    assert (bench.outside.model_calls, bench.embedded.model_calls) == (0, 1)
    assert counted("fallback") == before + 1


async def test_spent_budget_without_a_fallback_fails_before_any_call(bench: Covered) -> None:
    """It says when it opens again."""
    bench.spend_budget()
    event = job()
    assert await handle_job(event, replace(bench.consumer, fallback=None)) == Ack()
    failure = (await bench.end(event))["failure"]
    assert (failure["code"], failure["retryable"]) == ("budget_exhausted", True)
    assert failure["opens_at"].endswith("T00:00:00.000Z")
    assert bench.outside.model_calls == 0


async def test_other_failures_say_nothing_of_when(bench: Covered) -> None:
    """The field is left out where it would mean nothing."""
    bench.outside.model_errors = [JobFailed("model_refused")]
    event = job()
    await handle_job(event, bench.consumer)
    assert set((await bench.end(event))["failure"]) == {"code", "detail", "retryable"}


async def test_fallback_that_fails_as_well_leaves_the_failure_as_it_was(bench: Covered) -> None:
    """What the person hears is why the model was not asked."""
    bench.spend_budget()
    bench.embedded.model_errors = [Unavailable("model", "it has crashed")]
    event = job()
    assert await handle_job(event, bench.consumer) == Ack()
    assert await bench.failure_code(event) == "budget_exhausted"


async def test_answer_of_the_fallback_is_not_kept(bench: Covered) -> None:
    """Should the job be driven again, the model may answer."""
    bench.spend_budget()
    event = job()
    await handle_job(event, bench.consumer)
    assert bench.progress.answer_of(event.job_id) is None


async def test_model_that_stays_away_is_stood_in_for_before_the_deadline(bench: Covered) -> None:
    """Jobs are begun while it is away, and wait no longer than the setting says."""
    bench.outside.away.add("model")
    bench.outside.refusal = Throttled("nobody answers there", away=True)
    events = [job() for _ in range(3)]
    async with asyncio.timeout(LEAST_PATIENCE_SECONDS + 30):
        assert set(await asyncio.gather(*(handle_job(one, bench.consumer) for one in events))) == {Ack()}
    assert bench.consumer.breakers.open_parts == ["model"]
    assert bench.consumer.concurrency() > 0
    assert {(await bench.end(one))["result"]["answered_by"] for one in events} == {"fallback"}
    calls = bench.outside.model_calls
    late = job()
    await handle_job(late, bench.consumer)
    assert (await bench.end(late))["result"]["answered_by"] == "fallback"
    assert bench.outside.model_calls == calls  # a model that is known to be away is not asked


async def test_model_that_is_back_in_time_answers_itself(bench: Covered) -> None:
    """An outage shorter than a person's patience costs nobody the better answer."""
    bench.consumer = replace(bench.consumer, fallback_after_seconds=30)
    bench.outside.away.add("model")
    bench.outside.refusal = Throttled("nobody answers there", away=True)
    event = job()
    waiting = asyncio.create_task(handle_job(event, bench.consumer))
    async with asyncio.timeout(30):
        while not bench.consumer.breakers.open_parts:
            await asyncio.sleep(0.01)
        bench.outside.away.clear()
        assert await waiting == Ack()
    assert (await bench.end(event))["result"]["answered_by"] == "model"
    assert bench.embedded.model_calls == 0


async def test_call_that_has_begun_is_not_given_up_for_impatience(bench: Covered) -> None:
    """It may be paid for already: patience is for waiting alone."""
    bench.outside.model_gate = asyncio.Event()
    event = job()
    waiting = asyncio.create_task(handle_job(event, bench.consumer))
    await asyncio.sleep(LEAST_PATIENCE_SECONDS + 0.3)
    bench.outside.model_gate.set()
    assert await waiting == Ack()
    assert (await bench.end(event))["result"]["answered_by"] == "model"


async def test_trouble_of_one_job_is_for_later_while_its_person_has_patience(bench: Covered) -> None:
    """The model is well: the job comes again rather than get the lesser answer."""
    bench.consumer = replace(bench.consumer, fallback_after_seconds=30)
    bench.outside.model_errors = [Unavailable("model", "500")]
    assert await handle_job(job(), bench.consumer) == Retry(1)
    assert bench.embedded.model_calls == 0


async def test_breaker_opens_also_when_everybody_has_lost_patience_with_its_probe(bench: Covered) -> None:
    """A probe may take longer than a person waits: what it finds out counts for the next job all the same."""
    bench.outside.model_errors = [Unavailable("model", "timed out")]
    slow = asyncio.Event()

    async def probe() -> None:
        await slow.wait()
        raise Unavailable("model", "timed out")

    breakers = Breakers({"model": probe}, bench.outages, covered=frozenset({"model"}))
    bench.consumer = replace(bench.consumer, breakers=breakers)
    event = job()
    assert await handle_job(event, bench.consumer) == Ack()
    assert (await bench.end(event))["result"]["answered_by"] == "fallback"
    assert breakers.open_parts == []
    slow.set()
    async with asyncio.timeout(30):
        while not breakers.open_parts:
            await asyncio.sleep(0.01)
