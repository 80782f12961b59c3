"""The limits on open streams: for each session, for each address and in all."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from aiohttp import web

from growbin.errors import Rejected
from growbin.gateway.context import GatewayLimits
from growbin.telemetry import metrics

RETRY_AFTER_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Slot:
    """One open stream's place among the limits."""

    slots: StreamSlots
    owner: str
    address: str

    def __enter__(self) -> None:
        self.slots.change(self.owner, self.address, 1)

    def __exit__(self, *_: object) -> None:
        self.slots.change(self.owner, self.address, -1)


class StreamSlots:
    """How many streams and waiting reads are open, for each session, each address and in all."""

    def __init__(self, limits: GatewayLimits) -> None:
        self._limits = limits
        self._by_owner: Counter[str] = Counter()
        self._by_address: Counter[str] = Counter()
        self._open = 0

    def take(self, owner: str, address: str) -> Slot:
        """One slot, held by the block that enters it. Raises Rejected: too_many_streams to who has many,
        every_stream_taken to everybody."""
        if self._by_owner[owner] >= self._limits.max_streams_per_session:
            raise _too_many_streams("session")
        if self._by_address[address] >= self._limits.max_streams_per_address:
            raise _too_many_streams("address")
        if self._open >= self._limits.max_streams:
            detail = "Every stream is taken. Try again in a moment, or poll the job."
            raise Rejected("every_stream_taken", detail, retry_after_seconds=RETRY_AFTER_SECONDS)
        return Slot(self, owner, address)

    def change(self, owner: str, address: str, by: int) -> None:
        self._open += by
        metrics.open_streams.inc(by)
        for counter, key in ((self._by_owner, owner), (self._by_address, address)):
            counter[key] += by
            if not counter[key]:
                del counter[key]


def _too_many_streams(holder: Literal["session", "address"]) -> Rejected:
    detail = f"This {holder} has too many open streams. Close one and try again."
    return Rejected("too_many_streams", detail, retry_after_seconds=RETRY_AFTER_SECONDS)


SLOTS = web.AppKey("slots", StreamSlots)
