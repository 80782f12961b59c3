"""A photo's way over the page, from the first click to the advice, and what may come in between."""

from __future__ import annotations

import asyncio
import base64
import io
import re
import signal

import psutil
import pytest
from axe_playwright_python.async_playwright import Axe
from PIL import Image
from playwright.async_api import expect

from tests.e2e.photos import drawn, with_secrets
from tests.e2e.system import System, free_port, running_system
from tests.heic_files import phone_heic
from tests.page.conftest import COFFEE, HeldModel, HostedModel, Visit, Visiting, file, seen
from tests.processes import command, environment

PAGE_BYTES = 90_000
PUBLIC_PHOTO = re.compile(r"^http://127\.0\.0\.1:\d+/[0-9a-f-]{36}\.(jpg|png|webp)$")
WATCH_THE_STATES = """() => {
  window.states = [];
  const note = () => {
    const state = document.querySelector(".job .state")?.textContent;
    if (state && states.at(-1) !== state) states.push(state);
  };
  new MutationObserver(note).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""
KEEP_WHAT_IS_SENT = """() => {
  const send = XMLHttpRequest.prototype.send;
  XMLHttpRequest.prototype.send = function (photo) {
    const reader = new FileReader();
    reader.onload = () => (window.sent = reader.result.split(",")[1]);
    reader.readAsDataURL(photo);
    send.call(this, photo);
  };
}"""
DELIVER_A_PHOTO = """([kind, base64]) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], "photo.png", {type: "image/png"}));
  const options = {bubbles: true, cancelable: true, dataTransfer: files, clipboardData: files};
  const event = kind === "drop" ? new DragEvent(kind, options) : new ClipboardEvent(kind, options);
  document.body.dispatchEvent(event);
}"""
STORY = [
    "사진을 받았어요. 차례를 기다리고 있어요.",
    "사진을 불러오고 있어요.",
    "무엇인지 살펴보고 있어요.",
    "버리는 방법을 찾고 있어요.",
]


# --- one photo -----------------------------------------------------------------------------------


async def test_photo_passes_each_stage_and_ends_with_advice(visit: Visit) -> None:
    """Each stage's message is shown once and in order; then name, bin, steps and the photo as it is kept."""
    await visit.page.evaluate(WATCH_THE_STATES)
    await visit.choose(COFFEE)
    card = await visit.reaches("done")

    states = await visit.page.evaluate("window.states")
    assert [state for state in states if state in STORY] == STORY
    await expect(card.locator("h3")).to_have_text("머그컵")
    await expect(card.locator(".bin strong")).not_to_be_empty()
    assert await card.locator(".steps li").count() >= 2
    await expect(card.locator(".certainty")).to_have_text("확실해요")
    await expect(card.locator("img")).to_have_attribute("src", PUBLIC_PHOTO)
    await expect(card.locator("progress")).to_be_hidden()


async def test_waiting_photo_shows_preview_progress_and_stage(visit: Visit, model: HeldModel) -> None:
    """While the model looks, the photo, the bar, the message and a way out are there, also for ears."""
    async with model.held():
        await visit.choose(COFFEE)
        card = await visit.reaches("analysing")
        await expect(card.locator("img")).to_have_attribute("src", re.compile("^blob:"))
        assert 10 < int(await card.locator("progress").get_attribute("value") or 0) < 100
        await expect(card.locator(".state")).to_have_text(STORY[2])
        await expect(visit.page.locator("#live")).to_contain_text(STORY[2])
        await expect(card.get_by_role("button", name="취소")).to_be_visible()
    await visit.reaches("done")


async def test_large_photo_is_made_smaller_and_tells_no_place(visit: Visit) -> None:
    """What is uploaded of a large photo is a JPEG of at most 2,048 pixels, upright, without metadata."""
    await visit.page.evaluate(KEEP_WHAT_IS_SENT)
    await visit.choose(file(with_secrets(4000, 3000)))
    await visit.reaches("done")

    sent = base64.b64decode(await visit.page.evaluate("window.sent"))
    picture = Image.open(io.BytesIO(sent))
    assert picture.format == "JPEG"
    assert picture.size == (1536, 2048)  # it lay on its side
    assert not picture.getexif()


async def test_photo_with_a_lying_name_is_taken_for_what_it_is(visit: Visit) -> None:
    """A PNG that is called .jpg is declared as PNG."""
    await visit.choose(file(drawn("PNG")))
    await visit.reaches("done")


