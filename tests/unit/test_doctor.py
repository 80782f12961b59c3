"""What the doctor makes of what was measured."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from growbin.commands.doctor import (
    Check,
    Finding,
    examine,
    judge_alarms,
    judge_broker,
    judge_clock,
    judge_model,
    judge_photos,
    judge_proxies,
    judge_redis,
    judge_shutdown,
    judge_topology,
)
from growbin.measurements import BrokerFacts, ModelFacts, PhotoFacts, RedisFacts, TopologyFacts, Transfer


@pytest.mark.parametrize(
    ("skew_seconds", "grade"),
    [(0.4, "ok"), (-59, "ok"), (61, "warn"), (-299, "warn"), (301, "fail"), (-900, "fail")],
)
def test_clock_is_judged_by_its_distance_on_either_side(skew_seconds: float, grade: str) -> None:
    """S3 refuses what is 15 minutes off; the warning comes long before."""
    assert judge_clock("clock", skew_seconds).grade == grade


@pytest.mark.parametrize(
    ("version", "grade"),
    [("3.9.29", "fail"), ("3.10.8", "ok"), ("4.0.2", "ok"), ("4.1.0-rc.1", "ok"), ("unknown", "ok")],
)
def test_broker_older_than_dead_lettering_that_keeps_fails(version: str, grade: str) -> None:
    """3.10 is the first with at-least-once dead-lettering."""
    assert judge_broker("rabbitmq", BrokerFacts(version, 1, 1))[0].grade == grade


@pytest.mark.parametrize(
    ("policy", "grade"),
    [("noeviction", "ok"), ("allkeys-lru", "fail"), ("volatile-lru", "fail"), (None, "warn")],
)
def test_redis_that_may_evict_anything_fails(policy: str | None, grade: str) -> None:
    """A policy for what has a life hits everything: nearly every key of ours has one."""
    found = judge_redis("redis", RedisFacts("8.1", 1, appends=True, eviction_policy=policy, skew_seconds=0))
    assert [one.grade for one in found if one.name == "redis eviction"] == [grade]


def test_alarm_fails_and_names_its_node() -> None:
    """Publishing is blocked while it lasts."""
    [finding] = judge_alarms(["rabbit@a: memory"])
    assert finding.grade == "fail"
    assert "rabbit@a" in finding.text


@pytest.mark.parametrize(
    ("missing", "different", "grade", "advised"),
    [
        ([], [], "ok", []),
        (["a"], [], "warn", ["Start a gateway"]),
        ([], ["b is 1, not 2", "c is 3, not 4"], "warn", ["drain and delete"]),
        (["a"], ["b is 1, not 2"], "warn", ["Start a gateway", "drain and delete"]),
    ],
)
def test_queues_that_differ_or_are_missing_are_warned_of(
    missing: list[str], different: list[str], grade: str, advised: list[str]
) -> None:
    """growbin works with what differs and makes what is missing: neither is a failure, both are named."""
    [finding] = judge_topology(TopologyFacts(8, missing, different))
    assert finding.grade == grade
    assert all(told in finding.text for told in (*missing, *different))
    assert [
        advice for advice in ("Start a gateway", "drain and delete") if advice in finding.advice
    ] == advised


def test_open_bucket_fails() -> None:
    """A raw photo that anyone can read is worse than one that nobody can."""
    good = Transfer(200, {"total": 5}, is_whole=True)
    found = {
        finding.name: finding.grade for finding in judge_photos(PhotoFacts(good, good, read_unsigned=good))
    }
    assert found == {"s3 write": "ok", "s3 read": "ok", "s3 without signature": "fail"}


def test_load_times_of_s3_and_cdn_stand_side_by_side() -> None:
    """In one line, of those ways on which the whole object came; one alone compares with nothing."""
    s3, first, again = (Transfer(200, {"total": total}, is_whole=True) for total in (31.2, 44.7, 8.04))
    found = judge_photos(PhotoFacts(s3, s3, None, first, again))
    assert [finding.text for finding in found if finding.name == "load times"] == [
        "S3 31 ms, CDN 45 ms, CDN again 8.0 ms"
    ]
    alone = judge_photos(PhotoFacts(s3, s3, None, Transfer(403, {"total": 2})))
    assert not [finding for finding in alone if finding.name == "load times"]


def test_cut_body_is_no_good_read() -> None:
    """A 200 whose body is not what was written is a failure."""
    cut = Transfer(200)
    found = judge_photos(PhotoFacts(Transfer(200), cut, None, cut))
    assert [finding.grade for finding in found] == ["ok", "fail", "fail"]


@pytest.mark.parametrize(
    ("facts", "grade", "word"),
    [
        (ModelFacts("m", problem="401 invalid_api_key", is_broken=True), "fail", "OPENAI_API_KEY"),
        (ModelFacts("m", problem="402: the balance is used up", is_broken=True), "fail", "balance"),
        (ModelFacts("m", problem="404 model_not_found", is_broken=True), "fail", "OPENAI_MODEL"),
        (ModelFacts("m", problem="429 insufficient_quota", is_broken=True), "fail", "quota"),
        (ModelFacts("m", problem="model_refused: 400", is_broken=True), "fail", "sees pictures"),
        (ModelFacts("m", problem="429 rate_limit_exceeded"), "warn", "rate"),
        (ModelFacts("m", problem="timed out"), "fail", "OPENAI_BASE_URL"),
    ],
)
def test_refusal_of_the_model_decides_what_to_do(facts: ModelFacts, grade: str, word: str) -> None:
    """Key, name, quota and patience are four different errands."""
    [finding] = judge_model(facts)
    assert finding.grade == grade
    assert word in finding.advice


@pytest.mark.parametrize(
    ("days", "grade"),
    [(400, "ok"), (61, "ok"), (60, "warn"), (1, "warn"), (0, "warn"), (-1, "fail"), (-90, "fail")],
)
def test_model_that_goes_soon_is_warned_of_and_one_that_is_gone_fails(days: int, grade: str) -> None:
    """Sixty days are time to choose another; the finding names the day and how far it is."""
    today = date(2026, 11, 26)
    [finding] = judge_shutdown("gpt-4o", today + timedelta(days=days), today)
    assert finding.grade == grade
    assert "gpt-4o" in finding.text
    assert str(today + timedelta(days=days)) in finding.text
    assert f"{abs(days)} days" in finding.text
    assert ("OPENAI_MODEL" in finding.advice) == (grade != "ok")


def test_model_whose_end_is_not_known_gets_no_line() -> None:
    """Most servers tell nothing."""
    assert judge_shutdown("m", None, date(2026, 11, 26)) == []


async def test_finding_of_many_lines_is_said_in_one() -> None:
    """Whatever a vendor writes, a line stays a line, and a failure decides the exit status."""

    async def look() -> list[Finding]:
        return [Finding("fail", "part", "first\n  second.", "Do\nthis")]

    said: list[str] = []
    assert await examine([Check("part", look, "")], said.append, as_json=False) == 1
    assert [" ".join(line.split()) for line in said] == ["fail part first second. Do this"]


def test_proxies_are_told_where_there_are_any() -> None:
    """Which part goes through which; nothing is said of a machine without."""
    [finding] = judge_proxies({"s3": "proxy.example:3128", "model": None})
    assert (finding.grade, finding.name) == ("ok", "proxies")
    assert finding.text == "s3 through proxy.example:3128; everything else straight (model)"
    assert judge_proxies({"s3": None, "model": None}) == []
