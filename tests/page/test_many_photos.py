"""Many photos at once, and what a reload leaves of them."""

from __future__ import annotations

import asyncio
import io

from PIL import Image
from playwright.async_api import FilePayload, Locator, Route, expect

from tests.e2e.photos import drawn
from tests.e2e.system import System
from tests.page.conftest import COFFEE, HeldModel, Visit, Visiting, file

MANY = 45
UNTIL_DRAWN = """image => new Promise((resolve) => {
  const look = () => image.complete && image.naturalWidth > 0 ? resolve() : requestAnimationFrame(look);
  look();
})"""
WARNS = """() => {
  const leaving = new Event("beforeunload", {cancelable: true});
  dispatchEvent(leaving);
  return leaving.defaultPrevented;
}"""
KEEP_WHAT_IS_SHARED = """
  navigator.canShare = () => true;
  window.shared = new Promise((resolve) => {
    navigator.share = async ({title, text, files}) => {
      const picture = await createImageBitmap(files[0]);
      resolve({title, text, type: files[0].type, width: picture.width, height: picture.height});
    };
  });
"""


def photos(count: int) -> list[FilePayload]:
    return [file(drawn("JPEG")) for _ in range(count)]


async def titles(visit: Visit) -> list[str]:
    return await visit.page.locator(".job h3").all_text_contents()


async def wait_for_thumbnails(cards: Locator) -> None:
    for image in await cards.locator(".photo img").all():
        await image.scroll_into_view_if_needed()
        await image.evaluate(UNTIL_DRAWN)


async def test_forty_five_photos_survive_a_reload_and_all_end(visit: Visit, model: HeldModel) -> None:
    """In the order in which they were chosen, under their numbers and with their thumbnails; nobody reads of
    limits."""
    numbered = [f"사진 {number}" for number in range(1, MANY + 1)]
    async with model.held():
        await visit.choose(*photos(MANY))
        await expect(visit.page.locator(".job[data-stage=analysing]")).not_to_have_count(0)
        assert await titles(visit) == numbered
        await visit.page.reload()
        await expect(visit.page.locator(".job")).to_have_count(MANY)
        assert await titles(visit) == numbered
        await wait_for_thumbnails(visit.page.locator(".job"))
        await expect(visit.page.locator("#batch-told")).to_have_text(f"{MANY}장 중 0장 끝났어요")
    await expect(visit.page.locator(".job[data-stage=done]")).to_have_count(MANY, timeout=90_000)
    await expect(visit.page.locator("#batch")).to_be_hidden()
    said = await visit.page.locator("#jobs").inner_text()
    assert "429" not in said
    expected = ("412", "429")  # it was uploaded just before the reload; it was not yet its turn
    visit.errors[:] = [error for error in visit.errors if not any(code in error for code in expected)]


async def test_newest_batch_is_on_top_and_keeps_its_order(visit: Visit) -> None:
    """What was chosen first is first in its batch, before as after a reload."""
    await visit.choose(*photos(2))
    await expect(visit.page.locator(".job[data-stage=done]")).to_have_count(2)
    await visit.choose(file(b"no photo"), file(b"nor this"))
    await visit.choose(*photos(1))
    await expect(visit.page.locator(".job[data-stage=done]")).to_have_count(3)
    stages = [await card.get_attribute("data-stage") for card in await visit.page.locator(".job").all()]
    assert stages == ["done", "refused", "refused", "done", "done"]


async def test_all_that_wait_are_cancelled_by_one_button(visit: Visit, model: HeldModel) -> None:
    """The heading counts, and says how to be rid of them; a single photo has its own button."""
    batch = visit.page.locator("#batch")
    async with model.held():
        await visit.choose(COFFEE)
        await visit.reaches("analysing")
        await expect(batch).to_be_hidden()
        await visit.choose(*photos(6))
        await expect(batch).to_contain_text("7장 중 0장 끝났어요")
        await visit.page.get_by_role("button", name="모두 취소").click()
        await expect(visit.page.locator(".job[data-stage=cancelled]")).to_have_count(7)
        await expect(batch).to_be_hidden()


