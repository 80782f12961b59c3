"""What a person is told while they wait: how long, which place, which attempt, and when it takes longer."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.async_api import Route, expect

from tests.e2e.system import System
from tests.page.conftest import COFFEE, HeldModel, Visit, Visiting

UPDATED = "2030-01-01T00:00:00.000Z"
NOW_SECONDS = 1_893_456_000  # the same; a browser's clock that ran on would pass by what is waited for


def stream_of(*events: dict[str, Any], name: str = "progress") -> str:
    """Events as the service writes them."""
    lines = []
    for number, event in enumerate(events, 1):
        told = {
            "seq": number,
            "progress": 10,
            "message": "기다려요.",
            "attempt": 1,
            "updated_at": UPDATED,
            **event,
        }
        lines.append(f"retry: 60000\nid: a.{number}.b\nevent: {name}\ndata: {json.dumps(told)}\n\n")
    return "".join(lines)


async def test_seconds_are_counted_and_what_takes_long_is_said(visit: Visit, model: HeldModel) -> None:
    """Every second while it is waited for; after a quarter of a minute that it takes longer than usual."""
    async with model.held():
        await visit.page.clock.set_fixed_time(NOW_SECONDS)
        await visit.page.reload()
        await visit.choose(COFFEE)
        card = await visit.reaches("analysing")
        await expect(card.locator(".note")).to_be_empty()
        await visit.page.clock.set_fixed_time(NOW_SECONDS + 8)
        await expect(card.locator(".clock")).to_have_text("8초")
        await expect(card.locator(".note")).to_be_empty()
        await visit.page.clock.set_fixed_time(NOW_SECONDS + 16)
        await expect(card.locator(".clock")).to_have_text("16초")
        await expect(card.locator(".note")).to_contain_text("평소보다 오래")
    card = await visit.reaches("done")
    await expect(card.locator(".clock")).to_be_hidden()
    await expect(card.locator(".note")).to_be_empty()


@pytest.mark.parametrize("width", [390, 1280])
async def test_photo_fills_the_width_of_its_card(
    visiting: Visiting, system: System, model: HeldModel, width: int
) -> None:
    """While it is waited for, on a low screen too."""
    async with visiting(system.base_url, viewport={"width": width, "height": 600}) as visit, model.held():
        await visit.choose(COFFEE)
        card = await visit.reaches("analysing")
        whole, photo = await card.bounding_box(), await card.locator(".photo").bounding_box()
        assert whole
        assert photo
        assert photo["width"] == pytest.approx(whole["width"], abs=3)
        assert photo["height"] <= 0.46 * 600 + 1


async def test_wait_that_was_told_grows_shorter(visiting: Visiting, system: System, model: HeldModel) -> None:
    """Each second; once it is over only the place is told."""

    async def tell(route: Route) -> None:
        event = {"stage": "queued", "position": 3, "wait_seconds": 8}
        await route.fulfill(content_type="text/event-stream", body=stream_of(event))

    async with visiting(system.base_url, locale="en-GB") as visit, model.held():
        await visit.page.route("**/events*", tell)
        await visit.page.clock.set_fixed_time(NOW_SECONDS)
        await visit.page.reload()
        await visit.choose(COFFEE)
        card = await visit.reaches("queued")
        await visit.page.clock.set_fixed_time(NOW_SECONDS + 4)
        await expect(card.locator(".state")).to_contain_text("about 4 s")
        await visit.page.clock.set_fixed_time(NOW_SECONDS + 10)
        await expect(card.locator(".state")).to_have_text("기다려요. 3rd in line.")


@pytest.mark.parametrize(
    ("locale", "event", "words"),
    [
        ("ko-KR", {"position": 3, "wait_seconds": 80}, r"기다려요. 3번째 차례예요, 약 (80|7\d)초."),
        ("en-GB", {"position": 3, "wait_seconds": 80}, r"기다려요. 3rd in line, about (80|7\d) s."),
        ("en-GB", {"position": 3}, "기다려요. 3rd in line."),
        ("en-GB", {"position": 1, "wait_seconds": 1}, "기다려요."),
        ("ko-KR", {"attempt": 2, "max_attempts": 4}, r"다시 시도하고 있어요 \(4번 중 2번째\). 기다려요."),
        ("en-GB", {"attempt": 2, "max_attempts": 4}, r"Trying again \(2 of 4\). 기다려요."),
        ("en-GB", {"attempt": 6}, r"Trying again \(6\). 기다려요."),
    ],
)
async def test_place_and_attempt_are_told(
    visiting: Visiting, system: System, model: HeldModel, locale: str, event: dict[str, Any], words: str
) -> None:
    """From the events, where they tell something: the first place and the first attempt do not."""

    async def tell(route: Route) -> None:
        await route.fulfill(content_type="text/event-stream", body=stream_of({"stage": "queued", **event}))

    async with visiting(system.base_url, locale=locale) as visit, model.held():
        await visit.page.route("**/events*", tell)
        await visit.choose(COFFEE)
        card = await visit.reaches("queued")
        await expect(card.locator(".state")).to_have_text(re.compile(f"^{words}$"))


async def test_place_falls_as_the_service_tells(visiting: Visiting, system: System, model: HeldModel) -> None:
    """Beside the job's own words; a place is no reason why it takes longer."""
    fallen = {"part": "queue", "message": "4.", "since": UPDATED, "position": 4, "wait_seconds": 160}

    async def tell(route: Route) -> None:
        queued = stream_of({"stage": "queued", "position": 9, "wait_seconds": 400, "turn": 30})
        notice = f"event: notice\ndata: {json.dumps(fallen)}\n\n"
        await route.fulfill(content_type="text/event-stream", body=queued + notice)

    async with visiting(system.base_url, locale="en-GB") as visit, model.held():
        await visit.page.route("**/events*", tell)
        await visit.choose(COFFEE)
        card = await visit.reaches("queued")
        await expect(card.locator(".state")).to_have_text(
            re.compile(r"^기다려요\. 4th in line, about 1\d\d s\.$")
        )
        await expect(card.locator(".note")).to_be_empty()


@pytest.mark.parametrize(
    ("locale", "opens_at", "words"),
    [
        ("ko-KR", "2031-01-01T15:00:00.000Z", "다 썼어요. 2031. 1. 2. 오전 12:00부터 다시 할 수 있어요."),
        ("en-GB", "2031-01-01T15:00:00.000Z", r"다 썼어요. Possible again from Jan 2, 2031, 12:00\sAM."),
        ("en-GB", "2021-01-01T00:00:00.000Z", "다 썼어요."),
        ("en-GB", None, "다 썼어요."),
    ],
)
async def test_spent_budget_says_when_it_opens_again(
    visiting: Visiting, system: System, model: HeldModel, locale: str, opens_at: str | None, words: str
) -> None:
    """In the person's own time, unless that has passed."""

    async def tell(route: Route) -> None:
        failure = {"code": "budget_exhausted", "detail": "다 썼어요.", "retryable": True}
        if opens_at:
            failure["opens_at"] = opens_at
        event = {"stage": "failed", "failure": failure}
        await route.fulfill(content_type="text/event-stream", body=stream_of(event, name="failed"))

    async with visiting(system.base_url, locale=locale, timezone_id="Asia/Seoul") as visit, model.held():
        await visit.page.route("**/events*", tell)
        await visit.choose(COFFEE)
        card = await visit.reaches("failed")
        await expect(card.locator(".state")).to_have_text(re.compile(f"^{words}$"))
