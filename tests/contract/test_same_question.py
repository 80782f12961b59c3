"""The same owner's same question about the same photo, on a real Valkey and as the fake: paid for once."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from growbin.adapters.redis import keys
from growbin.adapters.redis.progress_log import RedisProgressLog
from growbin.job import Job, ModelAnswer, Stage
from growbin.messages import failure
from growbin.ports import Started
from growbin.usage import Usage
from tests.fakes import Clock, FakeProgressLog
from tests.jobs import job_of, upload

Progress = RedisProgressLog | FakeProgressLog

ANSWER = ModelAnswer(text='{"items":[]}', model="test", usage=Usage(input_tokens=5, cost_usd=0.001))


@pytest_asyncio.fixture(params=["fake", "real"])
async def progress(request: pytest.FixtureRequest) -> AsyncIterator[Progress]:
    if request.param == "fake":
        yield FakeProgressLog(Clock())
        return
    url = f"{request.getfixturevalue('parts')['REDIS_URL'].rstrip('/')}/2"
    async with RedisProgressLog.open(url=url, image_base_url="http://cdn.test", lease_seconds=60) as log:
        yield log


@pytest.fixture
def owner() -> str:
    return secrets.token_hex(32)


async def begun(progress: Progress, owner: str) -> tuple[Job, int]:
    job = job_of(upload().model_copy(update={"owner": owner}))
    start = await progress.begin(job, alone=False, call_id=secrets.token_hex(4))
    assert isinstance(start, Started)
    await progress.announce(job, start.attempt, Stage.ANALYSING)
    return job, start.attempt


async def test_second_job_gets_the_first_ones_answer(progress: Progress, owner: str) -> None:
    """Also from another consumer, and again when it is asked again; no call of its own is counted."""
    first, attempt = await begun(progress, owner)
    assert await progress.count_paid_call(first, attempt, "a", "digest") == "counted"
    await progress.keep_answer(first, attempt, ANSWER, "a")
    second, attempt = await begun(progress, owner)
    for call_id in "abcde":  # more than a job's paid calls
        assert await progress.count_paid_call(second, attempt, call_id, "digest") == ANSWER


@pytest.mark.parametrize("difference", ["owner", "digest", "no digest"])
async def test_anything_else_is_another_question(progress: Progress, owner: str, difference: str) -> None:
    """Another session's same photo, or one's own other question, is paid for."""
    first, attempt = await begun(progress, owner)
    await progress.count_paid_call(first, attempt, "a", "digest")
    await progress.keep_answer(first, attempt, ANSWER, "a")
    second, attempt = await begun(progress, "b" * 64 if difference == "owner" else owner)
    same = {"owner": "digest", "digest": "another", "no digest": None}[difference]
    assert await progress.count_paid_call(second, attempt, "b", same) == "counted"


async def test_job_waits_while_another_asks_the_same(progress: Progress, owner: str) -> None:
    """In flight the second is neither counted nor refused; then it has the answer."""
    first, one = await begun(progress, owner)
    await progress.count_paid_call(first, one, "a", "digest")
    second, two = await begun(progress, owner)
    assert await progress.count_paid_call(second, two, "b", "digest") == "awaited"
    await progress.keep_answer(first, one, ANSWER, "a")
    assert await progress.count_paid_call(second, two, "b", "digest") == ANSWER


@pytest.mark.parametrize("how", ["released", "failed", "cancelled", "deleted"])
async def test_job_that_will_bring_no_answer_is_not_waited_for(
    progress: Progress, owner: str, how: str
) -> None:
    """Whether its consumer gave it back or died, or it has ended: the next one asks itself."""
    first, one = await begun(progress, owner)
    await progress.count_paid_call(first, one, "a", "digest")
    match how:
        case "released":
            await progress.release(first, one)
        case "failed":
            await progress.finish(first, one, failure("model_refused", "en"))
        case "cancelled":
            await progress.cancel(first.job_id)
        case "deleted":
            await progress.erase(first.job_id, owner)
    second, two = await begun(progress, owner)
    assert await progress.count_paid_call(second, two, "b", "digest") == "counted"
    third, three = await begun(progress, owner)
    assert await progress.count_paid_call(third, three, "c", "digest") == "awaited"


async def test_deletion_of_the_job_that_paid_takes_its_answer_from_everybody(
    progress: Progress, owner: str
) -> None:
    """The next one pays; nothing leads to the deleted job any more."""
    first, one = await begun(progress, owner)
    await progress.count_paid_call(first, one, "a", "digest")
    await progress.keep_answer(first, one, ANSWER, "a")
    await progress.erase(first.job_id, owner)
    if isinstance(progress, RedisProgressLog):
        assert await progress._redis.exists(keys.same(owner, "digest")) == 0
    second, two = await begun(progress, owner)
    assert await progress.count_paid_call(second, two, "b", "digest") == "counted"


async def test_deletion_of_another_job_leaves_the_answer(progress: Progress, owner: str) -> None:
    """Who was only given it takes nothing with it."""
    first, one = await begun(progress, owner)
    await progress.count_paid_call(first, one, "a", "digest")
    await progress.keep_answer(first, one, ANSWER, "a")
    second, two = await begun(progress, owner)
    await progress.count_paid_call(second, two, "b", "digest")
    await progress.erase(second.job_id, owner)
    third, three = await begun(progress, owner)
    assert await progress.count_paid_call(third, three, "c", "digest") == ANSWER


async def test_answer_of_no_use_is_asked_for_afresh(progress: Progress, owner: str) -> None:
    """Then the new answer is the one that counts."""
    first, one = await begun(progress, owner)
    await progress.count_paid_call(first, one, "a", "digest")
    await progress.keep_answer(first, one, ANSWER, "a")
    second, two = await begun(progress, owner)
    assert await progress.count_paid_call(second, two, "b", "digest", is_fresh=True) == "counted"
    better = ANSWER.model_copy(update={"text": '{"items": []}'})
    await progress.keep_answer(second, two, better, "b")
    third, three = await begun(progress, owner)
    assert await progress.count_paid_call(third, three, "c", "digest") == better


async def test_claim_goes_by_itself_after_seven_days(parts: dict[str, str], owner: str) -> None:
    """As the answers do."""
    url = f"{parts['REDIS_URL'].rstrip('/')}/2"
    async with RedisProgressLog.open(url=url, image_base_url="http://cdn.test") as progress:
        job, attempt = await begun(progress, owner)
        await progress.count_paid_call(job, attempt, "a", "digest")
        left_seconds = await progress._redis.ttl(keys.same(owner, "digest"))
        assert keys.RESULT_SECONDS - 60 < left_seconds <= keys.RESULT_SECONDS


@pytest.mark.parametrize("odd", ["", "no-job", "*", "{}", "x" * 5000])
async def test_claim_that_cannot_be_read_costs_a_call_and_no_job(
    parts: dict[str, str], owner: str, odd: str
) -> None:
    """Another version or an accident may have written it."""
    url = f"{parts['REDIS_URL'].rstrip('/')}/2"
    async with RedisProgressLog.open(url=url, image_base_url="http://cdn.test") as progress:
        await progress._redis.set(keys.same(owner, "digest"), odd, ex=60)
        job, attempt = await begun(progress, owner)
        assert await progress.count_paid_call(job, attempt, "a", "digest") == "counted"
