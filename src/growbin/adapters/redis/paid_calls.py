"""Paid calls in the script of the progress log: counted, their budget reserved and settled, and none made
whose answer the same owner has been given before."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any, cast
from uuid import UUID

import structlog

from growbin.adapters.redis import keys
from growbin.adapters.redis.stored_values import read_answer
from growbin.budgets import Budget, micros
from growbin.job import Job, ModelAnswer, Stage
from growbin.ports import BudgetSpent, Counting, Held
from growbin.telemetry import metrics

log = structlog.get_logger()

NO_JOB = UUID(int=0)


class PaidCallsScript(ABC):
    """The part of the progress log that implements ports.PaidCalls. A budget rides in the calls that are made
    anyway."""

    def __init__(self, max_paid_calls: int, budget: Budget | None) -> None:
        self._max_paid_calls = max_paid_calls
        self._has_budget = budget is not None
        self._limits_told = budget and {
            "limits": [asdict(limit) for limit in budget.limits],
            "first_share": budget.first_share,
            "firsts_per_address": budget.firsts_per_address,
            "call_micros": budget.call_micros,
            "call_ms": int(budget.call_seconds * 1000),
        }

    @abstractmethod
    def _told(self, job: Job, stage: Stage) -> dict[str, object]: ...

    @abstractmethod
    async def _run(self, operation: str, job_id: UUID, *shared_keys: str, **parameters: object) -> Any: ...

    async def count_paid_call(
        self, job: Job, attempt: int, call_id: str, same: str | None = None, *, is_fresh: bool = False
    ) -> Counting:
        claimed = [] if same is None else [keys.same(job.owner, same)]
        found, *rest = await self._run_with_budget(
            "count_paid_call",
            job,
            *claimed,
            **self._told(job, Stage.ANALYSING),
            attempt=attempt,
            call_id=call_id,
            max_paid_calls=self._max_paid_calls,
            is_fresh=is_fresh or None,
            answer_of=keys.answer("*"),
            lease_of=keys.lease("*"),
            result_of=keys.result("*"),
        )
        match found:
            case "kept":
                return read_answer(rest[0])
            case "awaited":
                return "awaited"
            case "spent":
                return BudgetSpent(rest[0], int(rest[1]))
            case "ours":
                if rest:
                    _tell_budget(float(rest[0]), is_news=rest[1] == "1")
                return "counted"
        return "refused"

    async def uncount_paid_call(self, job: Job, attempt: int, call_id: str) -> None:
        await self._run_with_budget("uncount_paid_call", job, run=job.run, attempt=attempt, call_id=call_id)

    async def settle_paid_call(self, job: Job, call_id: str, cost_usd: float | None) -> None:
        if self._has_budget:
            await self._run_with_budget("settle_paid_call", job, call_id=call_id, **_cost(cost_usd))

    async def keep_answer(self, job: Job, attempt: int, answer: ModelAnswer, call_id: str) -> Held:
        held = await self._run_with_budget(
            "keep_answer",
            job,
            **self._told(job, Stage.ADVISING),
            attempt=attempt,
            answer=answer.model_dump_json(),
            call_id=call_id,
            **_cost(answer.usage.cost_usd),
        )
        return cast("Held", held)

    async def count_probe(self) -> None:
        """In everybody's budget alone."""
        if self._has_budget:
            everybody = keys.budget(keys.EVERYBODY)
            await self._run("count_probe", NO_JOB, everybody, budget=self._limits_told)

    async def _run_with_budget(self, operation: str, job: Job, *claimed: str, **parameters: object) -> Any:
        return await self._run(
            operation,
            job.job_id,
            keys.budget(keys.EVERYBODY),
            keys.open_reservations(),
            keys.budget(job.owner),
            keys.budget(job.address_hash or keys.NO_ADDRESS),
            *claimed,
            **parameters,
            budget=self._limits_told,
        )


def _cost(cost_usd: float | None) -> dict[str, object]:
    return {} if cost_usd is None else {"cost_micros": micros(cost_usd)}


def _tell_budget(share: float, *, is_news: bool) -> None:
    metrics.budget_used_ratio.set(share)
    if is_news:
        log.warning("budget_nearly_spent", used_percent=round(share * 100))
