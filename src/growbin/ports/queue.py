"""Ports on RabbitMQ: jobs and letters, and what a job leads to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from growbin.job import (
    Job,
)


@dataclass(frozen=True, slots=True)
class Ack:
    """The delivery is finished."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Bring the job again after one of the delay steps."""

    delay_seconds: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Park the delivery for people; its obituary ends the job if nothing else did."""

    reason: str


@dataclass(frozen=True, slots=True)
class HandBack:
    """Give the untouched delivery back at shutdown."""


Verdict = Ack | Retry | DeadLetter | HandBack


# How long a job waits before its second start, its third, and so on: the queue has a step for each.
RETRY_DELAYS_SECONDS = (1, 5, 15, 60)

Handler = Callable[[Job], Coroutine[Any, Any, Verdict]]


@dataclass(frozen=True, slots=True)
class Obituary:
    """A dead letter: its job, or what little of it could be read, and why it died."""

    job_id: UUID | None
    job: Job | None
    reason: str
    died_at: str | None = None


@dataclass(frozen=True, slots=True)
class Letter:
    """What people find of a dead letter: nothing personal, unless no job could be read from it. `code` is how
    its job had ended, where an earlier version has not left the event itself."""

    job_id: UUID | None
    reason: str
    code: str | None
    died_at: str | None
    body: bytes


# The code that the job has ended with, for its letter; None when nothing shall be left of it.
ObituaryHandler = Callable[[Obituary], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in the main queue, how fast it is worked off, and how many jobs were handed out since the
    broker began to count, where it knows."""

    waiting: int
    per_second: float | None = None
    handed_out: int | None = None

    @property
    def position(self) -> int:
        """Of the job that comes next."""
        return self.waiting + 1

    @property
    def turn(self) -> int | None:
        """Of the job that comes next: so many will have been handed out with it."""
        return None if self.handed_out is None else self.handed_out + self.position

    def wait_seconds(self, position: int) -> int | None:
        """Until the job in this place has its turn."""
        return round(position / self.per_second) if self.per_second else None


class JobQueue(Protocol):
    """RabbitMQ."""

    async def publish(self, job: Job) -> None:
        """Returns once a quorum queue has confirmed. Raises Unavailable: perhaps sent, perhaps not."""

    async def backlog(self) -> Backlog | None:
        """What waits, at most a second old; None when unknown."""

    def consuming(
        self,
        handle: Handler,
        handle_obituary: ObituaryHandler,
        *,
        concurrency: Callable[[], int],
        grace_seconds: float,
    ) -> AbstractAsyncContextManager[Callable[[], bool]]:
        """Consume the main queue and the obituaries until the block is left; then let running jobs
        finish. `concurrency` may change while it goes on; at 0 only obituaries are read. Yields a
        function that tells whether we are subscribed."""


class DeadLetters(Protocol):
    """The letters, for people."""

    async def list(self) -> Sequence[Letter]:
        """They stay where they are."""

    async def walk(self, act: Callable[[Letter], Awaitable[bool]]) -> None:
        """Hand each letter to `act`, which says whether it is to be removed."""
