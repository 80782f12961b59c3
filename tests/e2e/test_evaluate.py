"""`growbin evaluate`, as somebody in a terminal sees it, against model servers that answer by colour."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web
from PIL import Image

from tests.loopback import served
from tests.processes import command, environment

LONGEST_RUN_SECONDS = 90
INPUT_TOKENS, OUTPUT_TOKENS = 100, 10
BROKEN = b"\xff\xd8\xff and then nothing"

# Photos by name: the red of the picture, which stands for what is in it.
PHOTOS = {
    "cardboard/c.jpg": 20,
    "glass/a.png": 60,
    "glass/b.jpg": 100,
    "metal/e.jpg": 140,
    "trash/d.webp": 180,
}
ANSWERS: dict[int, tuple[str, str | None, float] | None] = {
    20: ("recyclable", "paper", 0.8),
    60: ("recyclable", "glass", 0.9),
    100: ("recyclable", "clear_pet", 0.85),
    140: None,  # refused
    180: ("general", None, 0.2),
}
EXPECTED = {"accuracy": 0.5, "right_when_sure": 2 / 3, "share_sure": 0.5, "calibration_error": 0.3875}


def folder_of_photos(folder: Path) -> Path:
    """Five pictures, a broken one, and what is no photo."""
    for name, red in PHOTOS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 60), (red, 90, 90)).save(folder / name)
    (folder / "metal" / "broken.jpg").write_bytes(BROKEN)
    (folder / "metal" / "notes.txt").write_text("no photo")
    (folder / "README.md").write_text("no label")
    return folder


Before = Callable[[], Awaitable[web.Response | None]]


@dataclass
class Model:
    """Answers by the red of the picture; `before` each call may answer otherwise, or wait."""

    answers: Mapping[int, tuple[str, str | None, float] | None] = field(default_factory=lambda: ANSWERS)
    before: Before | None = None
    calls: int = 0
    name: str = "scripted"
    url: str = ""

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Model]:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/chat/completions", self._complete)
        async with served(app) as url:
            self.url = f"{url}/v1"
            yield self

    async def _complete(self, request: web.Request) -> web.Response:
        self.calls += 1
        body = await request.json()
        if self.before and (other := await self.before()):
            return other
        [part] = [part for part in body["messages"][-1]["content"] if part["type"] == "image_url"]
        picture = Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2])))
        pixel = picture.convert("RGB").getpixel((40, 30))
        assert isinstance(pixel, tuple)
        answer = self.answers[min(self.answers, key=lambda red: abs(red - pixel[0]))]
        item = answer and dict(zip(("category", "material", "confidence"), answer, strict=True))
        text = json.dumps({"items": [{"name": "thing", "condition": [], **(item or {})}], "answer": None})
        message = {"role": "assistant", "content": item and text, "refusal": None if item else "No."}
        usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS, "total_tokens": 110}
        return web.json_response(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1_700_000_000,
                "model": self.name,
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": usage,
            }
        )


def refused(status: int, code: str) -> web.Response:
    error = {"message": "No, sk-secret-key.", "type": "invalid_request_error", "param": None, "code": code}
    return web.json_response({"error": error}, status=status)


async def begin(
    model: Model | None, folder: Path, *arguments: str | Path, sure_threshold: str = ""
) -> asyncio.subprocess.Process:
    settings = {"LC_ALL": "C.UTF-8", "SURE_THRESHOLD": sure_threshold}
    if model:
        settings |= {
            "OPENAI_BASE_URL": model.url,
            "OPENAI_API_KEY": "sk-secret-key",
            "OPENAI_MODEL": model.name,
        }
    return await asyncio.create_subprocess_exec(
        *command("evaluate", *map(str, arguments)),
        cwd=folder,
        env=environment(settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def evaluate(
    model: Model | None, folder: Path, *arguments: str | Path, status: int = 0, sure_threshold: str = ""
) -> tuple[str, str]:
    """Run the command inside `folder` to its end: standard output and standard error."""
    process = await begin(model, folder, *arguments, sure_threshold=sure_threshold)
    async with asyncio.timeout(LONGEST_RUN_SECONDS):
        said, complained = (text.decode() for text in await process.communicate())
    assert "Traceback" not in complained, complained
    assert "sk-secret-key" not in said + complained
    assert process.returncode == status, complained
    return said, complained


async def report_of(model: Model | None, folder: Path, *arguments: str | Path) -> dict[str, Any]:
    said, _ = await evaluate(model, folder, *arguments, "--json")
    report = json.loads(said)
    assert isinstance(report, dict)
    return report


def lines_of(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()]


async def test_answers_become_exact_figures_and_are_asked_for_once(tmp_path: Path) -> None:
    """Every figure is that of the script; a second run gives the same and asks nothing."""
    folder_of_photos(tmp_path / "photos")
    async with Model().serving() as model:
        report = await report_of(model, tmp_path, "photos", "--results", "r.jsonl")
        assert model.calls == 5  # the broken photo never reaches the model
        assert await report_of(model, tmp_path, "photos", "--results", "r.jsonl") == report
        assert model.calls == 5
    assert {name: report[name] for name in EXPECTED} == pytest.approx(EXPECTED)
    assert report["accuracy_interval"] == pytest.approx([0.1876, 0.8124], abs=1e-4)
    assert report["failures"] == {"model_refused": 1, "photo_unreadable": 1}
    assert report["tokens"] == {"input": 4 * INPUT_TOKENS, "output": 4 * OUTPUT_TOKENS}
    assert report["cost_usd"] is None
    assert {label: (found["right"], found["photos"]) for label, found in report["per_class"].items()} == {
        "cardboard": (1, 1),
        "glass": (1, 2),
        "metal": (0, 2),
        "trash": (1, 1),
    }
    assert report["confusion"] == {
        "labels": ["cardboard", "glass", "metal", "trash"],
        "answers": ["clear_pet", "failed", "general", "glass", "paper"],
        "counts": [[0, 0, 0, 0, 1], [1, 0, 0, 1, 0], [0, 2, 0, 0, 0], [0, 0, 1, 0, 0]],
    }
    kept = {line["path"]: line for line in lines_of(tmp_path / "r.jsonl")}
    assert len(kept) == 6
    assert kept["metal/broken.jpg"]["error"] == "photo_unreadable"
    glass = kept["glass/a.png"]
    assert (glass["label"], glass["material"], glass["confidence"], glass["sure"]) == (
        "glass",
        "glass",
        0.9,
        True,
    )


async def test_table_and_picture_show_the_same(tmp_path: Path) -> None:
    """Without --json a table; the picture is drawn beside either. SURE_THRESHOLD moves what is sure."""
    folder_of_photos(tmp_path / "photos")
    async with Model().serving() as model:
        said, progress = await evaluate(model, tmp_path, "photos", "--picture", "p.png", sure_threshold="0.9")
    assert "3 of 6" in said
    assert re.search(r"^sure +16\.7% .* 1 of 6$", said, re.MULTILINE)
    assert "50.0%" in said
    assert "model_refused 1, photo_unreadable 1" in said
    assert "100 %" in progress
    with Image.open(tmp_path / "p.png") as picture:
        picture.load()
        assert picture.format == "PNG"
        colours = picture.convert("RGB").getcolors(2**16)
    assert colours is not None
    assert {(38, 132, 88), (196, 78, 60)} <= {colour for _, colour in colours}  # a right row and a wrong one


@pytest.mark.parametrize(
    ("harm", "status", "sentences"),
    [
        (
            signal.SIGINT,
            130,
            ["growbin evaluate: stopped. What was answered is in r.jsonl: run again to go on."],
        ),
        (signal.SIGKILL, -signal.SIGKILL, []),
    ],
)
async def test_interrupted_run_goes_on_where_it_was(
    tmp_path: Path, harm: signal.Signals, status: int, sentences: list[str]
) -> None:
    """Ctrl-C or a kill leave what was answered; the next run asks for the rest only."""
    folder_of_photos(tmp_path / "photos")
    model, third, never = Model(), asyncio.Event(), asyncio.Event()

    async def before() -> None:
        if model.calls == 3:
            third.set()
            await never.wait()

    model.before = before
    async with model.serving():
        process = await begin(
            model, tmp_path, "photos", "--results", "r.jsonl", "--concurrency", "1", "--json"
        )
        async with asyncio.timeout(LONGEST_RUN_SECONDS):
            await third.wait()
            process.send_signal(harm)
            _, complained = await process.communicate()
        assert (process.returncode, complained.decode().splitlines()) == (status, sentences)
        kept = lines_of(tmp_path / "r.jsonl")
        answered = sum(line["error"] != "photo_unreadable" for line in kept)
        assert answered == 2
        with (tmp_path / "r.jsonl").open("a") as file:
            file.write('{"path": "cut o')
        model.before = None
        report = await report_of(model, tmp_path, "photos", "--results", "r.jsonl")
    assert model.calls == 3 + 5 - answered
    assert report["accuracy"] == 0.5
    assert len(lines_of(tmp_path / "r.jsonl")) == 6


async def test_refused_key_stops_with_one_sentence(tmp_path: Path) -> None:
    """It would be refused for every photo, so nobody waits for the others."""
    folder_of_photos(tmp_path / "photos")

    async def before() -> web.Response:
        return refused(401, "invalid_api_key")

    async with Model(before=before).serving() as model:
        said, complained = await evaluate(model, tmp_path, "photos", "--json", status=1)
        assert model.calls <= 2
    assert said == ""
    [sentence] = complained.splitlines()
    assert "refuses every photo (401 invalid_api_key: the key is refused): check OPENAI_API_KEY" in sentence


async def test_model_that_is_away_for_a_moment_is_asked_again(tmp_path: Path) -> None:
    """A 503 is no answer, so it is no failure either."""
    folder_of_photos(tmp_path / "photos")
    refusals = [refused(503, "overloaded")]

    async def before() -> web.Response | None:
        return refusals.pop() if refusals else None

    async with Model(before=before).serving() as model:
        report = await report_of(model, tmp_path, "photos")
    assert model.calls == 6
    assert report["accuracy"] == 0.5


async def test_model_that_is_not_there_stops_with_one_sentence(tmp_path: Path) -> None:
    """After three photos without an answer; they are asked again in the next run."""
    folder_of_photos(tmp_path / "photos")
    async with Model().serving() as model:
        pass
    _, complained = await evaluate(
        model, tmp_path, *["photos", "--json", "--results", "r.jsonl", "--concurrency", "3"], status=1
    )
    [sentence] = complained.splitlines()
    assert "the model does not answer" in sentence
    async with Model().serving() as model:
        report = await report_of(model, tmp_path, "photos", "--results", "r.jsonl")
        assert model.calls == 5
    assert report["failures"] == {"model_refused": 1, "photo_unreadable": 1}


async def test_two_analysts_are_compared_on_the_same_photos(tmp_path: Path) -> None:
    """The other's file is judged by today's labels; p is McNemar's, exact."""
    folder_of_photos(tmp_path / "photos")
    all_right = ANSWERS | {100: ("recyclable", "glass", 0.7), 140: ("recyclable", "metals", 0.7)}
    async with Model().serving() as one, Model(all_right, name="better").serving() as other:
        await evaluate(other, tmp_path, "photos", "--results", "other.jsonl")
        report = await report_of(one, tmp_path, "photos", "--compare", "other.jsonl")
    assert report["comparison"] == {
        "other_model": "better",
        "photos": 6,
        "both_right": 3,
        "only_first_right": 0,
        "only_second_right": 2,
        "neither_right": 1,
        "p_value": 0.5,
    }