async def test_heic_that_the_browser_cannot_open_is_sent_as_it_is(visit: Visit) -> None:
    """The service can: the card shows its copy, upright."""
    await visit.choose(file(phone_heic(2, 2, width=900, height=800, turns=3)))
    card = await visit.reaches("done")
    await expect(card.locator("img")).to_be_visible()
    assert await card.locator("img").evaluate("image => [image.naturalWidth, image.naturalHeight]") == [
        800,
        900,
    ]


async def test_question_goes_with_the_photo(hosted: HostedModel, hosted_visit: Visit) -> None:
    """What was asked is shown with its answer, below what is to be done."""
    hosted.sees(seen("유리병", "recyclable", "glass"), answer="네, 뚜껑은 따로 버려요.")
    await hosted_visit.page.locator("#question").fill("뚜껑은 따로 버리나요?")
    await hosted_visit.choose(COFFEE)
    card = await hosted_visit.reaches("done")
    await expect(card.locator(".box")).to_contain_text("뚜껑은 따로 버리나요?")
    await expect(card.locator(".box")).to_contain_text("네, 뚜껑은 따로 버려요.")
    await expect(hosted_visit.page.locator("#question")).to_have_value("")


async def test_model_that_cannot_answer_is_asked_nothing(visit: Visit) -> None:
    """Where the embedded model looks there is no field for a question, and the answer says who gave it."""
    await expect(visit.page.locator("#question")).to_be_hidden()
    await visit.choose(COFFEE)
    card = await visit.reaches("done")
    await expect(card.locator(".advice")).to_contain_text(
        "작은 내장 모델이 답했어요. 틀릴 수 있으니 확인해 주세요."
    )


@pytest.mark.parametrize("content", [b"Dear sorting centre, this is no photo.", b""], ids=["text", "empty"])
async def test_what_is_no_photo_is_refused_in_words(visit: Visit, content: bytes) -> None:
    """A file that is no photo never leaves the browser, and the card says what to choose instead."""
    calls: list[str] = []
    visit.page.on("request", lambda request: calls.append(f"{request.method} {request.url}"))
    await visit.choose(file(content))
    card = await visit.reaches("refused")
    await expect(card.locator(".state")).to_contain_text("JPEG, PNG, WebP, HEIC 사진을 골라 주세요.")
    assert not [call for call in calls if "/api/" in call and "GET" not in call]


async def test_keyboard_alone_suffices(visit: Visit) -> None:
    """Tab leads to the button, Enter opens the choice of files, and the card can be folded with Space."""
    page = visit.page
    choosing = asyncio.create_task(page.wait_for_event("filechooser"))
    for _ in range(10):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement.id") == "choose":
            break
    await page.keyboard.press("Enter")
    await (await choosing).set_files(COFFEE)
    card = await visit.reaches("done")
    fold = card.locator(".fold")
    await expect(fold).to_have_attribute("aria-expanded", "true")
    await fold.focus()
    await page.keyboard.press("Space")
    await expect(fold).to_have_attribute("aria-expanded", "false")
    await expect(card.locator(".advice")).to_be_hidden()


async def test_dropped_and_pasted_photos_are_taken(visit: Visit) -> None:
    """Photos also come by drag and drop, and from the clipboard."""
    for event in ("drop", "paste"):
        photo = base64.b64encode(drawn("PNG")).decode()
        await visit.page.evaluate(DELIVER_A_PHOTO, [event, photo])
    await expect(visit.page.locator(".job")).to_have_count(2)
    await expect(visit.page.locator(".job[data-stage=done]")).to_have_count(2)


# --- many photos, and the page opened again ------------------------------------------------------


async def test_ten_photos_at_once_all_end_and_are_one_session(visit: Visit) -> None:
    """Ten first photos at once get their advice, and after a reload all ten are there."""
    await visit.choose(*[file(drawn("JPEG")) for _ in range(10)])
    await expect(visit.page.locator(".job[data-stage=done]")).to_have_count(10, timeout=60_000)
    await visit.page.reload()
    await expect(visit.page.locator(".job[data-stage=done]")).to_have_count(10)


async def test_unfinished_photo_is_followed_again_after_a_reload(visit: Visit, model: HeldModel) -> None:
    """A reload in mid-job loses nothing: the job is shown, followed and ends."""
    async with model.held():
        await visit.choose(COFFEE)
        await visit.reaches("analysing")
        await visit.page.reload()
        card = await visit.reaches("analysing")
        await expect(card.locator("progress")).to_be_visible()
    card = await visit.reaches("done")
    await expect(card.locator("h3")).to_have_text("머그컵")
    await expect(card.locator("img")).to_have_attribute("src", PUBLIC_PHOTO)


