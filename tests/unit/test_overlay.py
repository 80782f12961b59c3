"""A municipality's overlay changes the rules, never makes them less safe, and says where it is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from growbin.certainty import Thresholds
from growbin.job import Advice, Analysis, Finding
from growbin.rules.advice import advise, advise_all, advise_thing
from growbin.rules.overlay import BadRules, load_rulebook
from growbin.rules.rulebook import Rulebook
from growbin.rules.things import ThingFinder
from growbin.taxonomy import Category, Condition, Material

HEAD: dict[str, Any] = {
    "place": {"ko": "보기시", "en": "Example City"},
    "source": {"ko": "보기시 분리배출 안내", "en": "Example City's guide"},
    "as_of": "2026-05-01",
}
TEXT = {"ko": "한 줄", "en": "A line"}


def laid(tmp_path: Path, **changes: Any) -> Rulebook:
    (tmp_path / "overlay.json").write_text(json.dumps(HEAD | changes, ensure_ascii=False, indent=1))
    return load_rulebook(tmp_path)


def advised(book: Rulebook, material: Material, *condition: Condition) -> Advice:
    finding = Finding(
        name="a", category=Category.RECYCLABLE, material=material, confidence=1, condition=list(condition)
    )
    return advise(book, finding, "en")


def by_name(book: Rulebook, name: str) -> Advice:
    return advise_thing(book, ThingFinder(book).find(name, "en")[0], "en")


def test_place_is_named_with_all_advice_and_its_source_where_it_changed_something(tmp_path: Path) -> None:
    """Who reads an advice sees for where it holds, and whether the place or the nation says so."""
    book = laid(tmp_path, rules={"recyclable.glass": {"days": {"ko": "목요일", "en": "Thursdays"}}})
    glass, paper = advised(book, Material.GLASS), advised(book, Material.PAPER)
    assert (glass.rule.place, paper.rule.place) == ("Example City", "Example City")
    assert (glass.rule.source, glass.rule.as_of) == ("Example City's guide", "2026-05-01")
    assert paper.rule.source != glass.rule.source
    assert (glass.days, paper.days) == ("Thursdays", None)


def test_contact_of_the_place_goes_with_all_advice(tmp_path: Path) -> None:
    """Whom to ask."""
    book = laid(tmp_path, contact={"ko": "청소과 02-000-0000", "en": "Cleaning office 02-000-0000"})
    assert advised(book, Material.GLASS).contact == "Cleaning office 02-000-0000"
    assert advised(load_rulebook(None), Material.GLASS).contact is None


def test_what_only_a_place_tells_is_left_out_without_one() -> None:
    """The answer has the fields that it always had."""
    advice = json.loads(advised(load_rulebook(None), Material.GLASS).model_dump_json())
    assert set(advice) == {"recyclable", "bin", "steps", "cautions", "rule"}
    assert set(advice["rule"]) == {"id", "title", "source", "as_of"}


def test_bin_has_the_name_that_stands_on_it_there(tmp_path: Path) -> None:
    """A bin is renamed everywhere; a rule may have a bin of its own."""
    book = laid(
        tmp_path,
        bins={"glass": TEXT, "cans": {"ko": "캔 수거함", "en": "Can bin"}},
        rules={"recyclable.metals": {"bin": "cans"}},
    )
    assert advised(book, Material.GLASS).bin == "A line"
    assert advised(book, Material.METALS).bin == "Can bin"


def test_steps_and_cautions_are_replaced_or_added(tmp_path: Path) -> None:
    """In their places."""
    step, caution = {"ko": "씻으세요.", "en": "Wash it."}, {"ko": "조심하세요.", "en": "Take care."}
    national = advised(load_rulebook(None), Material.GLASS)
    added = advised(
        laid(
            tmp_path,
            rules={"recyclable.glass": {"add_steps_before": [step], "add_cautions": [caution]}},
        ),
        Material.GLASS,
    )
    assert added.steps == ["Wash it.", *national.steps]
    assert added.cautions == ["Take care.", *national.cautions]
    replaced = advised(
        laid(tmp_path, rules={"recyclable.glass": {"steps": [step], "cautions": []}}), Material.GLASS
    )
    assert (replaced.steps, replaced.cautions) == (["Wash it."], [])


def test_option_of_the_place_changes_the_way_and_names_the_place_as_source(tmp_path: Path) -> None:
    """Coloured foam is recycled nationally; some places refuse it."""
    national = advised(load_rulebook(None), Material.FOAM, Condition.COLOURED)
    local = advised(laid(tmp_path, options={"coloured_foam": True}), Material.FOAM, Condition.COLOURED)
    assert (national.rule.id, local.rule.id) == ("recyclable.foam", "general.foam")
    assert local.rule.source == "Example City's guide"


def test_thing_goes_another_way_and_new_ones_are_found(tmp_path: Path) -> None:
    """The lists of a place: what its food bin takes, what only it has."""
    book = laid(
        tmp_path,
        things={
            "onion-skin": {"category": "food"},
            "festival-lantern": {
                "names": {"ko": ["축제 등"], "en": ["Festival lantern"]},
                "category": "bulky",
                "cautions": [TEXT],
            },
        },
    )
    national = by_name(load_rulebook(None), "onion skin")
    assert (national.rule.id, by_name(book, "onion skin").rule.id) == ("general", "food")
    lantern = by_name(book, "festival lantern")
    assert (lantern.rule.id, lantern.cautions[0]) == ("bulky", "A line")
    assert lantern.rule.source == "Example City's guide"


def test_version_is_another_with_an_overlay(tmp_path: Path) -> None:
    """Whoever keeps an advice sees that the rules have changed; the same files give the same version."""
    assert load_rulebook(None).version == load_rulebook(None).version
    assert laid(tmp_path).version != load_rulebook(None).version


def test_overlay_reaches_the_result_of_a_photo(tmp_path: Path) -> None:
    """Not only what is asked for by name."""
    book = laid(tmp_path, bins={"glass": TEXT})
    finding = Finding(name="병", category=Category.RECYCLABLE, material=Material.GLASS, confidence=0.9)
    thresholds = Thresholds(sure=0.5, probable=0.5)
    [item] = advise_all(book, Analysis(items=[finding]), "ko", thresholds).items
    assert (item.bin, item.rule.place) == ("한 줄", "보기시")


PIERCE = {"ko": "구멍을 뚫으세요.", "en": "Pierce it."}
BIN_IT = {"ko": "버리세요.", "en": "Bin it."}
TOO_LONG = {"ko": "가" * 61, "en": "a"}
PLANTED: dict[str, tuple[str, dict[str, Any]]] = {
    # a word of the complaint, and what is planted
    "field unknown": ("colour", {"colour": "green"}),
    "rule unknown": ("did you mean recyclable.glass", {"rules": {"recyclable.glas": {}}}),
    "option unknown": ("did you mean coloured_foam", {"options": {"coloured_fom": True}}),
    "option no boolean": ("coloured_foam", {"options": {"coloured_foam": "sometimes"}}),
    "bin unknown": ("moon", {"rules": {"recyclable.glass": {"bin": "moon"}}}),
    "bin unused": ("no rule goes there", {"bins": {"moon": TEXT}}),
    "one language": ("bins.glass", {"bins": {"glass": {"ko": "병"}}}),
    "step too long": ("longer than 60", {"rules": {"food": {"steps": [TOO_LONG]}}}),
    "no step": ("steps", {"rules": {"food": {"steps": []}}}),
    "thing without names": ("names", {"things": {"moon-rock": {"category": "general"}}}),
    "name taken": (
        "umbrella is called so",
        {"things": {"x": {"names": {"ko": ["우 산"], "en": ["X"]}, "category": "general"}}},
    ),
    "category unknown": ("things.umbrella.category", {"things": {"umbrella": {"category": "compost"}}}),
    "thing to an unknown rule": ("compost", {"things": {"umbrella": {"rule": "compost"}}}),
    # less safe
    "safe steps dropped": ("for safety", {"rules": {"recyclable.spray_can": {"steps": [BIN_IT]}}}),
    "safe cautions dropped": ("for safety", {"rules": {"recyclable.batteries": {"cautions": []}}}),
    "batteries into the bag": ("dangerous", {"rules": {"recyclable.batteries": {"bin": "general"}}}),
    "box renamed a bag": ("dangerous", {"bins": {"batteries": {"ko": "종량제봉투", "en": "Bag"}}}),
    "battery as anything": ("dangerous", {"things": {"battery": {"category": "general"}}}),
    "step that pierces": ("holes", {"rules": {"recyclable.spray_can": {"add_steps_after": [PIERCE]}}}),
    "caution that tells to": ("must warn", {"rules": {"recyclable.metals": {"add_cautions": [PIERCE]}}}),
    "down the drain": (
        "drains",
        {"things": {"ice-pack": {"steps": [{"ko": "하수구에 부으세요.", "en": "Pour it out."}]}}},
    ),
}


def complaints(tmp_path: Path, text: str) -> list[str]:
    """What is said of an overlay with this text; the file's name is left out."""
    file = tmp_path / "overlay.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BadRules) as stopped:
        load_rulebook(tmp_path)
    return [line.removeprefix(f"{file}:") for line in str(stopped.value).splitlines()]