async def test_corrected_label_needs_no_new_answer(tmp_path: Path) -> None:
    """Answers are kept, not verdicts: today's label judges them, those of the other analyst as well."""
    folder_of_photos(tmp_path)
    async with Model().serving() as model:
        (tmp_path / "list.csv").write_text("path,label\nglass/a.png,metal\n")
        report = await report_of(model, tmp_path, "list.csv", "--results", "r.jsonl")
        assert report["accuracy"] == 0
        (tmp_path / "list.csv").write_text("path,label\nglass/a.png,glass\n")
        report = await report_of(model, tmp_path, "list.csv", "--results", "r.jsonl", "--compare", "r.jsonl")
        assert report["accuracy"] == 1
        assert report["comparison"]["both_right"] == 1
        assert model.calls == 1


async def test_manifest_and_sample_say_which_photos_are_asked_about(tmp_path: Path) -> None:
    """Collections are told apart, and a limit leaves the rest unasked."""
    folder_of_photos(tmp_path)
    rows = [f"{name},{name.partition('/')[0]},{'ours' if 'glass' in name else 'theirs'},1" for name in PHOTOS]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,collection,object", *rows]) + "\n")
    async with Model().serving() as model:
        report = await report_of(model, tmp_path, "list.csv")
        sample = await report_of(model, tmp_path, "list.csv", "--limit", "2")
        assert model.calls == 5 + 2
    assert {name: one["accuracy"] for name, one in report["per_collection"].items()} == pytest.approx(
        {"ours": 1 / 2, "theirs": 2 / 3}
    )
    assert (report["objects"], sample["photos"]) == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "neither a folder nor a manifest"),
        (["unknown"], "nothing is known of the label dog"),
        (["photos", "--results", "photos/README.md"], "name another file"),
        (["photos", "--compare", "nowhere.jsonl"], "cannot be read"),
        (["photos", "--compare", "empty.jsonl"], "holds none of these photos"),
    ],
)
async def test_wrong_input_is_refused_in_one_sentence_before_anything_is_asked(
    tmp_path: Path, arguments: list[str], told: str
) -> None:
    """Nothing is paid for a mistake on the command line."""
    folder_of_photos(tmp_path / "photos")
    folder_of_photos(tmp_path / "unknown")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "unknown" / "glass").rename(tmp_path / "unknown" / "dog")
    async with Model().serving() as model:
        said, complained = await evaluate(model, tmp_path, *arguments, status=1)
        assert model.calls == 0
    assert said == ""
    [sentence] = complained.splitlines()
    assert told in sentence


async def test_embedded_model_is_asked_when_no_other_is_named(tmp_path: Path) -> None:
    """Its server is started for the run, and is gone afterwards."""
    folder_of_photos(tmp_path / "photos")
    report = await report_of(None, tmp_path, "photos")
    assert report["model"] == "growbin-embedded"
    assert (report["photos"], report["failures"]) == (6, {"photo_unreadable": 1})
    left = [
        one
        for one in psutil.process_iter(["cmdline"])
        if str(tmp_path) in " ".join(one.info["cmdline"] or [])
    ]
    assert not left
