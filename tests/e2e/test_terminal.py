"""`growbin analyze`, as somebody in a terminal sees it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.e2e.photos import COFFEE_CUP, drawn
from tests.e2e.system import System, free_port, running_system
from tests.heic_files import phone_heic
from tests.loopback import served
from tests.processes import command, environment

LONGEST_RUN_SECONDS = 60
PERCENTS = re.compile(r" (\d+) %")
# The second as another version might write it.
NOTICES = b"""event: notice
data: {"part": "model", "message": "It takes longer."}

event: notice
data: {"part": "model"}

event: notice
data: {"part": "queue", "message": "9.", "position": 9, "wait_seconds": 70}

event: notice
data: {"part": "queue", "message": "8.", "position": 8}

"""


@dataclass(frozen=True)
class Ended:
    """What a finished command said, and its exit status."""

    status: int
    said: str
    progress: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.said.splitlines()]


async def begin(server: str, *arguments: str | Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command("analyze", "--server", server, *map(str, arguments)),
        env=environment({"LC_ALL": "C.UTF-8"}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def analyze(server: str, *arguments: str | Path) -> Ended:
    """Run the command to its end."""
    process = await begin(server, *arguments)
    async with asyncio.timeout(LONGEST_RUN_SECONDS):
        said, progress = await process.communicate()
    assert b"Traceback" not in progress, progress.decode()
    assert process.returncode is not None
    return Ended(process.returncode, said.decode(), progress.decode())


def many_photos(folder: Path, count: int) -> list[Path]:
    photos = [folder / f"photo-{number}.jpg" for number in range(count)]
    for photo in photos:
        photo.write_bytes(drawn("JPEG"))
    return photos


class Relay:
    """Stands between the terminal and the gateway: sees the session's token, and may cut streams, with a
    notice as the last thing said."""

    def __init__(self, upstream: str, cut_after_events: int | None = None) -> None:
        self._upstream = upstream
        self._cut_after_events = cut_after_events
        self.authorization = ""
        self.last_ids: list[str | None] = []  # of each stream that was asked for

    async def forward(self, request: web.BaseRequest) -> web.StreamResponse:
        self.authorization = request.headers.get("Authorization", self.authorization)
        url = self._upstream + request.path_qs
        headers = {name: value for name, value in request.headers.items() if name != "Host"}
        async with (
            aiohttp.ClientSession() as http,
            http.request(request.method, url, data=await request.read(), headers=headers) as answer,
        ):
            if not request.path.endswith("/events"):
                body = await answer.read()
                return web.Response(body=body, status=answer.status, content_type=answer.content_type)
            self.last_ids.append(request.headers.get("Last-Event-ID"))
            stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await stream.prepare(request)
            async for line in answer.content:
                await stream.write(line)
                if line.startswith(b"data:") and len(self.last_ids) == 1 and self._cut_after_events:
                    self._cut_after_events -= 1
                    if not self._cut_after_events:
                        await stream.write(b"\n\n" + NOTICES)
                        break
            return stream


@asynccontextmanager
async def silent_model(has_ended: asyncio.Event) -> AsyncIterator[str]:
    """A model server that takes every question and answers none before the test has ended."""

    async def think(_request: web.Request) -> web.Response:
        await has_ended.wait()
        return web.Response(status=503)

    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", think)
    async with served(app) as url:
        yield f"{url}/v1"


async def test_ten_photos_end_in_a_table(system: System, tmp_path: Path) -> None:
    """Each photo's percentages only grow, each has its row, and the exit status is 0."""
    photos = many_photos(tmp_path, 10)
    ended = await analyze(system.base_url, *photos)
    assert ended.status == 0, ended
    for photo in photos:
        lines = [line for line in ended.progress.splitlines() if photo.name in line]
        percents = [int(found[1]) for line in lines if (found := PERCENTS.search(line))]
        assert percents == sorted(percents)
        assert percents[-1] == 100
        assert photo.name in ended.said
    assert "PHOTO" in ended.said
    assert "1. " in ended.said


