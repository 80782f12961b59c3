"""How often who may call: the table of rates, the count of public reads, what callers are told of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from aiohttp import web

from growbin.errors import Rejected
from growbin.gateway.context import GatewayLimits
from growbin.rates import Admission, Bucket, Level, Rate

MOST_ADDRESSES = 10_000
PACE_OF_READS = 5  # so fast one address is answered, whatever it calls; a page comes with a dozen files
AT_ONCE_SECONDS = 2.0
LONGEST_QUEUE_SECONDS = 10.0


class Rates:
    """Every rate, from the settings."""

    def __init__(self, limits: GatewayLimits) -> None:
        reads = Bucket(limits.reads_per_second, 1)
        streams = max(limits.max_streams_per_address, limits.reads_per_second)
        changes = Bucket(limits.changes_per_minute, 60)
        self.tickets = Rate(
            "tickets",
            session=Bucket(limits.session_tickets_per_minute, 60),
            address=Bucket(limits.address_tickets_per_minute, 60),
            everybody=Bucket(limits.all_tickets_per_minute, 60),
        )
        self.sessions = replace(self.tickets, session=None)
        self.reads = Rate("reads", session=reads, address=reads)
        # Not more often than reads, but as many at once as an address may hold: all return after a restart.
        self.streams = Rate(
            "streams", session=reads, address=Bucket(streams, streams // limits.reads_per_second)
        )
        self.changes = Rate("changes", session=changes, address=changes)
        self.public_reads = PublicReads(reads)
        self.pace = Pace(PACE_OF_READS * limits.reads_per_second)

    def of(self, request: web.Request) -> Rate:
        """Which of them a call counts against that looks up its session."""
        last = request.path.rpartition("/")[2]
        if request.method == "DELETE" or last == "cancel":
            return self.changes
        if last == "analyze":
            return self.tickets
        return self.streams if last == "events" else self.reads


class PublicReads:
    """Calls that read no session ask no Redis either: this process alone counts them, by address."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._full_at_ms: dict[str, float] = {}  # those that were asked last are at the end

    def count(self, address: str) -> Admission:
        now_ms = time.monotonic() * 1000
        before_ms = self._full_at_ms.pop(address, 0.0)
        full_at_ms = self._bucket.full_at_ms(before_ms, now_ms)
        level = Level("address", self._bucket, full_at_ms - now_ms)
        self._full_at_ms[address] = before_ms if level.retry_after_seconds else full_at_ms
        if len(self._full_at_ms) > MOST_ADDRESSES:
            del self._full_at_ms[next(iter(self._full_at_ms))]
        return Admission(None, [level])


class Pace:
    """However an address calls, it is answered so often a second, and some seconds' worth at once: a flood,
    refused or not, takes its turns. Each process counts for itself, in a bounded room."""

    def __init__(self, calls_per_second: int) -> None:
        self._calls_per_second = calls_per_second
        self._last_turn: dict[str, float] = {}  # those that called last are at the end

    def wait_seconds(self, address: str) -> float:
        """Until it is the turn of this call. Who keeps more calls waiting than fit into the queue's seconds
        is answered faster again: they are bounded by its connections."""
        now = time.monotonic()
        last_turn = max(self._last_turn.pop(address, 0.0), now - AT_ONCE_SECONDS)
        turn = min(last_turn + 1 / self._calls_per_second, now + LONGEST_QUEUE_SECONDS)
        self._last_turn[address] = turn
        if len(self._last_turn) > MOST_ADDRESSES:
            del self._last_turn[next(iter(self._last_turn))]
        return max(turn - now, 0.0)


LEVELS = web.RequestKey("levels", Sequence)  # the buckets that the call was counted in
RATES = web.AppKey("rates", Rates)


def heed(request: web.Request, admission: Admission) -> Admission:
    """Have the answer tell what is left. Raises Rejected(too_many_requests) where the call was refused."""
    request[LEVELS] = admission.levels
    wait_seconds = admission.retry_after_seconds
    if wait_seconds:
        raise Rejected(
            "too_many_requests",
            f"Too many requests. Wait {wait_seconds} s, as Retry-After says, and try again.",
            retry_after_seconds=wait_seconds,
        )
    return admission


def rate_headers(levels: Sequence[Level]) -> Mapping[str, str]:
    """`RateLimit-Policy` and `RateLimit`, as in the IETF's draft-ietf-httpapi-ratelimit-headers. How much
    everybody calls is told only where that is the reason of a refusal."""
    told = [level for level in levels if level.holder != "everybody" or level.retry_after_seconds]
    if not told:
        return {}
    policies = (f'"{level.holder}";q={level.bucket.calls};w={level.bucket.seconds}' for level in told)
    states = (f'"{level.holder}";r={level.left};t={level.full_in_seconds}' for level in told)
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)}
