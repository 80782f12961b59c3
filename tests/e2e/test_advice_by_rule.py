"""The advice by rule: for anybody, without photo or session, in both languages, kept by caches."""

from __future__ import annotations

import re
from urllib.parse import urlencode

import pytest

from tests.e2e.client import Answer, Client
from tests.e2e.photos import COFFEE_CUP

HANGUL = re.compile("[가-힣]")
CATEGORIES = "recyclable, general, non_combustible, food, bulky, construction, hazardous, unclassified"


async def advice(client: Client, *parameters: tuple[str, str], etag: str = "") -> Answer:
    headers = {"If-None-Match": etag} if etag else {}
    return await client.call("GET", f"/api/v1/waste/advice?{urlencode(parameters)}", headers=headers)


@pytest.mark.parametrize(
    ("name", "locale", "first"),
    [("종이컵", "ko", "종이컵"), ("종이컵", "en", "Paper cup"), ("papercup", "en", "Paper cup")],
)
async def test_thing_is_found_by_its_name_in_the_language_that_is_asked_for(
    client: Client, name: str, locale: str, first: str
) -> None:
    """Whichever language the name is in: bin, steps and source are in the reader's."""
    found = await advice(client, ("name", name), ("locale", locale))
    assert (found.status, found.body["locale"]) == (200, locale)
    assert 1 <= len(found.body["items"]) <= 5
    item = found.body["items"][0]
    assert (item["name"], item["category"]) == (first, "recyclable")
    assert re.fullmatch("[0-9a-f]{12}", found.body["rules_version"])
    for text in (item["bin"], *item["steps"], item["rule"]["title"]):
        assert bool(HANGUL.search(text)) == (locale == "ko"), text


async def test_language_is_korean_unless_another_is_asked_for(client: Client) -> None:
    """The browser's language does not count, so that caches need not know it."""
    answer = await client.call("GET", "/api/v1/waste/advice?category=food", headers={"Accept-Language": "en"})
    [item] = answer.body["items"]
    assert answer.body["locale"] == "ko"
    assert HANGUL.search(item["bin"])
    assert item["name"] == item["rule"]["title"]


async def test_what_is_seen_on_it_changes_the_advice(client: Client) -> None:
    """A glass bottle is recycled; once it is broken, it is not."""
    glass = (("category", "recyclable"), ("material", "glass"), ("locale", "en"))
    [whole] = (await advice(client, *glass)).body["items"]
    [broken] = (await advice(client, *glass, ("condition", "broken"))).body["items"]
    assert (whole["recyclable"], broken["recyclable"]) == (True, False)
    assert whole["bin"] != broken["bin"]
    assert broken["condition"] == ["broken"]


async def test_advice_for_what_a_photo_shows_is_the_advice_by_rule(client: Client) -> None:
    """What a model found and what a person says lead to the same bin, steps and source."""
    result = await client.result(await client.submit(COFFEE_CUP.read_bytes()))
    for item in result["items"]:
        said = [("category", item["category"]), ("locale", result["locale"])]
        said += [("material", item["material"])] if item["material"] else []
        said += [("condition", seen) for seen in item["condition"]]
        [by_rule] = (await advice(client, *said)).body["items"]
        names = ("category", "material", "recyclable", "bin", "steps", "cautions", "rule")
        assert {name: by_rule[name] for name in names} == {name: item[name] for name in names}


async def test_advice_is_public_and_revalidated(client: Client) -> None:
    """No cookie, five minutes in any cache, then 304; the order of conditions makes no other answer."""
    await client.analyze()  # has a cookie now
    seen = [("condition", "broken"), ("condition", "sharp")]
    glass = [("category", "recyclable"), ("material", "glass")]
    first = await advice(client, *glass, *seen)
    etag = first.headers["ETag"]
    assert first.status == 200
    assert not etag.startswith("W/")
    again = await advice(client, *reversed(seen), *glass, etag=etag)
    assert (again.status, again.body) == (304, "")
    for answer in (first, again):
        assert answer.headers["Cache-Control"] == "public, max-age=300"
        assert answer.headers["ETag"] == etag
        assert "Set-Cookie" not in answer.headers
    other = await advice(client, *glass, seen[0], etag=etag)
    assert other.status == 200
    assert other.headers["ETag"] != etag


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ([], CATEGORIES),
        ([("name", "캔"), ("category", "food")], CATEGORIES),
        ([("category", "compost")], CATEGORIES),
        ([("category", "recyclable"), ("material", "wood")], "paper, carton, clear_pet"),
        ([("category", "recyclable"), ("condition", "burning")], "has_contents, soiled"),
        ([("name", "캔"), ("locale", "fr")], "ko, en"),
        ([("name", "")], "1 to 100 characters"),
        ([("name", "캔" * 101)], "1 to 100 characters"),
        ([("category", "food"), ("category", "bulky")], "once"),
        ([("name", "캔"), ("<b>\n", "x")], "name, category, material, condition, locale"),
    ],
)
async def test_question_that_cannot_be_answered_gets_the_values_that_can(
    client: Client, parameters: list[tuple[str, str]], words: str
) -> None:
    """422 in one line, kept by no cache; what was sent is not repeated."""
    refused = await advice(client, *parameters)
    assert (refused.status, refused.body["code"]) == (422, "bad_parameter")
    assert words in refused.body["detail"]
    assert len(refused.body["detail"].splitlines()) == 1
    assert not any(text in refused.body["detail"] for text in ("compost", "wood", "burning", "<b>"))
    assert refused.headers["Cache-Control"] == "no-store"
