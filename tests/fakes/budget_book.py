"""The budget of the fake progress log: what its script keeps in `budget:...`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from growbin.budgets import Budget, Window
from growbin.job import Job
from growbin.ports import BudgetSpent

LENGTH_MS: dict[Window, int] = {"minute": 60_000, "day": 86_400_000}


@dataclass
class BudgetBook:
    """`used`: by holder, window, its number, and what."""

    budget: Budget
    used: Counter[tuple[str, Window, int, str]] = field(default_factory=Counter)
    open: dict[str, int] = field(default_factory=dict)  # when each was reserved
    reserved: int = 0
    settled: int = 0

    def reserve(self, job: Job, call_id: str, now_ms: int) -> BudgetSpent | None:
        self._let_lapse(now_ms)
        opens_session = self._of(job.owner, "day", "calls", now_ms) == 0
        address = job.address_hash or "no_address"
        has_firsts = self._of(address, "day", "firsts", now_ms) < self.budget.firsts_per_address
        if spent := self._full(job, now_ms, is_first=opens_session and has_firsts):
            return spent
        self._use(job, 1, self.budget.call_micros, now_ms)
        if opens_session:
            self.used[address, "day", now_ms // LENGTH_MS["day"], "firsts"] += 1
        self.open[call_id] = now_ms
        self.reserved += 1
        return None

    def settle(self, job: Job, call_id: str, cost_micros: int | None, *, was_paid: bool) -> None:
        at_ms = self.open.pop(call_id, None)
        if at_ms is None:
            return
        self.settled += 1
        reserved = self.budget.call_micros
        cost = (reserved if cost_micros is None else cost_micros) if was_paid else 0
        self._use(job, 0 if was_paid else -1, cost - reserved, at_ms)
        if not was_paid and self._of(job.owner, "day", "calls", at_ms) == 0:
            address = job.address_hash or "no_address"
            self.used[address, "day", at_ms // LENGTH_MS["day"], "firsts"] -= 1

    def _let_lapse(self, now_ms: int) -> None:
        lapsed = [
            one for one, at_ms in self.open.items() if at_ms + self.budget.call_seconds * 1000 <= now_ms
        ]
        for one in lapsed:
            del self.open[one]
        self.settled += len(lapsed)

    def _full(self, job: Job, now_ms: int, *, is_first: bool) -> BudgetSpent | None:
        spent: BudgetSpent | None = None
        holders = {"session": job.owner, "address": job.address_hash or "no_address"}
        for limit in self.budget.limits:
            most, wanted = limit.most, 1 if limit.unit == "calls" else self.budget.call_micros
            if limit.scope == "everybody" and not is_first:
                most = int(most * (1 - self.budget.first_share))
            used = self._of(holders.get(limit.scope, "everybody"), limit.window, limit.unit, now_ms)
            opens_at_ms = (now_ms // LENGTH_MS[limit.window] + 1) * LENGTH_MS[limit.window]
            if used + wanted > most and (spent is None or opens_at_ms > spent.opens_at_ms):
                spent = BudgetSpent(limit.scope, opens_at_ms)
        return spent

    def _of(self, holder: str, window: Window, what: str, at_ms: int) -> int:
        return self.used[holder, window, at_ms // LENGTH_MS[window], what]

    def _use(self, job: Job, calls: int, micros: int, at_ms: int) -> None:
        for holder in ("everybody", job.owner, job.address_hash or "no_address"):
            for window, length_ms in LENGTH_MS.items():
                self.used[holder, window, at_ms // length_ms, "calls"] += calls
                self.used[holder, window, at_ms // length_ms, "micros"] += micros
