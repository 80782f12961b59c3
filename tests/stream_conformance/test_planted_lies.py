"""The rules themselves: a stream that keeps them all, but for one lie, is called a liar."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
import pytest_asyncio

from tests.loopback import served
from tests.stream_conformance import rules
from tests.stream_conformance.any_service import AnyService
from tests.stream_conformance.description import Description
from tests.stream_conformance.foreign.honest import DESCRIPTION, HonestServer
from tests.stream_conformance.verdicts import Verdict, name_of, promise_of, verdict_on

# What is not here is broken by a foreign server (test_foreign_servers.py).
LIES: dict[str, tuple[rules.Rule, str]] = {
    "it is plain text": (rules.kept_from_caches, "Content-Type: text/plain"),
    "caches may keep it": (rules.kept_from_caches, "max-age=60"),
    "it opens with the next event": (rules.open_at_once, "no answer within 2 s"),
    "it never beats": (rules.heartbeat, "not a word"),
    "more comes after the end": (rules.one_end, "after the end came"),
    "it stays open after the end": (rules.one_end, "still open"),
    "progress falls": (rules.progress, "20, 1, 40"),
    "a cancel after the end is told": (rules.nothing_after_the_end, "not told to others"),
    "it is deaf while it opens": (rules.race_with_the_end, "silence"),
    "the query is not read": (rules.resume_by_query, "not told to others"),
    "an empty id is unknown": (rules.empty_id, "heard 2 events where 6 were due"),
    "strangers may listen": (rules.strangers, "200 for another's job"),
    "places are never free": (rules.vanished_readers, "503"),
}


def test_page_tells_every_rule_in_its_own_words() -> None:
    """docs/conformance.md has one line for each rule, and no other."""
    page = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text()
    _, _, section = page.partition("## The rules\n")
    told = re.findall(r"^\| (.+?) \| (.+) \|$", section.partition("\n## ")[0], re.MULTILINE)[1:]
    assert told == [(name_of(rule), promise_of(rule)) for rule in rules.RULES]


def test_page_shows_a_description_that_is_enough(tmp_path: Path) -> None:
    """What docs/conformance.md calls enough is read without complaint."""
    page = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text()
    [enough] = re.findall(r"```toml\n(.+?)```", page, re.DOTALL)
    description = tmp_path / "theirs.toml"
    description.write_text(enough)
    assert Description.read(description).create[0].body == {"size": 3}


@pytest_asyncio.fixture(scope="module")
async def verdicts() -> dict[str, Verdict]:
    """Of each lie's rule on its liar, who are judged at the same time: mostly they wait."""

    async def judged(lie: str) -> Verdict:
        async with served(HonestServer(lie).app) as url:
            return await verdict_on(AnyService(url, DESCRIPTION), LIES[lie][0])

    return dict(zip(LIES, await asyncio.gather(*map(judged, LIES)), strict=True))


@pytest.mark.parametrize("lie", LIES)
async def test_one_lie_breaks_its_rule(verdicts: dict[str, Verdict], lie: str) -> None:
    """Told for what it is, by the rule that it breaks."""
    assert verdicts[lie].outcome == "broken", verdicts[lie]
    assert LIES[lie][1] in verdicts[lie].seen