async def test_heic_from_a_phone_is_analysed(system: System, tmp_path: Path) -> None:
    """The terminal sends it as it is; another file is refused in a sentence before it is sent."""
    photo, film = tmp_path / "IMG_0001.HEIC", tmp_path / "film.heic"
    photo.write_bytes(phone_heic(2, 2, width=900, height=800, turns=3))
    film.write_bytes(b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(100))
    ended = await analyze(system.base_url, "--json", photo, film)
    by_photo = {item["photo"]: item for item in ended.objects}
    assert by_photo[str(photo)]["stage"] == "done"
    assert "JPEG, PNG, WebP or HEIC" in by_photo[str(film)]["failure"]["detail"]


async def test_language_is_chosen(system: System) -> None:
    """`--locale` decides the language of progress and advice."""
    korean = await analyze(system.base_url, COFFEE_CUP, "--locale", "ko")
    english = await analyze(system.base_url, COFFEE_CUP, "--locale", "en")
    assert "무엇인지 살펴보고 있어요." in korean.progress
    assert "컵" in korean.said
    assert "Looking at what it is." in english.progress
    assert "cup" in english.said


@pytest.mark.parametrize("terminal", ["C", "C.UTF-8"])
async def test_terminal_without_a_language_is_told_in_english(system: System, terminal: str) -> None:
    """As in a container: whoever reads it there did not ask for Korean."""
    process = await asyncio.create_subprocess_exec(
        *command("analyze", "--server", system.base_url, "--json", str(COFFEE_CUP)),
        env=environment({"LC_ALL": terminal}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(LONGEST_RUN_SECONDS):
        said, _ = await process.communicate()
    assert json.loads(said)["result"]["locale"] == "en"


async def test_json_is_an_object_a_line(system: System, tmp_path: Path) -> None:
    """Results and refusals alike are objects that name their file; one refusal makes the status 1."""
    note = tmp_path / "note.jpg"
    note.write_text("Dear sorting centre, this is no photo.")
    ended = await analyze(
        system.base_url, "--json", "--question", "Cap?", COFFEE_CUP, note, tmp_path / "gone.jpg"
    )
    assert ended.status == 1
    by_photo = {item["photo"]: item for item in ended.objects}
    assert by_photo[str(COFFEE_CUP)]["stage"] == "done"
    assert by_photo[str(COFFEE_CUP)]["result"]["items"][0]["steps"]
    assert by_photo[str(note)]["failure"]["code"] == "unsupported_photo"
    assert by_photo[str(tmp_path / "gone.jpg")]["failure"]["code"] == "unreadable_file"
    assert ended.progress == ""


async def test_failed_job_is_told_and_makes_the_status_1(system: System, tmp_path: Path) -> None:
    """A photo that looks like one at the door and breaks off later ends with the service's sentence."""
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(drawn("JPEG", 1200, 900)[:2000])
    ended = await analyze(system.base_url, "--json", broken)
    [outcome] = ended.objects
    assert (ended.status, outcome["stage"]) == (1, "failed")
    assert outcome["failure"]["detail"]


async def test_terminal_shows_a_bar_for_each_photo(system: System, tmp_path: Path) -> None:
    """On a terminal each photo has a bar, and the bars are redrawn in place."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *command("analyze", "--server", system.base_url, *map(str, many_photos(tmp_path, 3))),
        env=environment({"LC_ALL": "C.UTF-8", "TERM": "xterm"}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    drawing = b""
    while chunk := await asyncio.to_thread(read_terminal, ours):
        drawing += chunk
    os.close(ours)
    assert await process.wait() == 0
    frames = drawing.decode().split("\x1b[J")
    assert any(frame.count("━") > 0 for frame in frames)
    bars = [line for line in drawing.decode().splitlines() if " s  " in line]  # each with its seconds
    assert all(any(f"photo-{number}.jpg" in bar for bar in bars) for number in range(3))
    assert drawing.decode().count("✓") + drawing.decode().count("?") == 3


def read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux' way to say that the other side has closed it
        return b""


async def test_broken_stream_goes_on_where_it_was(system: System) -> None:
    """A stream that is cut is taken up with its last id: no stage twice, none lost. A notice, which has no
    id and tells of no stage, is shown and changes nothing of it."""
    relay = Relay(system.base_url, cut_after_events=2)
    async with served(relay.forward) as server:
        ended = await analyze(server, COFFEE_CUP, "--locale", "en")
    assert ended.status == 0, ended
    assert len(relay.last_ids) == 2
    assert relay.last_ids[1]
    percents = [int(found) for found in PERCENTS.findall(ended.progress)]
    assert percents == [0, 10, 10, 10, 10, 25, 45, 90, 100]
    assert ended.progress.count("It takes longer.") == 1
    assert "9th in line, about 70 s." in ended.progress
    assert "8th in line." in ended.progress


async def test_interrupt_leaves_no_job_running(parts: dict[str, str], tmp_path: Path) -> None:
    """Ctrl-C ends the command with status 130, and every job that it began is cancelled."""
    has_ended = asyncio.Event()
    async with (
        silent_model(has_ended) as model_url,
        running_system({**parts, "OPENAI_BASE_URL": model_url}) as system,
    ):
        relay = Relay(system.base_url)
        async with served(relay.forward) as server:
            process = await begin(server, *many_photos(tmp_path, 6))
            assert process.stderr is not None
            waiting = 0
            while waiting < 4:
                line = await asyncio.wait_for(process.stderr.readline(), LONGEST_RUN_SECONDS)
                assert line, "it ended by itself"
                waiting += b" 45 %" in line
            process.send_signal(signal.SIGINT)
            said, progress = await asyncio.wait_for(process.communicate(), 10)
        assert process.returncode == 130
        assert said == b""
        assert progress.decode().endswith("Cancelled.\n")

        headers = {"Authorization": relay.authorization}
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{system.base_url}/api/v1/waste/jobs", headers=headers) as answer,
        ):
            jobs = (await answer.json())["jobs"]
        has_ended.set()
        assert [job["stage"] for job in jobs] == ["cancelled"] * 4


async def test_large_photo_is_made_smaller(system: System, tmp_path: Path) -> None:
    """As on the page: less to send, and nothing of it is lost to the model."""
    large = tmp_path / "large.jpg"
    large.write_bytes(drawn("JPEG", 4000, 3000))
    ended = await analyze(system.base_url, "--json", large)
    [outcome] = ended.objects
    assert ended.status == 0, ended
    assert outcome["result"]["photo"]["bytes"] < large.stat().st_size


async def test_photos_without_a_result_make_no_table(system: System, tmp_path: Path) -> None:
    """Each has its sentence among the progress; the output for results stays empty."""
    ended = await analyze(system.base_url, tmp_path / "gone.jpg")
    assert ended.status == 1
    assert ended.said == ""
    assert "gone.jpg: The file cannot be read: No such file or directory." in ended.progress


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            web.Response(status=405, headers={"Server": "other/1.0"}),
            "other/1.0 answered 405 Method Not Allowed.",
        ),
        (web.Response(text="<html>", content_type="text/html"), "answered no JSON."),
        (web.json_response({"hello": "world"}), "is no growbin."),
    ],
)
async def test_stranger_at_the_address_is_named(answer: web.Response, words: str) -> None:
    """Another program listens where growbin was expected: the sentence says who, and what to do."""

    async def say(_request: web.Request) -> web.Response:
        return answer

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", say)
    async with served(app) as url:
        ended = await analyze(url, COFFEE_CUP)
    assert ended.status == 1
    assert len(ended.progress.strip().splitlines()) == 1
    assert words in ended.progress
    assert url in ended.progress


async def test_terminal_waits_for_its_turn(parts: dict[str, str], tmp_path: Path) -> None:
    """A session that may have one unfinished photo, and few tickets, gets the advice for all four."""
    async with running_system(
        parts, MAX_UNFINISHED_PER_SESSION="1", SESSION_TICKETS_PER_MINUTE="3"
    ) as system:
        ended = await analyze(system.base_url, *many_photos(tmp_path, 4))
    assert ended.status == 0, ended
    assert "429" not in ended.progress


async def test_absent_service_is_told_in_a_sentence() -> None:
    """Where nobody listens, one sentence says so and what to do."""
    ended = await analyze(f"http://127.0.0.1:{free_port()}", COFFEE_CUP)
    assert ended.status == 1
    assert len(ended.progress.strip().splitlines()) == 1
    assert "--server" in ended.progress
    assert "Connection refused" in ended.progress
