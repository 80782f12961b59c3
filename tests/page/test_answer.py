"""What a person sees of an answer: the bin first, how sure it is, and what may be said against it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Request, expect

from tests.e2e.photos import drawn
from tests.e2e.system import System
from tests.page.conftest import COFFEE, HostedModel, Visit, Visiting, file, seen

PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
DESK: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}

GLASS = seen("유리병", "recyclable", "glass")
CAN = seen("캔", "recyclable", "metals")
EITHER = [
    {"category": "recyclable", "material": "glass"},
    {"category": "recyclable", "material": "clear_pet"},
]
# What a model says, and the button that opens what it may be instead.
DOUBTS: list[tuple[list[dict[str, Any]], dict[str, Any], str]] = [
    ([GLASS], {}, "이게 아닌가요?"),
    ([CAN | {"confidence": 0.6}], {"choices": EITHER}, "이게 아닌가요?"),
    ([CAN | {"confidence": 0.3}], {"choices": EITHER, "doubt": "far"}, "다른 거예요"),
    ([], {}, "직접 고르기"),
]

# One frame after the answer has come, and again once everything is loaded and still.
NOTE_THE_ARRIVAL = """() => {
  window.places = () => [".bin", ".steps li"].map((part) => {
    const { top, bottom } = document.querySelector(`.job ${part}`).getBoundingClientRect();
    return { top, bottom, height: innerHeight, at: top + scrollY };
  });
  window.arrival = new Promise((resolve) => {
    const look = () => {
      if (!document.querySelector(".job[data-stage=done]")) return;
      watching.disconnect();
      const moving = document.getAnimations().map(({ animationName, effect }) =>
        [animationName, effect.getTiming().duration]);
      requestAnimationFrame(() => resolve({ places: window.places(), moving }));
    };
    const watching = new MutationObserver(look);
    watching.observe(document.body, { subtree: true, attributes: true });
  });
}"""
UNTIL_STILL = """() => new Promise((resolve) => {
  let last = NaN, frames = 0;
  const look = () => {
    frames = scrollY === last ? frames + 1 : 0;
    last = scrollY;
    if (frames < 10) requestAnimationFrame(look);
    else resolve(scrollY);
  };
  look();
})"""
OPINIONS = "Object.keys(localStorage).filter((key) => key.startsWith('growbin-opinion:'))"


def until(condition: str) -> str:
    """For `evaluate`: Playwright's own waiting looks again by `eval`, which the page's policy forbids."""
    look = f"const look = () => ({condition}) ? resolve() : requestAnimationFrame(look)"
    return f"() => new Promise((resolve) => {{ {look}; look(); }})"


def verdicts_of(visit: Visit) -> list[Any]:
    """What the page tells the service about its answers, as it happens."""
    sent: list[Any] = []

    def note(request: Request) -> None:
        if request.url.endswith("/feedback"):
            sent.append(request.post_data_json)

    visit.page.on("request", note)
    return sent


def all_in_view(places: list[dict[str, float]]) -> bool:
    return all(place["top"] >= 0 and place["bottom"] <= place["height"] for place in places)


# --- the answer first ------------------------------------------------------------------------------


@pytest.mark.parametrize("locale", ["ko-KR", "en-GB"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", [PHONE, DESK], ids=["phone", "desk"])
async def test_bin_and_first_step_are_in_view_when_the_answer_arrives(
    visiting: Visiting,
    hosted: HostedModel,
    hosted_system: System,
    screen: dict[str, Any],
    scheme: str,
    locale: str,
) -> None:
    """Without a touch; and neither the photo nor anything else that loads later moves them."""
    hosted.sees(GLASS)
    async with visiting(hosted_system.base_url, locale=locale, color_scheme=scheme, **screen) as visit:
        await visit.page.evaluate(NOTE_THE_ARRIVAL)
        async with hosted.held():
            await visit.choose(COFFEE)
            await visit.reaches("analysing")
            await visit.page.evaluate(UNTIL_STILL)
        card = await visit.reaches("done")
        arrival = await visit.page.evaluate("window.arrival")
        assert all_in_view(arrival["places"])
        await expect(card.locator("img")).to_have_attribute("src", re.compile("^http"))
        await visit.page.evaluate(UNTIL_STILL)
        settled = await visit.page.evaluate("window.places()")
        assert all_in_view(settled)
        assert settled[1]["at"] == pytest.approx(arrival["places"][1]["at"], abs=1)


async def test_quick_answer_is_in_view_too(visiting: Visiting, system: System) -> None:
    """It may come while the page still scrolls to the photo."""
    async with visiting(system.base_url, **PHONE) as visit:
        await visit.page.evaluate(NOTE_THE_ARRIVAL)
        await visit.choose(COFFEE)
        await visit.reaches("done")
        assert all_in_view((await visit.page.evaluate("window.arrival"))["places"])
        await visit.page.evaluate(UNTIL_STILL)
        assert all_in_view(await visit.page.evaluate("window.places()"))


async def test_who_still_looks_at_the_photo_sees_the_answer(
    visiting: Visiting, hosted: HostedModel, hosted_system: System
) -> None:
    """A small screen, and the photo moved down on it: the card is brought up once the answer has its size."""
    hosted.sees(GLASS)
    async with visiting(hosted_system.base_url, viewport={"width": 390, "height": 420}) as visit:
        await visit.page.evaluate(NOTE_THE_ARRIVAL)
        async with hosted.held():
            await visit.choose(COFFEE)
            card = await visit.reaches("analysing")
            await visit.page.evaluate(UNTIL_STILL)
            box = await card.bounding_box()
            assert box is not None
            await visit.page.mouse.wheel(0, box["y"] - 200)
            await visit.page.evaluate(UNTIL_STILL)
        await visit.reaches("done")
        assert all_in_view((await visit.page.evaluate("window.arrival"))["places"])


async def test_who_has_scrolled_elsewhere_stays_there(
    visiting: Visiting, hosted: HostedModel, hosted_system: System
) -> None:
    """The answer waits where it is."""
    hosted.sees(GLASS)
    async with visiting(hosted_system.base_url, viewport={"width": 390, "height": 500}) as visit:
        async with hosted.held():
            await visit.choose(COFFEE)
            await visit.reaches("analysing")
            await visit.page.evaluate(UNTIL_STILL)
            await visit.page.mouse.wheel(0, -2000)
            await visit.page.evaluate(until("scrollY === 0"))
            assert await visit.page.evaluate(UNTIL_STILL) == 0
        await visit.reaches("done")
        assert await visit.page.evaluate(UNTIL_STILL) == 0


@pytest.mark.parametrize(("motion", "moves"), [("no-preference", ["arrive"]), ("reduce", [])])
async def test_bin_springs_up_unless_the_person_wants_calm(
    visiting: Visiting, hosted: HostedModel, hosted_system: System, motion: str, moves: list[str]
) -> None:
    """Its moment is short; who asked for less motion sees none at all."""
    hosted.sees(GLASS)
    async with visiting(hosted_system.base_url, reduced_motion=motion) as visit:
        await visit.page.evaluate(NOTE_THE_ARRIVAL)
        await visit.choose(COFFEE)
        await visit.reaches("done")
        moving = (await visit.page.evaluate("window.arrival"))["moving"]
        named = [(name, duration) for name, duration in moving if name]
        assert [name for name, _ in named] == moves
        assert all(duration <= 600 for _, duration in named)
        if not moves:
            assert moving == []


async def test_each_of_several_things_has_its_own_bin(hosted: HostedModel, hosted_visit: Visit) -> None:
    """The surest first, each with its name and its steps; what is a guess is called one."""
    hosted.sees(GLASS, CAN | {"confidence": 0.9}, seen("신문", "recyclable", "paper", confidence=0.3))
    await hosted_visit.choose(COFFEE)
    card = await hosted_visit.reaches("done")
    await expect(card.locator("h3")).to_have_text("유리병 외 2개")
    await expect(card.locator(".item h4")).to_have_text(["유리병", "캔", "혹시 신문인가요?"])
    await expect(card.locator(".bin strong")).to_have_count(3)
    kinds = await card.locator(".bin").evaluate_all("(bins) => bins.map((bin) => bin.dataset.kind)")
    assert kinds == ["glass", "metals", "paper"]


# --- how sure it is --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("confidence", "title", "word"),
    [
        (0.95, "Glass bottle", "Sure"),
        (0.6, "Glass bottle", "Probably"),
        (0.3, "Glass bottle?", "Not sure"),
    ],
)
async def test_certainty_is_told_in_a_word(
    visiting: Visiting, hosted: HostedModel, hosted_system: System, confidence: float, title: str, word: str
) -> None:
    """Never in percent; and a title begins as a person writes it."""
    hosted.sees(seen("glass bottle", "recyclable", "glass", confidence=confidence))
    async with visiting(hosted_system.base_url, locale="en-GB") as visit:
        await visit.choose(COFFEE)
        card = await visit.reaches("done")
        await expect(card.locator("h3")).to_have_text(title)
        await expect(card.locator(".certainty")).to_have_text(word)
        assert "%" not in await card.inner_text()


async def test_photo_of_nothing_known_shows_no_bin(hosted: HostedModel, hosted_visit: Visit) -> None:
    """It says so, says what would help, and lets the person choose."""
    hosted.sees()
    await hosted_visit.choose(COFFEE)
    card = await hosted_visit.reaches("done")
    await expect(card.locator("h3")).to_have_text("모르는 물건")
    await expect(card.locator(".doubt")).to_be_visible()
    await expect(card.locator(".bin, .certainty:visible")).to_have_count(0)
    await card.get_by_role("button", name="직접 고르기").click()
    await card.locator(".kinds").get_by_role("button", name="스티로폼").click()
    await expect(card.locator(".bin strong")).to_contain_text("스티로폼")


@pytest.mark.parametrize(("ask_back", "is_sure"), [(None, True), ("더 가까이에서 찍어 주세요.", False)])
async def test_result_of_an_earlier_version_is_read_as_today(
    visit: Visit, ask_back: str | None, is_sure: bool
) -> None:
    """It has no certainty, a text to ask back, and tells guesses that nobody should see."""
    cup = seen("컵", "non_combustible", confidence=0.9)
    pen = seen("만년필", "general", confidence=0.09)
    result = {
        "items": [cup, pen],
        "certainty": None,
        "sure": is_sure,
        "ask_back": ask_back,
        "model": "m",
        "locale": "ko",
    }
    read = await visit.page.evaluate(
        "(result) => import('/advice.js').then(({ read }) => read(result))", result
    )
    assert [item["name"] for item in read["items"]] == ["컵"]
    assert read["certainty"] == ("sure" if is_sure else "unsure")
    assert (read["doubt"] or {}).get("text") == ask_back


@pytest.mark.parametrize(
    ("rule", "more", "line"),
    [
        ({"source": "누리집", "as_of": "2026-07-02"}, {}, "근거: 누리집 (2026년 7월 2일 기준)"),
        ({"source": "일반적인 배출 방법", "as_of": None}, {}, "근거: 일반적인 배출 방법"),
        (
            {"source": "보기시", "as_of": None, "place": "보기시"},
            {"days": "목요일", "contact": "자원순환과"},
            "보기시 안내 · 내놓는 때: 목요일 · 문의: 자원순환과 · 근거: 보기시",
        ),
    ],
    ids=["source", "practice", "place"],
)
async def test_advice_says_who_says_so(
    visit: Visit, rule: dict[str, Any], more: dict[str, Any], line: str
) -> None:
    """With the day where there is one; the municipality is named for which it holds."""
    item = {**GLASS, "recyclable": True, "bin": "b", "steps": [], "cautions": [], "rule": rule, **more}
    told = await visit.page.evaluate(
        "(item) => import('/advice.js').then((page) =>"
        " page.advised(item, 'ko').querySelector('.source').textContent)",
        item,
    )
    assert told == line


# --- the person knows better -----------------------------------------------------------------------


async def test_doubt_is_settled_by_the_person(hosted: HostedModel, hosted_visit: Visit) -> None:
    """One tap leads to the advice, marked as their own choice; it is told once, lasts over a reload, can be
    taken back, and goes with the job."""
    visit = hosted_visit
    verdicts = verdicts_of(visit)
    hosted.sees(CAN | {"confidence": 0.3}, doubt="dark", choices=EITHER)
    await visit.choose(COFFEE)
    card = await visit.reaches("done")
    await expect(card.locator("h3")).to_have_text("혹시 캔인가요?")
    await expect(card.locator(".doubt p").first).to_contain_text("어두워요")
    chips = card.locator(".chips button")
    await expect(chips).to_have_count(2)
    for box in [await chip.bounding_box() for chip in await chips.all()]:
        assert box is not None
        assert min(box["width"], box["height"]) >= 44

    await chips.filter(has_text="유리병").click()
    await expect(card.locator(".chosen")).to_contain_text("직접 고르셨어요: 유리병")
    await expect(card.locator(".bin strong")).to_have_text("유리병 수거함")
    await expect(card.locator(".bin")).to_have_count(1)
    await expect(visit.page.locator("#live")).to_contain_text("유리병 수거함")
    assert verdicts == [{"right": False, "category": "recyclable", "material": "glass"}]

    await visit.page.reload()
    await expect(card.locator("h3")).to_have_text("유리병")
    await expect(card.locator(".state")).to_have_text("유리병 수거함")
    await card.locator(".fold").click()
    await card.get_by_role("button", name="처음 답 보기").click()
    await expect(card.locator("h3")).to_have_text("혹시 캔인가요?")
    await chips.first.click()
    await expect(card.locator(".chosen")).to_be_visible()
    assert len(verdicts) == 1

    assert len(await visit.page.evaluate(OPINIONS)) == 1
    await card.get_by_role("button", name="지우기").click()
    await expect(visit.page.locator(".job")).to_have_count(0)
    assert await visit.page.evaluate(OPINIONS) == []


async def test_sure_answer_may_be_wrong(hosted: HostedModel, hosted_visit: Visit) -> None:
    """Under it every kind can be chosen, and anything that has a name."""
    verdicts = verdicts_of(hosted_visit)
    hosted.sees(GLASS)
    await hosted_visit.choose(COFFEE)
    card = await hosted_visit.reaches("done")
    opener = card.get_by_role("button", name="이게 아닌가요?")
    await expect(opener).to_have_attribute("aria-expanded", "false")
    await opener.click()
    await expect(card.locator(".kinds button")).to_have_count(18)
    await card.locator(".kinds").get_by_role("button", name="캔·고철").click()
    await expect(card.locator(".chosen")).to_contain_text("직접 고르셨어요:")
    await expect(card.locator(".bin")).to_have_attribute("data-kind", "metals")
    assert verdicts == [{"right": False, "category": "recyclable", "material": "metals"}]

    await card.get_by_role("button", name="처음 답 보기").click()
    await opener.click()
    await card.locator(".by-name input").fill("종이컵")
    await card.locator(".found button").first.click()
    await expect(card.locator(".chosen")).to_contain_text("직접 고르셨어요: 종이컵")
    await hosted_visit.page.reload()
    await expect(card.locator("h3")).to_have_text("종이컵")
    assert len(verdicts) == 1


async def test_right_answer_may_be_called_right(hosted: HostedModel, hosted_visit: Visit) -> None:
    """Once: after that the person is thanked, also after a reload."""
    verdicts = verdicts_of(hosted_visit)
    hosted.sees(GLASS)
    await hosted_visit.choose(COFFEE)
    card = await hosted_visit.reaches("done")
    await card.get_by_role("button", name="맞아요").click()
    await expect(card.get_by_text("알려 주셔서 고마워요.")).to_be_visible()
    await hosted_visit.page.reload()
    await card.locator(".fold").click()
    await expect(card.get_by_text("알려 주셔서 고마워요.")).to_be_visible()
    await expect(card.get_by_role("button", name="맞아요")).to_have_count(0)
    assert verdicts == [{"right": True}]


async def test_verdict_that_does_not_arrive_disturbs_nobody(hosted: HostedModel, hosted_visit: Visit) -> None:
    """The person is thanked all the same."""
    hosted.sees(GLASS)
    await hosted_visit.choose(COFFEE)
    card = await hosted_visit.reaches("done")
    await hosted_visit.context.set_offline(True)
    await card.get_by_role("button", name="맞아요").click()
    await expect(card.get_by_text("알려 주셔서 고마워요.")).to_be_visible()
    await expect(card.locator(".note")).to_be_empty()
    await hosted_visit.context.set_offline(False)
    hosted_visit.forget_lost_connections()


async def test_what_was_said_of_a_job_that_is_gone_is_forgotten(visit: Visit) -> None:
    """The list of jobs tells which are still there."""
    said = "JSON.stringify({ isTold: true, choice: null, at: Date.now() })"
    await visit.page.evaluate(f"localStorage.setItem('growbin-opinion:gone', {said})")
    await visit.page.reload()
    await visit.page.evaluate(until(f"{OPINIONS}.length === 0"))


# --- for everybody ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", [PHONE, DESK], ids=["phone", "desk"])
async def test_doubt_and_choices_are_accessible(
    visiting: Visiting, hosted: HostedModel, hosted_system: System, screen: dict[str, Any], scheme: str
) -> None:
    """axe finds nothing wrong with a doubt, with the choices open, with a choice made, with nothing known."""
    axe = Axe()
    findings = []
    options = {**screen, "color_scheme": scheme, "reduced_motion": "reduce"}
    async with visiting(hosted_system.base_url, **options) as visit:
        for items, more, opener in DOUBTS:
            hosted.sees(*items, **more)
            await visit.choose(file(drawn("JPEG")))  # the same photo would have the same answer
            card = await visit.reaches("done")
            findings.append(await axe.run(visit.page))
            await card.get_by_role("button", name=opener).click()
            await card.locator(".by-name input").fill("컵")
            await expect(card.locator(".found button").first).to_be_visible()
            findings.append(await axe.run(visit.page))
            sideways = await visit.page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert sideways <= 0
        await visit.card.locator(".kinds button").first.click()
        await expect(visit.card.locator(".chosen")).to_be_visible()
        findings.append(await axe.run(visit.page))
    assert [finding.generate_report() for finding in findings if finding.violations_count] == []


async def test_doubt_can_be_settled_by_keyboard(hosted: HostedModel, hosted_visit: Visit) -> None:
    """The choices are buttons like any other, and the focus stays in the card."""
    hosted.sees(CAN | {"confidence": 0.3}, choices=EITHER)
    await hosted_visit.choose(COFFEE)
    card = await hosted_visit.reaches("done")
    await card.locator(".chips button").first.focus()
    await hosted_visit.page.keyboard.press("Enter")
    await expect(card.locator(".chosen")).to_be_visible()
    assert await card.evaluate("(card) => card.contains(document.activeElement)")