async def test_photo_that_was_not_uploaded_goes_out_after_a_reload(visit: Visit) -> None:
    """It was chosen, and the network was slow: it needs not be chosen again."""
    await visit.page.route("**/incoming/**", lambda route: route.abort())
    await visit.choose(*photos(5))
    await visit.page.locator(".job[data-stage=awaiting_upload]").nth(2).wait_for()
    await visit.page.unroute("**/incoming/**")
    await visit.page.reload()
    await expect(visit.page.locator(".job[data-stage=done]")).to_have_count(5)
    await expect(visit.page.locator(".job")).to_have_count(5)
    visit.forget_lost_connections()
    visit.errors[:] = [error for error in visit.errors if "412" not in error]  # it may be there already


async def test_cancelled_photo_may_be_tried_again_after_a_reload(visit: Visit, model: HeldModel) -> None:
    """Its file is still there."""
    async with model.held():
        await visit.choose(COFFEE)
        await visit.reaches("analysing")
        await visit.card.get_by_role("button", name="취소").click()
        await visit.reaches("cancelled")
    await visit.page.reload()
    card = await visit.reaches("cancelled")
    await card.get_by_role("button", name="다시 시도").click()
    await visit.reaches("done")


async def test_deleted_photo_leaves_nothing_in_the_browser(visit: Visit) -> None:
    """Neither its file nor its number."""
    await visit.choose(COFFEE)
    card = await visit.reaches("done")
    await card.get_by_role("button", name="지우기").click()
    await expect(visit.page.locator(".job")).to_have_count(0)
    kept = await visit.page.evaluate("import('/kept.js').then(({keptPhotos}) => keptPhotos())")
    assert kept == []


async def test_browser_that_keeps_nothing_warns_before_it_is_left(visiting: Visiting, system: System) -> None:
    """Only while something is not yet uploaded."""
    async with visiting(system.base_url) as visit:
        await visit.page.add_init_script("Object.defineProperty(window, 'indexedDB', {value: undefined})")
        await visit.page.reload()
        assert not await visit.page.evaluate(WARNS)
        goes_on = asyncio.Event()

        async def hold(route: Route) -> None:
            await goes_on.wait()
            await route.continue_()

        await visit.page.route("**/incoming/**", hold)
        await visit.choose(COFFEE)
        await visit.reaches("awaiting_upload")
        assert await visit.page.evaluate(WARNS)
        goes_on.set()
        await visit.reaches("done")
        assert not await visit.page.evaluate(WARNS)


async def test_language_switch_tells_results_anew(visit: Visit) -> None:
    """Bin and steps come from the rules, in either language, and back."""
    await visit.choose(COFFEE)
    card = await visit.reaches("done")
    korean = await card.locator(".bin strong").inner_text()
    await visit.page.get_by_role("button", name="English").click()
    await expect(card.locator(".bin strong")).to_contain_text("sack")
    await expect(card.locator(".steps li").first).to_contain_text("Buy")
    await visit.page.get_by_role("button", name="한국어").click()
    await expect(card.locator(".bin strong")).to_have_text(korean)


async def test_advice_is_shared_as_words_and_as_a_picture(visiting: Visiting, system: System) -> None:
    """Through the system's own sheet."""
    async with visiting(system.base_url, locale="en-GB") as visit:
        await visit.page.add_init_script(KEEP_WHAT_IS_SHARED)
        await visit.page.reload()
        await visit.choose(COFFEE)
        card = await visit.reaches("done")
        await card.get_by_role("button", name="Share").click()
        shared = await visit.page.evaluate("window.shared")
        assert shared["title"] == f"Cup → {await card.locator('.bin strong').inner_text()}"
        assert "1. Buy" in shared["text"]
        assert shared["type"] == "image/png"
        assert shared["width"] == 1080
        assert shared["height"] > 400


async def test_icons_are_pictures_of_their_size(visit: Visit) -> None:
    """Phones that draw no SVG on their home screens get PNG."""
    manifest = await (await visit.context.request.get("/manifest.webmanifest")).json()
    drawn_icons = [icon for icon in manifest["icons"] if icon["type"] == "image/png"]
    assert {icon.get("purpose", "any") for icon in drawn_icons} == {"any", "maskable"}
    for icon in drawn_icons:
        answer = await visit.context.request.get(icon["src"])
        picture = Image.open(io.BytesIO(await answer.body()))
        assert "x".join(map(str, picture.size)) == icon["sizes"]