async def test_cancelled_photo_says_so_and_may_be_tried_again(visit: Visit, model: HeldModel) -> None:
    """Cancel ends the job on the server; the same photo can then be sent anew."""
    async with model.held():
        await visit.choose(COFFEE)
        card = await visit.reaches("analysing")
        await card.get_by_role("button", name="취소").click()
        card = await visit.reaches("cancelled")
        await expect(card.locator(".state")).to_have_text("요청대로 취소했어요.")
    jobs = await visit.page.evaluate("fetch('/api/v1/waste/jobs').then((answer) => answer.json())")
    assert [job["stage"] for job in jobs["jobs"]] == ["cancelled"]
    await visit.card.get_by_role("button", name="다시 시도").click()
    await visit.reaches("done")


async def test_deleted_photo_is_gone_and_stays_gone(visit: Visit) -> None:
    """Delete removes the card, also after a reload, and the focus does not get lost."""
    await visit.choose(COFFEE)
    card = await visit.reaches("done")
    await card.get_by_role("button", name="지우기").click()
    await expect(visit.page.locator(".job")).to_have_count(0)
    await expect(visit.page.locator("#live")).to_contain_text("지웠어요.")
    assert await visit.page.evaluate("document.activeElement !== document.body")
    await visit.page.reload()
    await expect(visit.page.locator("#how")).to_be_visible()
    await expect(visit.page.locator(".job")).to_have_count(0)


# --- when connections fail -----------------------------------------------------------------------


async def test_offline_is_told_and_the_photo_goes_out_later(visit: Visit) -> None:
    """Without network the page says so and keeps the photo; back online it uploads by itself."""
    await visit.context.set_offline(True)
    await expect(visit.page.locator("#offline")).to_contain_text("인터넷 연결이 끊겼어요.")
    await visit.choose(COFFEE)
    await expect(visit.card.locator(".state")).to_have_text("인터넷에 연결되면 바로 올릴게요.")
    await visit.context.set_offline(False)
    await visit.reaches("done")
    await expect(visit.page.locator("#offline")).to_be_hidden()
    visit.forget_lost_connections()


def gateway_of(system: System) -> psutil.Process:
    """The gateway's process among our children."""
    return next(
        child
        for child in psutil.Process().children()
        if child.cmdline()[-1:] == ["gateway"] and child.environ().get("PORT") == system.settings["PORT"]
    )


