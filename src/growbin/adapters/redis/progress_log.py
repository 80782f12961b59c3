"""The progress log on Redis: the truth about every job, written by one atomic script."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, Self, cast
from uuid import UUID

import structlog
from pydantic_core import to_json
from redis.asyncio import Redis

from growbin.adapters.redis import keys
from growbin.adapters.redis.agenda import passes_of
from growbin.adapters.redis.connection import ask, open_redis
from growbin.adapters.redis.log_look import LogLook
from growbin.adapters.redis.paid_calls import PaidCallsScript
from growbin.adapters.redis.script_call import ScriptCall
from growbin.adapters.redis.stored_values import (
    parse_entry,
    read_answer,
    read_end,
    read_ended,
    read_snapshot,
)
from growbin.adapters.redis.written_ends import WrittenEnds
from growbin.analysis import is_analysis
from growbin.budgets import Budget
from growbin.errors import Rejected
from growbin.job import (
    STAGE_PROGRESS,
    TERMINAL_STAGES,
    Failure,
    Job,
    JobState,
    Locale,
    LogEntry,
    Result,
    Stage,
    Upload,
)
from growbin.messages import failure, failure_codes, stage_message
from growbin.ports import Acceptance, Accepted, Backlog, Beginning, EndedJob, Held, History, Started
from growbin.rates import Holder
from growbin.telemetry import metrics, traces

log = structlog.get_logger()

# One death with many jobs in hand tells nothing about any of them; two do. From then on a job runs
# alone: should it die once more, no neighbour is in hand that could be blamed for it.
SUSPECT_FROM_STARTS = 2

# Of any version: one that lies further ahead was given before Redis' clock jumped back.
LONGEST_LEASE_MS = 60_000

SCANNED_AT_ONCE = 500

LOCALES: tuple[Locale, ...] = ("ko", "en")


metrics.present(metrics.jobs_ended, {*TERMINAL_STAGES, *failure_codes(), "not_uploaded"} - {Stage.FAILED})


@cache
def _in_each_locale(stage: Stage) -> dict[str, str]:
    return {locale: stage_message(stage, locale) for locale in LOCALES}


def _failure(failure: Failure) -> str:
    """The tail of a `failed` event."""
    return f'"failure":{failure.model_dump_json()}'


# What the script is told with each call, so that it stands once.
_CONSTANTS = to_json(
    {
        "ranks": {stage: stage.rank for stage in Stage if not stage.is_terminal},
        "ends": sorted(TERMINAL_STAGES),
        "log_seconds": keys.LOG_SECONDS,
        "result_seconds": keys.RESULT_SECONDS,
        "unfinished": keys.UNFINISHED,
        "waiting": keys.WAITING,
        "unfinished_of": keys.unfinished("*"),
        "session_news": keys.session_news("*"),
        "budget_seconds": keys.BUDGET_SECONDS,
    }
)


@dataclass(frozen=True, slots=True)
class ProgressLimits:
    lease_seconds: float
    max_starts: int
    max_paid_calls: int
    unused_ticket_seconds: int
    erased_after_seconds: Sequence[float]


class RedisProgressLog(PaidCallsScript):
    """Implements every port of a job's progress; every method may raise Unavailable."""

    def __init__(
        self, redis: Redis, image_base_url: str, limits: ProgressLimits, budget: Budget | None
    ) -> None:
        super().__init__(limits.max_paid_calls, budget)
        self._redis = redis
        self._image_base_url = image_base_url
        self._limits = limits
        folder = files("growbin.adapters.redis")
        sources = [folder.joinpath(name).read_text("utf-8") for name in ("budget.lua", "progress_log.lua")]
        self._script = redis.register_script("".join(sources))
        self._look = LogLook(redis)
        self._ends = WrittenEnds(redis, self._call)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        *,
        url: str,
        image_base_url: str,
        lease_seconds: float = 5,
        max_starts: int = 4,
        max_paid_calls: int = 3,
        unused_ticket_seconds: int = 3600,
        erased_after_seconds: Sequence[float] = (0, 30, 300),
        budget: Budget | None = None,
    ) -> AsyncIterator[Self]:
        """`erased_after_seconds`: when each pass of a deletion is due. `budget`: of paid calls."""
        async with open_redis(url) as redis:
            limits = ProgressLimits(
                lease_seconds, max_starts, max_paid_calls, unused_ticket_seconds, erased_after_seconds
            )
            progress = cls(redis, image_base_url, limits, budget)
            async with progress._ends.written_again(redis.link_lost):
                yield progress

    @property
    def redis(self) -> Redis:
        """Its connections, for what else is asked of this role."""
        return self._redis

    async def is_writable(self) -> bool:
        """For readiness: a script that writes was accepted. Raises Unavailable."""
        await ask(self._redis.set(keys.READINESS, "1", ex=keys.READINESS_SECONDS))
        return True

    async def _run(self, operation: str, job_id: UUID, *shared_keys: str, **parameters: object) -> Any:
        found, written_end = await self._call(call := ScriptCall(operation, job_id, shared_keys, parameters))
        if written_end is not None:  # here, where it is written, so that an outage shows while it lasts
            outcome = parameters.get("code") or written_end
            metrics.jobs_ended.labels(outcome=outcome).inc()
            log.info("job_ended", job_id=str(job_id), outcome=outcome)
        if operation == "erase" or (written_end is not None and operation in ("append", "cancel")):
            self._ends.keep(call)
        return found

    async def _call(self, call: ScriptCall) -> tuple[Any, str | None]:
        """What the operation returns, and the end that it has written."""
        # A renewal each second would be all that one sees of a slow job.
        with traces.span(f"redis {call.operation}", "client") if call.operation != "renew" else nullcontext():
            answer = await ask(self._script(call.keys, [call.operation, call.as_json(), _CONSTANTS]))
        return cast("tuple[Any, str | None]", answer)

    def _about(self, job: Job) -> dict[str, object]:
        """What the script needs to write a history from nothing, should it have been lost."""
        return {
            "run": job.run,
            "deadline_ms": job.deadline_ms,
            "owner": job.owner,
            "address": job.address_hash,
            "image_url": f"{self._image_base_url}/{job.public_key}",
            "locale": job.locale,
            "queued_message": stage_message(Stage.QUEUED, job.locale),
            "queued_progress": STAGE_PROGRESS[Stage.QUEUED],
            "expired_message": _in_each_locale(Stage.EXPIRED),
        }

    def _told(self, job: Job, stage: Stage) -> dict[str, object]:
        """What the script needs to tell a stage or an end."""
        return self._about(job) | {
            "stage": stage,
            "message": stage_message(stage, job.locale),
            "progress": STAGE_PROGRESS[stage],
            "max_attempts": None if stage is Stage.QUEUED else self._limits.max_starts,
        }

    # --- written by the gateway

    async def open_job(self, upload: Upload, deadline_ms: int) -> None:
        await self._run(
            "append",
            upload.job_id,
            stage=Stage.AWAITING_UPLOAD,
            message=stage_message(Stage.AWAITING_UPLOAD, upload.locale),
            progress=STAGE_PROGRESS[Stage.AWAITING_UPLOAD],
            deadline_ms=deadline_ms,
            owner=upload.owner,
            address=upload.address_hash,
            unused_ms=self._limits.unused_ticket_seconds * 1000,
            image_url=upload.image_url,
            locale=upload.locale,
        )

    async def accept_job(
        self, upload: Upload, *, session_most: int, address_most: int, deadline_seconds: int
    ) -> Acceptance:
        holders: list[tuple[Holder, str, int]] = [("session", upload.owner, session_most)]
        if upload.address_hash:
            holders.append(("address", upload.address_hash, address_most))
        found, *rest = await self._run(
            "accept",
            upload.job_id,
            *(keys.unfinished(name) for _, name, _ in holders),
            most=[most for _, _, most in holders],
            deadline_in_ms=deadline_seconds * 1000,
            expired_message=_in_each_locale(Stage.EXPIRED),
        )
        match found:
            case "accepted":
                return Accepted(int(rest[0]), int(rest[0]) + deadline_seconds * 1000)
            case "full":
                return holders[int(rest[0]) - 1][0]
        return "over"

    async def queue_job(self, job: Job, backlog: Backlog | None = None) -> None:
        place = []
        if backlog is not None:
            place.append(f'"position":{backlog.position}')
            if (seconds := backlog.wait_seconds(backlog.position)) is not None:
                place.append(f'"wait_seconds":{seconds}')
            if backlog.turn is not None:
                place.append(f'"turn":{backlog.turn}')
        await self._append(job, None, Stage.QUEUED, ",".join(place) or None)

    async def cancel(self, job_id: UUID) -> bool:
        """True when this call ended the job."""
        held = await self._run(
            "cancel",
            job_id,
            cancelled_message=_in_each_locale(Stage.CANCELLED),
            expired_message=_in_each_locale(Stage.EXPIRED),
        )
        return cast("Held", held) == "ours"

    async def mark_feedback(self, job_id: UUID) -> bool:
        return bool(await self._run("mark_feedback", job_id))

    async def erase(self, job_id: UUID, owner: str) -> None:
        await self._run(
            "erase",
            job_id,
            keys.AGENDA,
            owner=owner,
            last_run=1,
            passes=passes_of(job_id, self._limits.erased_after_seconds),
            cancelled_message=_in_each_locale(Stage.CANCELLED),
        )

    # --- written by the consumer

    async def begin(self, job: Job, *, alone: bool, call_id: str) -> Beginning:
        status, *rest = await self._run(
            "begin",
            job.job_id,
            **self._told(job, Stage.FETCHING),
            alone=alone,
            call_id=call_id,
            lease_ms=int(self._limits.lease_seconds * 1000),
            longest_lease_ms=max(LONGEST_LEASE_MS, int(self._limits.lease_seconds * 1000)),
            max_starts=self._limits.max_starts,
            max_paid_calls=self._limits.max_paid_calls,
            suspect_from_starts=SUSPECT_FROM_STARTS,
        )
        if status == "started":
            attempt, starts, now_ms, answer = rest
            kept = read_answer(answer) if answer else None
            return Started(int(attempt), int(starts), int(now_ms), kept)
        return cast("Literal['held', 'suspect', 'ended', 'exhausted', 'crashed']", status)

    async def renew(self, job: Job, attempt: int) -> Held:
        lease_ms = int(self._limits.lease_seconds * 1000)
        held = await self._run("renew", job.job_id, run=job.run, attempt=attempt, lease_ms=lease_ms)
        return cast("Held", held)

    async def release(self, job: Job, attempt: int, *, refund: bool = False) -> None:
        await self._run("release", job.job_id, run=job.run, attempt=attempt, refund=refund or None)

    async def announce(self, job: Job, attempt: int, stage: Stage) -> Held:
        return await self._append(job, attempt, stage)

    async def finish(self, job: Job, attempt: int | None, end: Result | Failure) -> Held:
        if isinstance(end, Result):
            return await self._append(job, attempt, Stage.DONE, f'"result":{end.model_dump_json()}')
        return await self._append(job, attempt, Stage.FAILED, _failure(end), end.code)

    async def reopen(self, job: Job, deadline_seconds: int) -> Job:
        about = self._about(job)
        last_run = about.pop("run")
        answer = await ask(self._redis.get(keys.answer(job.job_id)))
        status, *rest = await self._run(
            "reopen",
            job.job_id,
            **about | {"deadline_ms": None},
            last_run=last_run,
            deadline_in_ms=deadline_seconds * 1000,
            drop_answer=(answer is not None and not is_analysis(read_answer(answer))) or None,
        )
        if status == "refused":
            raise Rejected(
                "not_failed", f"Only a failed or expired job can be driven again; it is {rest[0]}."
            )
        run, deadline_ms = map(int, rest)
        accepted_at_ms = deadline_ms - deadline_seconds * 1000
        return job.model_copy(
            update={"run": run, "deadline_ms": deadline_ms, "accepted_at_ms": accepted_at_ms}
        )

    async def ended_jobs(self) -> AsyncIterator[EndedJob]:
        cursor = 0
        while True:
            cursor, names = await ask(self._redis.scan(cursor, match=keys.result("*"), count=SCANNED_AT_ONCE))
            ends = await ask(self._redis.mget(names)) if names else []
            for name, text in zip(names, ends, strict=True):
                if text and (ended := read_ended(keys.job_of_result(name), text)):
                    yield ended
            if cursor == 0:
                return

    async def fail_unreadable(self, job_id: UUID, code: str) -> None:
        await self._run(
            "append",
            job_id,
            stage=Stage.FAILED,
            message=_in_each_locale(Stage.FAILED),
            progress=STAGE_PROGRESS[Stage.FAILED],
            tail={locale: _failure(failure(code, locale)) for locale in LOCALES},
            code=code,
        )

    async def _append(
        self,
        job: Job,
        attempt: int | None,
        stage: Stage,
        tail: str | None = None,
        code: str | None = None,
    ) -> Held:
        held = await self._run(
            "append", job.job_id, **self._told(job, stage), attempt=attempt, tail=tail, code=code
        )
        return cast("Held", held)

    # --- read, and expired by whoever looks

    async def expire_if_due(self, job: Job) -> bool:
        return bool(await self._run("expire", job.job_id, **self._about(job)) == "ended")

    async def lease_lives(self, job_id: UUID) -> bool:
        return bool(await ask(self._redis.exists(keys.lease(job_id))))

    async def state(self, job_id: UUID) -> JobState | None:
        return (await self._read(job_id, None, with_log=False))[0]

    async def history(self, job_id: UUID, after_id: str | None) -> History | None:
        state, is_known, entries = await self._read(job_id, after_id, with_log=True)
        if state is None:
            return None
        if after_id is None and entries is not None:
            # The log goes an hour after the end; the result remains and holds the terminal event.
            return History(state, entries or [state.entry], reset=False)
        if is_known and entries is not None:
            return History(state, entries, reset=False)
        if after_id == state.entry.id and state.entry.ends:
            return History(state, [], reset=False)
        return History(state, [state.entry] if state.entry.ends else [], reset=True)

    async def _read(
        self, job_id: UUID, after_id: str | None, *, with_log: bool
    ) -> tuple[JobState | None, bool, list[LogEntry] | None]:
        """The state, whether `after_id` is in the log, and the entries after it; None when one of them
        cannot be read: then no stream can go on from there."""
        found = await self._look.at(job_id, after_id, with_log=with_log)
        snapshot, result, is_known, now_ms, entries = found or await self._run(
            "read",
            job_id,
            after_id=after_id,
            with_log=with_log or None,
            expired_message=_in_each_locale(Stage.EXPIRED),
        )
        if result is not None:
            state: JobState | None = read_end(job_id, result, int(now_ms))
        else:
            state = read_snapshot(snapshot, int(now_ms))
        parsed = [entry for entry in map(parse_entry, entries) if entry is not None]
        return state, is_known == "1", parsed if len(parsed) == len(entries) else None
