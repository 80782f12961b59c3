"""What `growbin doctor` measures of each part, and `growbin evaluate` of each photo: others measure, the
commands judge."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from growbin.job import AdvisedItem, ModelAnswer


def in_ms(milliseconds: float) -> str:
    return f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"


def since_ms(began: float) -> float:
    """`began` is a moment of time.perf_counter()."""
    return (time.perf_counter() - began) * 1000


@dataclass(frozen=True, slots=True)
class BrokerFacts:
    """One node. The round trip is publish, confirm and get, through a queue that is gone afterwards."""

    version: str
    connect_ms: float
    round_trip_ms: float


@dataclass(frozen=True, slots=True)
class TopologyFacts:
    """Of `declared` queues and exchanges: those that are `missing`, and in what others are `different`."""

    declared: int
    missing: list[str]
    different: list[str]


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """One server. `appends` and `eviction_policy` are None where it does not tell."""

    version: str
    round_trip_ms: float
    appends: bool | None
    eviction_policy: str | None
    skew_seconds: float


@dataclass(frozen=True, slots=True)
class Transfer:
    """One HTTP exchange on a connection of its own. `phases_ms`: `dns` (unless the address is a number),
    `connect`, `first byte`, `total`, each from the phase's own start but the last two from the beginning.
    `problem` is S3's error code, or why there is no answer (`status` 0)."""

    status: int
    phases_ms: dict[str, float] = field(default_factory=dict)
    cache: str | None = None
    skew_seconds: float | None = None
    problem: str = ""
    is_whole: bool = False  # the body is the one that was written

    @property
    def text(self) -> str:
        phases = ", ".join(f"{phase} {in_ms(spent)}" for phase, spent in self.phases_ms.items())
        return " ".join(filter(None, (str(self.status or "no answer"), self.problem, phases)))


@dataclass(frozen=True, slots=True)
class PhotoFacts:
    """A small object written to `incoming/`, read back, and removed. None: not tried, as the write failed
    (or the CDN is switched off)."""

    write: Transfer
    read: Transfer | None = None
    read_unsigned: Transfer | None = None
    cdn_first: Transfer | None = None
    cdn_second: Transfer | None = None
    cdn_without_secret: Transfer | None = None


@dataclass(frozen=True, slots=True)
class PublicCopyFacts:
    """What a consumer may do: `look` for a raw photo that is not there, `put` a public copy, read it from the
    CDN (None: it is switched off, or nothing was put), and remove it."""

    look: Transfer
    put: Transfer
    cdn_first: Transfer | None = None
    cdn_second: Transfer | None = None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One tiny paid call. `is_broken`: only a person can mend it (key, quota, name of the model)."""

    model: str
    answer_ms: float = 0
    tokens: int = 0
    problem: str = ""
    is_broken: bool = False


@dataclass(frozen=True, slots=True)
class PhotoAnswer:
    """What became of one labelled photo: its first item, or the code of its failure. `answer` is there
    whenever the model has answered, for that is paid for."""

    duration_ms: int
    item: AdvisedItem | None = None
    is_sure: bool = False
    answer: ModelAnswer | None = None
    failure: str | None = None