@pytest.mark.parametrize(("complaint", "planted"), PLANTED.values(), ids=PLANTED.keys())
def test_fault_stops_the_start_with_file_and_line(
    tmp_path: Path, complaint: str, planted: dict[str, Any]
) -> None:
    """A mistake is named where it stands, here in line 5, so that it can be mended."""
    lines = [json.dumps({name: value})[1:-1] for name, value in (HEAD | planted).items()]
    [said] = [line for line in complaints(tmp_path, "{\n" + ",\n".join(lines) + "\n}") if complaint in line]
    assert said.startswith("5: ")


def test_fault_deep_in_the_file_is_named_with_its_own_line(tmp_path: Path) -> None:
    """Each of several at once."""
    planted = {"rules": {"food": {"steps": [BIN_IT, TOO_LONG]}, "bulky": {"days": {"ko": "월"}}}}
    text = json.dumps(HEAD | planted, ensure_ascii=False, indent=1)
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if TOO_LONG["ko"] in line)  # its object's
    second = next(number for number, line in enumerate(lines, 1) if '"days"' in line)
    assert [said.split(":")[0] for said in complaints(tmp_path, text)] == [str(first), str(second)]


def test_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """JSON readers keep the last one in silence."""
    text = json.dumps(HEAD)[:-1] + ',\n"bins": {},\n"bins": {}}'
    assert complaints(tmp_path, text) == ["3: bins: stands there twice"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("{\n", "2: "), ('{"place": 1}', "1: "), ("[]", "1: "), ('{\n"as_of": "soon"}', "2: as_of")],
)
def test_file_that_is_no_overlay_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    """Broken JSON, another shape, a missing head."""
    assert any(said.startswith(complaint) for said in complaints(tmp_path, text))


def test_folder_without_an_overlay_is_refused(tmp_path: Path) -> None:
    """A wrong RULES_DIR is not the same as none."""
    with pytest.raises(BadRules, match=r"RULES_DIR is a folder with a file overlay\.json"):
        load_rulebook(tmp_path)


def test_warning_of_holes_is_welcome(tmp_path: Path) -> None:
    """A caution may name what must not be done."""
    warning = {"ko": "구멍을 뚫지 마세요.", "en": "Never pierce it."}
    book = laid(tmp_path, rules={"recyclable.spray_can": {"add_cautions": [warning]}})
    assert "Never pierce it." in advised(book, Material.METALS, Condition.PRESSURISED).cautions
