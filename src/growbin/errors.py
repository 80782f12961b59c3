"""Errors, named by what we do next. Anything that is not in this tree is a bug.

GrowbinError
├── Rejected      the request cannot be taken, nothing starts: gateway/problems.py has its code's status
├── JobFailed     this job can never succeed: terminal event `failed`
└── Unavailable   a part we need is away: 503 at the gateway, retry in the consumer
    └── Throttled the model took no work: nothing was paid, no attempt is burned
"""

from growbin.usage import Usage

# The parts that jobs need and wait for: consumers have a breaker for each, and people hear when it is away.
PARTS = ("model", "s3")


class GrowbinError(Exception):
    """Root of the tree; never raised itself."""


class Rejected(GrowbinError):
    """The client's request cannot be taken; `code` names the problem, `detail` says what to do."""

    def __init__(self, code: str, detail: str, *, retry_after_seconds: int | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.retry_after_seconds = retry_after_seconds


class JobFailed(GrowbinError):
    """The job ends `failed` with `code`; trying again would give the same, at least until `opens_at_ms`. Of a
    call of the model: whether it was paid, and what is known of its `usage`."""

    def __init__(self, code: str, reason: str = "", *, opens_at_ms: int | None = None) -> None:
        super().__init__(f"{code}: {reason}" if reason else code)
        self.code = code
        self.opens_at_ms = opens_at_ms
        self.was_paid = True
        self.usage: Usage | None = None


class Unavailable(GrowbinError):
    """`part` (rabbitmq, redis, s3, model, ...) did not answer as it should; later it may."""

    def __init__(self, part: str, reason: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(f"{part}: {reason}")
        self.part = part
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


class Throttled(Unavailable):
    """The model took no work, so nothing was paid: for its rate or load, or it is `away`.

    `broken`: it would take none from anybody, until a person mends it (key, quota, parameter).
    `doubtful`: or else it is about this one job; nothing that we were told says which.
    """

    def __init__(
        self,
        reason: str,
        *,
        retry_after_seconds: float | None = None,
        broken: bool = False,
        doubtful: bool = False,
        away: bool = False,
    ) -> None:
        super().__init__("model", reason, retry_after_seconds=retry_after_seconds)
        self.broken = broken
        self.doubtful = doubtful
        self.away = away

    @property
    def is_congestion(self) -> bool:
        """It asks for patience, and for nothing else."""
        return not (self.broken or self.doubtful or self.away)
