"""The advice by rule over HTTP: for anybody, for caches, without a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from growbin.rules.overlay import load_rulebook
from growbin.taxonomy import Category, Condition, Material
from tests.unit.conftest import Start
from tests.unit.gateway_node import Client, Node, problem

OVERLAY = Path(__file__).parents[2] / "examples" / "overlay"

ADVICE = "/api/v1/waste/advice"


@pytest.mark.parametrize(
    ("name", "locale", "first"),
    [
        ("종이컵", "ko", "종이컵"),
        ("종이 컵", "ko", "종이컵"),
        ("paper cup", "en", "Paper cup"),
        ("papr cup", "en", "Paper cup"),
        ("종이컵", "en", "Paper cup"),
    ],
)
async def test_name_leads_to_the_advice(client: Client, name: str, locale: str, first: str) -> None:
    """The likeliest thing stands first, with bin, steps and source, in the language that was asked for."""
    answer = await client.get(ADVICE, params={"name": name, "locale": locale})
    body = await answer.json()
    assert (answer.status, body["locale"], body["place"]) == (200, locale, None)
    item = body["items"][0]
    assert (item["name"], item["category"], item["material"]) == (first, "recyclable", "paper")
    assert item["bin"]
    assert item["steps"]
    assert item["rule"]["source"]
    assert len(body["items"]) <= 5


async def test_unknown_name_finds_nothing(client: Client) -> None:
    """That is an answer, not an error."""
    answer = await client.get(ADVICE, params={"name": "zxqvbn"})
    assert (answer.status, (await answer.json())["items"]) == (200, [])


async def test_what_a_person_says_it_is_leads_to_its_rule(client: Client) -> None:
    """One item, named by its rule; conditions change the way."""
    whole = await client.get(ADVICE, params={"category": "recyclable", "material": "glass", "locale": "en"})
    [item] = (await whole.json())["items"]
    assert (item["name"], item["rule"]["id"]) == (item["rule"]["title"], "recyclable.glass")
    broken = {"category": "recyclable", "material": "glass", "condition": "broken", "locale": "en"}
    [item] = (await (await client.get(ADVICE, params=broken)).json())["items"]
    assert (item["rule"]["id"], item["condition"]) == ("non_combustible.glass", ["broken"])


async def test_answer_may_be_kept_by_anybody(client: Client) -> None:
    """A cache may hold it for five minutes; no cookie is set, also where one is sent."""
    for headers in ({}, {"Cookie": "growbin_session=unknown", "Authorization": "Bearer unknown"}):
        answer = await client.get(ADVICE, params={"name": "캔"}, headers=headers)
        assert answer.status == 200
        assert answer.headers["Cache-Control"] == "public, max-age=300"
        assert "Set-Cookie" not in answer.headers


async def test_same_question_has_the_same_etag_and_another_another(client: Client) -> None:
    """The order of conditions does not matter, the language does; who has it gets 304."""

    async def tag(**parameters: object) -> str:
        answer = await client.get(ADVICE, params=[*_pairs(parameters)])
        assert answer.status == 200
        return answer.headers["ETag"]

    first = await tag(category="recyclable", material="glass", condition=["broken", "sharp"])
    assert await tag(condition=["sharp", "broken", "sharp"], category="recyclable", material="glass") == first
    others = {
        first,
        await tag(category="recyclable", material="glass", condition=["broken", "sharp"], locale="en"),
        await tag(category="recyclable", material="glass", condition=["broken"]),
        await tag(category="recyclable", material="glass"),
        await tag(name="유리병"),
    }
    assert len(others) == 5
    known = await client.get(
        ADVICE, params={"name": "유리병"}, headers={"If-None-Match": await tag(name="유리병")}
    )
    assert (known.status, await known.read()) == (304, b"")
    assert known.headers["Cache-Control"] == "public, max-age=300"


async def test_new_rules_have_new_etags(start: Start, client: Client) -> None:
    """Whoever holds the advice of the old ones gets that of the new."""
    known = await client.get(ADVICE, params={"category": "food"})
    anew = await (await start(rules=load_rulebook(OVERLAY))).client()
    answer = await anew.get(
        ADVICE, params={"category": "food"}, headers={"If-None-Match": known.headers["ETag"]}
    )
    assert (answer.status, answer.headers["ETag"] != known.headers["ETag"]) == (200, True)


def _pairs(parameters: dict[str, object]) -> list[tuple[str, str]]:
    return [
        (name, str(value))
        for name, values in parameters.items()
        for value in (values if isinstance(values, list) else [values])
    ]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ([], [*Category]),
        ([("name", "캔"), ("category", "food")], ["either `name`, or `category`"]),
        ([("name", "캔"), ("material", "glass")], ["`material`"]),
        ([("category", "compost")], [*Category]),
        ([("category", "recyclable"), ("material", "wood")], [*Material]),
        ([("category", "recyclable"), ("material", "")], [*Material]),
        ([("category", "recyclable"), ("condition", "burning")], [*Condition]),
        ([("name", "캔"), ("locale", "fr")], ["ko, en"]),
        ([("name", "")], ["1 to 100"]),
        ([("name", "a" * 101)], ["1 to 100"]),
        ([("name", "캔"), ("name", "병")], ["`name` may stand there once"]),
        ([("nam", "캔")], ["unknown: there are name, category"]),
    ],
)
async def test_wrong_parameter_is_refused_with_what_is_allowed(
    client: Client, parameters: list[tuple[str, str]], words: list[str]
) -> None:
    """422 that lists the values."""
    refused = await problem(await client.get(ADVICE, params=parameters), 422, "bad_parameter")
    assert all(word in refused["detail"] for word in words)


async def test_advice_needs_no_part(node: Node, client: Client) -> None:
    """Redis away, broker away: the rules are here."""
    node.progress.is_away = node.sessions.is_away = True
    assert (await client.get(ADVICE, params={"name": "캔"})).status == 200
