"""`growbin doctor`: every part used once, as growbin uses it; a line for each finding, and what to do. Pure.

What was measured comes in as facts, is judged here, and goes out as findings. An advice is written for the
person who has just been woken.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Literal

from growbin.errors import Unavailable
from growbin.job import READER_HEADER
from growbin.measurements import (
    BrokerFacts,
    ModelFacts,
    PhotoFacts,
    PublicCopyFacts,
    RedisFacts,
    TopologyFacts,
    Transfer,
    in_ms,
)
from growbin.ports import PartAway

Grade = Literal["ok", "warn", "fail"]
Say = Callable[[str], None]

LONGEST_CHECK_SECONDS = 30.0
NAME_WIDTH = 28
OLDEST_RABBITMQ = (3, 10)  # the first with at-least-once dead-lettering
SLOW_ROUND_TRIP_MS = 50.0
# S3 refuses a signature that is 15 minutes off.
SKEW_WARN_SECONDS = 60.0
SKEW_FAIL_SECONDS = 300.0
SHUTDOWN_WARN_DAYS = 60


@dataclass(frozen=True, slots=True)
class Finding:
    """`name` is the part, `text` what was seen; `advice` says what to do unless all is well."""

    grade: Grade
    name: str
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """`look` measures and judges; `advice` is for when the part does not even answer."""

    name: str
    look: Callable[[], Awaitable[Sequence[Finding]]]
    advice: str


async def examine(checks: Sequence[Check], say: Say, *, as_json: bool) -> int:
    """Make the checks, one after the other so that none disturbs another's timings, and say what was found, a
    line each. Returns the exit status: 0 when nothing fails."""
    findings: list[Finding] = []
    for check in checks:
        for finding in await _examine(check):
            findings.append(finding)
            if not as_json:
                say(_line(finding))
    failed = any(finding.grade == "fail" for finding in findings)
    if as_json:
        say(json.dumps({"ok": not failed, "findings": [asdict(finding) for finding in findings]}, indent=2))
    return int(failed)


def _line(finding: Finding) -> str:
    text = f"{finding.text.rstrip(' .:')}. {finding.advice}" if finding.advice else finding.text
    # A reason may have as many lines as a vendor likes; here it has one.
    return f"{finding.grade:<4}  {finding.name:<{NAME_WIDTH}}  {' '.join(text.split())}"


async def _examine(check: Check) -> Sequence[Finding]:
    try:
        async with asyncio.timeout(LONGEST_CHECK_SECONDS):
            return await check.look()
    except TimeoutError:
        return [Finding("fail", check.name, f"no answer within {LONGEST_CHECK_SECONDS:.0f} s", check.advice)]
    except Unavailable as error:
        return [Finding("fail", check.name, error.reason, check.advice)]


# --- RabbitMQ ----------------------------------------------------------------------------------


BROKER_AWAY = "Start it, or correct RABBITMQ_URL (address, user, password, vhost)"
MANAGEMENT_AWAY = "Correct RABBITMQ_MANAGEMENT_URL: without it the number of waiting jobs is not limited"


def judge_broker(name: str, facts: BrokerFacts) -> list[Finding]:
    numbers = (
        f"version {facts.version}, connected in {in_ms(facts.connect_ms)}, "
        f"confirmed round trip {in_ms(facts.round_trip_ms)}"
    )
    digits = [int(part) for part in facts.version.split(".")[:2] if part.isdecimal()]
    if len(digits) == 2 and tuple(digits) < OLDEST_RABBITMQ:
        return [Finding("fail", name, numbers, "Upgrade to 3.10 or newer: older ones lose dead letters")]
    if facts.round_trip_ms > SLOW_ROUND_TRIP_MS:
        return [Finding("warn", name, numbers, "Slow: look at its disk, its load and the way to it")]
    return [Finding("ok", name, numbers)]


def judge_topology(facts: TopologyFacts) -> list[Finding]:
    name = "rabbitmq topology"
    seen, advice = list(facts.different), []
    if facts.different:
        advice.append(
            "What differs is used as it is, and may be kept unless it is a dead-letter argument: without it "
            "retries or dead letters are lost. To change it drain and delete the queue at a quiet time"
        )
    if facts.missing:
        seen.append(f"missing: {', '.join(facts.missing)}")
        advice.append("Start a gateway or a consumer: it declares what is missing")
    if seen:
        return [Finding("warn", name, "; ".join(seen), ". ".join(advice))]
    return [
        Finding("ok", name, f"all {facts.declared} queues and exchanges are there, with the right arguments")
    ]


def judge_alarms(alarms: Sequence[str]) -> list[Finding]:
    """Alarms as `node: memory`."""
    name = "rabbitmq alarms"
    if alarms:
        advice = "Nothing can be published until it is over: free memory or disk on that node"
        return [Finding("fail", name, ", ".join(alarms), advice)]
    return [Finding("ok", name, "none")]


# --- Redis -------------------------------------------------------------------------------------


REDIS_AWAY = (
    "Start it, or correct REDIS_URL (or the role's own REDIS_..._URL); gateways are not ready without it"
)


def judge_redis(name: str, facts: RedisFacts) -> list[Finding]:
    """Reachable, keeps what it was told, and forgets nothing on its own."""
    round_trip = f"version {facts.version}, written and read in {in_ms(facts.round_trip_ms)}"
    slow = facts.round_trip_ms > SLOW_ROUND_TRIP_MS
    return [
        Finding("warn", name, round_trip, "Slow: look at its load and the way to it")
        if slow
        else Finding("ok", name, round_trip),
        _judge_persistence(f"{name} persistence", facts.appends),
        _judge_eviction(f"{name} eviction", facts.eviction_policy),
        judge_clock(f"{name} clock", facts.skew_seconds),
    ]


def _judge_persistence(name: str, appends: bool | None) -> Finding:
    if appends is None:
        return Finding("warn", name, "the server does not tell", "Make sure that a restart keeps its data")
    if not appends:
        advice = (
            "CONFIG SET appendonly yes, and the same in its configuration file: a restart loses every job"
        )
        return Finding("warn", name, "appendonly no", advice)
    return Finding("ok", name, "appendonly yes")


def _judge_eviction(name: str, policy: str | None) -> Finding:
    if policy is None:
        return Finding(
            "warn", name, "the server does not tell", "Make sure that maxmemory-policy is noeviction"
        )
    if policy != "noeviction":
        advice = (
            "CONFIG SET maxmemory-policy noeviction, and the same in its configuration file: "
            "a full server would drop jobs and sessions"
        )
        return Finding("fail", name, f"maxmemory-policy {policy}", advice)
    return Finding("ok", name, "maxmemory-policy noeviction")


# --- what the consumers know -------------------------------------------------------------------


def judge_outages(parts: Sequence[PartAway]) -> list[Finding]:
    """A line for each part that consumers find away."""
    advice = (
        "Jobs wait, and go on by themselves within seconds of its return. Why it is away, says part_away in "
        "the consumers' log; whether it answers from here, the lines below"
    )
    found = [
        Finding("fail", f"outage of {away.part}", f"consumers wait for it since {away.since}", advice)
        for away in parts
    ]
    return found or [Finding("ok", "outages", "consumers find every part well")]


# --- S3 and CDN --------------------------------------------------------------------------------


STORE_AWAY = "Correct S3_ENDPOINT_URL, S3_BUCKET_NAME, AWS_REGION; is the way to S3 open?"
STORE_REFUSES = {
    "AccessDenied": "Give the role its rights on the bucket: deploy/terraform/roles.tf has each process'",
    "InvalidAccessKeyId": "Correct AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "Correct AWS_SECRET_ACCESS_KEY (and AWS_REGION)",
    "NoSuchBucket": "Create the bucket, or correct S3_BUCKET_NAME",
    "RequestTimeTooSkewed": "Set this machine's clock (NTP): S3 refuses every signature",
    "ExpiredToken": "Renew the AWS credentials",
}


def judge_photos(facts: PhotoFacts) -> list[Finding]:
    """S3 and CDN side by side."""
    found = [_judge_store("s3 write", facts.write)]
    if facts.write.skew_seconds is not None:
        found.append(judge_clock("s3 clock", facts.write.skew_seconds))
    if facts.read is not None:
        found.append(_judge_store("s3 read", facts.read))
    if facts.read_unsigned is not None:
        advice = "Make the bucket private: anyone can read raw photos with all their metadata"
        found.append(_judge_closed("s3 without signature", facts.read_unsigned, advice))
    if facts.cdn_first is not None:
        found.append(_judge_cdn("cdn first read", facts.cdn_first))
    if facts.cdn_second is not None:
        found.append(_judge_cache("cdn second read", facts.cdn_second))
    if facts.cdn_without_secret is not None:
        advice = f"Let the CDN serve incoming/ only with the header {READER_HEADER}: raw photos are public"
        found.append(_judge_closed("cdn without secret", facts.cdn_without_secret, advice))
    return found + _load_times({"S3": facts.read, "CDN": facts.cdn_first, "CDN again": facts.cdn_second})


def _load_times(reads: Mapping[str, Transfer | None]) -> list[Finding]:
    """What the CDN is for, in one line; the ways that were judged above are not judged again."""
    whole = {way: read.phases_ms["total"] for way, read in reads.items() if read and read.is_whole}
    text = ", ".join(f"{way} {in_ms(total)}" for way, total in whole.items())
    return [Finding("ok", "load times", text)] if len(whole) > 1 else []


def judge_public_copy(facts: PublicCopyFacts) -> list[Finding]:
    """What a consumer needs of S3 and CDN."""
    found = [_judge_store("s3 look", facts.look), _judge_store("s3 put", facts.put)]
    if facts.cdn_first is not None:
        found.append(_judge_cdn("cdn first read", facts.cdn_first))
    if facts.cdn_second is not None:
        found.append(_judge_cache("cdn second read", facts.cdn_second))
    return found


def _judge_store(name: str, transfer: Transfer) -> Finding:
    if transfer.status == 200 and (transfer.is_whole or name == "s3 write"):
        return Finding("ok", name, transfer.text)
    return Finding("fail", name, transfer.text, STORE_REFUSES.get(transfer.problem, STORE_AWAY))


def _judge_cdn(name: str, transfer: Transfer) -> Finding:
    """Consumers go on with S3 without it, but nobody sees their photo."""
    if transfer.status == 200 and transfer.is_whole:
        return Finding("ok", name, f"{transfer.cache or 'no word of its cache'}: {transfer.text}")
    if transfer.status == 403:
        advice = (
            "CDN_READER_SECRET must be the one that the CDN knows, and the CDN must be let into the bucket"
        )
    else:
        advice = "Correct CDN_BASE_URL; consumers read from S3 meanwhile, but image_url does not work"
    return Finding("fail", name, transfer.text, advice)


def _judge_cache(name: str, transfer: Transfer) -> Finding:
    finding = _judge_cdn(name, transfer)
    if finding.grade == "ok" and transfer.cache != "hit":
        return Finding("warn", name, finding.text, "Not a hit: look at the CDN's cache rules")
    return finding


def _judge_closed(name: str, transfer: Transfer, advice: str) -> Finding:
    if transfer.status in (401, 403, 404):
        return Finding("ok", name, f"closed ({transfer.status})")
    if transfer.status == 200:
        return Finding("fail", name, f"open ({transfer.status})", advice)
    return Finding("warn", name, transfer.text, "Neither open nor refused: look at it by hand")


# --- model and clock ---------------------------------------------------------------------------


MODEL_AWAY = "Correct OPENAI_BASE_URL; is the way to the model open?"
MODEL_CANNOT = (
    "Choose a model that sees pictures, keeps to a schema, and takes OPENAI_REASONING_EFFORT if set"
)
# By the status that a problem begins with.
MODEL_REFUSES = {
    "401": "Correct OPENAI_API_KEY",
    "402": "Fill up the balance: consumers stop until then",
    "403": "Give the key the right to use the model, or correct OPENAI_API_KEY",
    "404": "Correct OPENAI_MODEL (or OPENAI_BASE_URL)",
    "429": "Fill up the quota: consumers stop until then",
}


def judge_model(facts: ModelFacts) -> list[Finding]:
    if not facts.problem:
        text = f"{facts.model} answered in {in_ms(facts.answer_ms)}, {facts.tokens} tokens"
        return [Finding("ok", "model", text)]
    if facts.is_broken:
        advice = MODEL_REFUSES.get(facts.problem[:3], MODEL_CANNOT)
        return [Finding("fail", "model", f"{facts.model} refused: {facts.problem}", advice)]
    if facts.problem.startswith("429"):
        advice = "Consumers slow down by themselves; ask for a higher rate if it lasts"
        return [Finding("warn", "model", f"{facts.model} asks for patience: {facts.problem}", advice)]
    return [Finding("fail", "model", f"{facts.model}: {facts.problem}", MODEL_AWAY)]


def judge_effort(refusal: str) -> list[Finding]:
    """Why the effort that is set cannot be sent. Consumers do not start with it."""
    return [Finding("fail", "model", refusal, "Correct OPENAI_REASONING_EFFORT, or unset it")]


def judge_shutdown(model: str, shutdown: date | None, today: date) -> list[Finding]:
    """The day on which the provider takes the model away. Nothing is said where none is known."""
    if shutdown is None:
        return []
    name, days = "model shutdown", (shutdown - today).days
    advice = "Choose a living model with OPENAI_MODEL, and restart the consumers"
    if days < 0:
        return [Finding("fail", name, f"{model} was shut down on {shutdown}, {-days} days ago", advice)]
    text = f"{model} is shut down on {shutdown}, {days} days from now"
    if days <= SHUTDOWN_WARN_DAYS:
        return [Finding("warn", name, text, advice)]
    return [Finding("ok", name, text)]


def judge_proxies(before: Mapping[str, str | None]) -> list[Finding]:
    """The proxy before each part that may have one. Nothing is said where there is none."""
    ways = [f"{part} through {proxy}" for part, proxy in before.items() if proxy]
    straight = [part for part, proxy in before.items() if not proxy]
    if not ways:
        return []
    text = (
        f"{', '.join(ways)}; everything else straight{' (' + ', '.join(straight) + ')' if straight else ''}"
    )
    return [Finding("ok", "proxies", text)]


def judge_clock(name: str, skew_seconds: float) -> Finding:
    """Positive: this machine is ahead."""
    ahead = "ahead" if skew_seconds > 0 else "behind"
    text = f"this machine is {abs(skew_seconds):.1f} s {ahead}"
    advice = "Set this machine's clock (NTP): S3 refuses signatures that are 15 minutes off"
    if abs(skew_seconds) > SKEW_FAIL_SECONDS:
        return Finding("fail", name, text, advice)
    if abs(skew_seconds) > SKEW_WARN_SECONDS:
        return Finding("warn", name, text, advice)
    return Finding("ok", name, text)
