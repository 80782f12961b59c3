"""The leases of a consumer, renewed together."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from growbin.consumer.renewals import Renewals, Renewed
from growbin.errors import Unavailable
from growbin.job import Job
from growbin.ports import Beginning, Held
from tests.unit.test_consumer import job

PAUSE_SECONDS = 0.05


class Leases:
    """Answers each renewal as it is told, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Job] = []
        self.asking: set[Job] = set()
        self.most_at_once = 0
        self.answers: dict[Job, Held | Exception] = {}

    async def begin(self, job: Job, *, alone: bool, call_id: str) -> Beginning:
        raise NotImplementedError

    async def release(self, job: Job, attempt: int, *, refund: bool = False) -> None:
        raise NotImplementedError

    async def renew(self, job: Job, attempt: int) -> Held:
        self.asked.append(job)
        self.asking.add(job)
        self.most_at_once = max(self.most_at_once, len(self.asking))
        await asyncio.sleep(0)
        self.asking.remove(job)
        answer = self.answers.get(job, "ours")
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_leases_are_renewed_together_until_they_are_given_back() -> None:
    """However they began; and nothing is asked once none is held."""
    leases, renewals = Leases(), Renewals()
    held = list[Renewed]()
    for _ in range(5):
        held.append(Renewed(job(), 1, lambda held: None))
        renewals.add(held[-1], leases, PAUSE_SECONDS)
        await asyncio.sleep(PAUSE_SECONDS / 10)
    before = len(leases.asked)
    async with asyncio.timeout(30):
        while len(leases.asked) < before + 10:
            await asyncio.sleep(0.01)
    assert leases.most_at_once == 5
    assert set(leases.asked) == {it.job for it in held}
    for it in held:
        renewals.remove(it)
    before = len(leases.asked)
    await asyncio.sleep(3 * PAUSE_SECONDS)
    assert len(leases.asked) == before
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "leases"]


async def test_trouble_with_one_lease_is_not_the_others() -> None:
    """Who lost his hears it once; a Redis that is away, and a bug, leave all as they are."""
    leases, renewals, told = Leases(), Renewals(), list[tuple[str, Held]]()
    told_of = dict[str, Job]()
    for name, answer in {
        "lost": "lost",
        "ended": "ended",
        "away": Unavailable("redis", "away"),
        "bug": ZeroDivisionError(),
        "well": "ours",
    }.items():
        event = job()
        leases.answers[event] = answer  # type: ignore[assignment]
        told_of[name] = event

        def note(held: Held, name: str = name) -> None:
            told.append((name, held))

        renewals.add(Renewed(event, 1, note), leases, PAUSE_SECONDS)
    with capture_logs() as lines:
        async with asyncio.timeout(30):
            while len(leases.asked) < 2 + 3 * 3:
                await asyncio.sleep(0.01)
    assert {line["job_id"] for line in lines} == {str(told_of["bug"].job_id)}
    assert sorted(told) == [("ended", "ended"), ("lost", "lost")]
    assert sorted(leases.asked.count(event) for event in leases.answers) == [1, 1, 3, 3, 3]