async def test_gateway_restart_in_mid_job_loses_nothing(parts: dict[str, str], visiting: Visiting) -> None:
    """The gateway goes and comes back while a job runs: the page goes on where it was, to the end."""
    model = HeldModel(parts["OPENAI_BASE_URL"])
    async with (
        model.serving() as model_url,
        running_system({**parts, "OPENAI_BASE_URL": model_url}) as system,
        visiting(system.base_url) as visit,
    ):
        await visit.page.evaluate(WATCH_THE_STATES)
        async with model.held():
            await visit.choose(COFFEE)
            await visit.reaches("analysing")
            gateway = gateway_of(system)
            gateway.send_signal(signal.SIGTERM)
            await asyncio.to_thread(gateway.wait, 30)
            await expect(visit.card.locator(".note")).to_contain_text("다시 연결하고 있어요.")
            successor = await asyncio.create_subprocess_exec(
                *command("gateway"),
                env=environment({**system.settings, "PROBE_PORT": str(free_port())}),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
        try:
            await visit.reaches("done")
            states = await visit.page.evaluate("window.states")
            assert [state for state in states if state in STORY] == STORY
            await expect(visit.card.locator(".note")).to_be_empty()
        finally:
            successor.terminate()
            await successor.wait()
        visit.forget_lost_connections()


async def test_part_that_is_away_is_told_and_the_photo_keeps_its_place(
    visit: Visit, model: HeldModel
) -> None:
    """The card says why it takes longer; nothing of that is left once the answer is there."""
    async with model.away():
        await visit.choose(COFFEE)
        await expect(visit.card.locator(".note")).to_contain_text("잠시 쉬고 있어요")
    card = await visit.reaches("done")
    await expect(card.locator(".note")).to_be_empty()


async def test_too_many_streams_fall_back_to_asking(visit: Visit, system: System, model: HeldModel) -> None:
    """When other tabs hold all of the session's streams, a photo still gets its stages and its advice."""
    async with model.held():
        tabs = [visit.page, *[await visit.context.new_page() for _ in range(2)]]
        for tab in tabs[1:]:
            await tab.goto("/")
        for tab in tabs:  # one after the other: first photos in two tabs at once would make two sessions
            await tab.locator("#picture-files").set_input_files((COFFEE, COFFEE))
            await expect(tab.locator(".job[data-stage=analysing]")).to_have_count(2)
    for tab in tabs:
        await expect(tab.locator(".job[data-stage=done]")).to_have_count(2)
    visit.errors[:] = [error for error in visit.errors if "429" not in error]


async def test_session_with_too_many_photos_waits_without_a_word(
    parts: dict[str, str], visiting: Visiting
) -> None:
    """A session that may have one unfinished photo gets the advice for three: the page waits as it is told,
    and no card says that the service does not answer."""
    async with (
        running_system(parts, MAX_UNFINISHED_PER_SESSION="1") as system,
        visiting(system.base_url) as visit,
    ):
        await visit.page.evaluate(
            """window.words = [];
               new MutationObserver(() => document.querySelectorAll(".job .state").forEach(
                 (state) => window.words.push(state.textContent))
               ).observe(document.body, {childList: true, subtree: true, characterData: true})"""
        )
        await visit.choose(COFFEE, COFFEE, COFFEE)
        await expect(visit.page.locator(".job[data-stage=done]")).to_have_count(3)
        words = await visit.page.evaluate("window.words")
        assert words
        assert "서비스의 응답을 기다리고 있어요." not in words
        visit.errors[:] = [error for error in visit.errors if "429" not in error]


# --- the page itself -----------------------------------------------------------------------------


async def test_page_is_light_and_asks_nobody_else(visiting: Visiting, system: System) -> None:
    """Everything the page loads comes from the gateway, with a strict policy, and weighs at most 90 KB."""
    async with visiting(system.base_url) as visit:
        loaded: dict[str, int] = {}
        policies = []

        async def weigh(url: str) -> None:
            answer = await visit.context.request.get(url)
            loaded[url] = len(await answer.body())
            policies.append(answer.headers["content-security-policy"])

        urls: set[str] = set()
        visit.page.on("request", lambda request: urls.add(request.url))
        await visit.page.reload()
        await visit.page.wait_for_load_state("networkidle")
        urls.add(f"{system.base_url}/manifest.webmanifest")
        for url in sorted(url for url in urls if "/api/" not in url):
            await weigh(url)

        assert all(url.startswith(system.base_url) for url in urls)
        assert {"/app.js", "/style.css"} <= {url.removeprefix(system.base_url) for url in loaded}
        assert sum(loaded.values()) <= PAGE_BYTES, loaded
        assert not [policy for policy in policies if "unsafe" in policy or "script-src 'self'" not in policy]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
async def test_accessibility_has_no_findings(
    visiting: Visiting, system: System, model: HeldModel, scheme: str, width: int
) -> None:
    """axe finds nothing wrong: with nothing there, in mid-job, and with advice and a refusal."""
    axe = Axe()
    viewport = {"width": width, "height": 844}
    async with visiting(system.base_url, color_scheme=scheme, viewport=viewport) as visit:
        findings = [await axe.run(visit.page)]
        async with model.held():
            await visit.choose(COFFEE)
            await visit.reaches("analysing")
            findings.append(await axe.run(visit.page))
        await visit.reaches("done")
        findings.append(await axe.run(visit.page))
        await visit.choose(file(b"no photo"))
        await visit.reaches("refused")
        findings.append(await axe.run(visit.page))
        assert [finding.generate_report() for finding in findings if finding.violations_count] == []
        sideways = await visit.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert sideways <= 0


async def test_language_follows_the_browser_and_can_be_switched(visiting: Visiting, system: System) -> None:
    """An English browser gets English, advice included; one click makes it Korean, also after a reload."""
    async with visiting(system.base_url, locale="en-GB") as visit:
        await expect(visit.page.locator("h1")).to_contain_text("how to bin it")
        await visit.choose(COFFEE)
        card = await visit.reaches("done")
        await expect(card.locator("h3")).to_have_text("Cup")
        await visit.page.get_by_role("button", name="한국어").click()
        await expect(visit.page.locator("h1")).to_contain_text("버리는 법")
        await visit.page.reload()
        await expect(visit.page.locator("h1")).to_contain_text("버리는 법")
        assert await visit.page.locator("html").get_attribute("lang") == "ko"


async def test_hangul_is_really_drawn(visit: Visit) -> None:
    """Two different syllables look different: neither is the box that stands for a missing letter."""
    pictures = []
    for syllable in ("컵", "뚜"):
        await visit.page.locator("h1").evaluate("(h1, text) => h1.textContent = text", syllable)
        pictures.append(await visit.page.locator("h1").screenshot())
    assert pictures[0] != pictures[1]
