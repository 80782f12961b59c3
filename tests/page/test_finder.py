"""The advice without a photo: by a thing's name."""

from __future__ import annotations

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Request, expect

from tests.e2e.system import System
from tests.page.conftest import Visit, Visiting


@pytest.mark.parametrize(
    ("locale", "name", "found"),
    [
        ("ko-KR", "종이컵", "종이컵"),
        ("ko-KR", "paper cup", "종이컵"),
        ("ko-KR", "종이겁", "종이컵"),
        ("en-GB", "paper cup", "Paper cup"),
        ("en-GB", "papper cup", "Paper cup"),
    ],
)
async def test_thing_is_found_by_name_and_told_like_a_photo(
    visiting: Visiting, system: System, locale: str, name: str, found: str
) -> None:
    """In both languages and with a slip of the finger; it leads to bin, steps and who says so."""
    async with visiting(system.base_url, locale=locale) as visit:
        await visit.finder.fill(name)
        first = visit.page.locator("#find .found button").first
        await expect(first).to_contain_text(found)
        assert await visit.page.locator("#find .found button").count() <= 5
        await first.click()
        thing = visit.page.locator("#thing")
        await expect(thing.locator("h2")).to_have_text(found)
        await expect(thing.locator("h2")).to_be_focused()
        await expect(thing.locator(".bin strong")).not_to_be_empty()
        assert await thing.locator(".steps li").count() >= 1
        await expect(thing.locator(".source")).to_contain_text("근거" if locale == "ko-KR" else "Source")
        await expect(visit.page.locator("#find .found")).to_be_hidden()


async def test_finder_works_by_keyboard_and_for_ears(visit: Visit) -> None:
    """The number of things is told, Enter takes the best, and closing leads back to the field."""
    await visit.finder.press_sequentially("종이컵")
    await expect(visit.page.locator("#find [role=status]")).to_contain_text("개 찾았어요.")
    await expect(visit.page.locator("#find .found b").first).to_have_text("종이컵")
    await visit.finder.press("Enter")
    thing = visit.page.locator("#thing")
    await expect(thing.locator("h2")).to_have_text("종이컵")
    await thing.get_by_role("button", name="닫기").click()
    await expect(thing).to_be_hidden()
    await expect(visit.finder).to_be_focused()
    await expect(visit.finder).to_have_value("")


async def test_unknown_name_is_told_what_to_do(visit: Visit) -> None:
    """A shorter or a similar name, or a photo."""
    await visit.finder.fill("쿼크글루온")
    await expect(visit.page.locator("#find [role=status]")).to_contain_text("더 짧은 이름")
    await expect(visit.page.locator("#find .found")).to_be_hidden()


async def test_only_the_last_name_is_asked_for(visit: Visit) -> None:
    """While somebody types nothing is asked; and no late answer takes the place of a newer one."""
    asked: list[str] = []

    def note(request: Request) -> None:
        if "/advice?" in request.url:
            asked.append(request.url)

    visit.page.on("request", note)
    await visit.finder.press_sequentially("paper cup", delay=20)
    await expect(visit.page.locator("#find .found button").first).to_contain_text("종이컵")
    assert len(asked) < len("paper cup")
    await visit.finder.fill("")
    await expect(visit.page.locator("#find .found")).to_be_hidden()


async def test_finder_without_network_says_so(visit: Visit) -> None:
    """In the words that the page has for it; back online it finds again."""
    await visit.context.set_offline(True)
    await visit.finder.fill("종이컵")
    await expect(visit.page.locator("#find [role=status]")).to_contain_text("서비스에 연결할 수 없어요.")
    await visit.context.set_offline(False)
    await visit.finder.fill("종이컵 ")
    await expect(visit.page.locator("#find .found button").first).to_contain_text("종이컵")
    visit.forget_lost_connections()


async def test_other_language_finds_the_same_name(visit: Visit) -> None:
    """What stands in the field is looked up again."""
    await visit.finder.fill("종이컵")
    await expect(visit.page.locator("#find .found b").first).to_have_text("종이컵")
    await visit.page.get_by_role("button", name="English").click()
    await expect(visit.page.locator("#find .found b").first).to_have_text("Paper cup")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
async def test_finder_is_accessible(visiting: Visiting, system: System, scheme: str, width: int) -> None:
    """axe finds nothing wrong with the list, with a thing, with nothing found."""
    axe = Axe()
    viewport = {"width": width, "height": 844}
    async with visiting(system.base_url, color_scheme=scheme, viewport=viewport) as visit:
        await visit.finder.fill("컵")
        await expect(visit.page.locator("#find .found button").first).to_be_visible()
        findings = [await axe.run(visit.page)]
        await visit.finder.press("Enter")
        await expect(visit.page.locator("#thing .bin")).to_be_visible()
        findings.append(await axe.run(visit.page))
        await visit.finder.fill("쿼크글루온")
        await expect(visit.page.locator("#find [role=status]")).to_be_visible()
        findings.append(await axe.run(visit.page))
        assert [finding.generate_report() for finding in findings if finding.violations_count] == []
        sideways = await visit.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert sideways <= 0
