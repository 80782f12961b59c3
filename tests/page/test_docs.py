"""`/docs` as a developer sees it in a browser."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import expect

from tests.e2e.system import System
from tests.page.conftest import COFFEE, HeldModel, Visiting

IDS = re.compile(r"^id: (.+?)\r?$", re.MULTILINE)
UNFOLD = "document.querySelectorAll('details').forEach((each) => (each.open = true))"
EVENTS = re.compile(r"^event: (\w+)", re.MULTILINE)


async def test_panel_shows_raw_events_over_a_cut_and_a_resume(
    visiting: Visiting, system: System, model: HeldModel
) -> None:
    """Every id once, whatever was cut."""
    async with visiting(system.base_url) as visit:
        page = visit.page
        await page.goto("/docs")
        async with model.held():
            await page.locator("#photo").set_input_files(COFFEE)
            await expect(page.locator("#raw")).to_contain_text('"stage":"analysing"')
            await page.get_by_role("button", name="Cut the stream").click()
            await expect(page.locator("#said")).to_contain_text("Cut. The last id that was seen:")
        await page.get_by_role("button", name="Resume").click()
        await expect(page.locator("#raw")).to_contain_text("event: done")
        await expect(page.locator("#said")).to_contain_text("The stream has ended")
        raw = await page.locator("#raw").inner_text()
        assert EVENTS.findall(raw) == ["progress"] * 5 + ["done"]
        assert len(set(IDS.findall(raw))) == 6


async def test_examples_name_the_address_of_the_page(visiting: Visiting, system: System) -> None:
    """What is copied works where it was read."""
    async with visiting(system.base_url) as visit:
        await visit.page.goto("/docs")
        code = await visit.page.locator("#story code").first.inner_text()
        assert "127.0.0.1:8080" not in code
    assert system.base_url.rpartition("/")[2] not in ("", "127.0.0.1:8080")


@pytest.mark.parametrize("width", [390, 1280])
async def test_button_to_copy_stands_beside_its_code(visiting: Visiting, system: System, width: int) -> None:
    """However long the lines are, none runs under it."""
    async with visiting(system.base_url, viewport={"width": width, "height": 844}) as visit:
        await visit.page.goto("/docs")
        await visit.page.evaluate(UNFOLD)
        for frame in await visit.page.locator(".copied").all():
            button = await frame.locator("button").bounding_box()
            code = await frame.locator("pre").bounding_box()
            assert button
            assert code
            assert button["y"] + button["height"] <= code["y"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
async def test_docs_are_accessible(visiting: Visiting, system: System, scheme: str, width: int) -> None:
    """axe finds nothing, with everything unfolded; on a phone nothing sticks out."""
    viewport = {"width": width, "height": 844}
    async with visiting(system.base_url, color_scheme=scheme, viewport=viewport) as visit:
        await visit.page.goto("/docs")
        await visit.page.evaluate(UNFOLD)
        findings = await Axe().run(visit.page)
        assert findings.violations_count == 0, findings.generate_report()
        assert await visit.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
