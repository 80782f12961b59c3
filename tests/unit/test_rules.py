"""Category, material and conditions become a bin, steps and cautions."""

import itertools
import json
import os
import subprocess
import sys
from importlib.resources import files
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from growbin.certainty import Thresholds
from growbin.job import Advice, Analysis, Choice, DoubtReason, Finding, Locale, Sorting
from growbin.rules import advice as by_book
from growbin.rules.advice import LEAST_SHOWN, Advised
from growbin.rules.overlay import load_rulebook
from growbin.rules.rulebook import STEP_LIMITS, Rulebook
from growbin.taxonomy import Category, Condition, Material

BOOK = load_rulebook(None)
LOCALES: tuple[Locale, ...] = get_args(Locale)
MATERIALS: tuple[Material | None, ...] = (*Material, None)
RULES_TEXT, THINGS_TEXT = (
    files("growbin").joinpath(f"data/{name}.json").read_text(encoding="utf-8") for name in ("rules", "things")
)

findings = st.builds(
    Finding,
    name=st.text("가나다abc ", min_size=1, max_size=20).filter(str.strip),
    category=st.sampled_from(Category),
    material=st.sampled_from(MATERIALS),
    confidence=st.floats(0, 1),
    condition=st.lists(st.sampled_from(Condition), max_size=len(Condition)),
)
analyses = st.builds(
    Analysis,
    items=st.lists(findings, max_size=10),
    doubt=st.sampled_from([None, *get_args(DoubtReason)]),
    choices=st.lists(
        st.builds(Sorting, category=st.sampled_from(Category), material=st.sampled_from(MATERIALS)),
        max_size=4,
    ),
)
locales = st.sampled_from(LOCALES)
HALF = Thresholds(sure=0.5, probable=0.5)


def advise(finding: Finding, locale: Locale) -> Advice:
    return by_book.advise(BOOK, finding, locale)


def advise_all(analysis: Analysis, locale: Locale, thresholds: Thresholds) -> Advised:
    return by_book.advise_all(BOOK, analysis, locale, thresholds)


def found(
    category: Category, material: Material | None = None, *condition: Condition, confidence: float = 0.9
) -> Finding:
    return Finding(
        name="물건", category=category, material=material, confidence=confidence, condition=list(condition)
    )


def recyclable(material: Material, *condition: Condition) -> Finding:
    return found(Category.RECYCLABLE, material, *condition)


def check_wording(advice: Advice, locale: Locale) -> None:
    texts = [advice.bin, *advice.steps, *advice.cautions, advice.rule.title, advice.rule.source]
    assert all(text.strip() for text in texts)
    assert advice.steps
    assert max(map(len, advice.steps)) <= STEP_LIMITS[locale]
    assert len(advice.steps) == len(set(advice.steps))
    assert len(advice.cautions) == len(set(advice.cautions))


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("category", Category)
def test_any_category_and_material_has_a_bin_and_steps(category: Category, locale: Locale) -> None:
    """Every category says where and how for each of the materials, and without one."""
    for material in MATERIALS:
        check_wording(advise(found(category, material), locale), locale)


@given(findings, locales)
def test_any_finding_gets_short_and_complete_advice(finding: Finding, locale: Locale) -> None:
    """Whatever the model saw, the advice has no empty text, no repetition and no long step."""
    check_wording(advise(finding, locale), locale)


@given(findings)
def test_two_languages_give_the_same_decision(finding: Finding) -> None:
    """Korean and English readers are sent to the same bin, in the same number of steps."""
    korean, english = advise(finding, "ko"), advise(finding, "en")
    assert korean.rule.id == english.rule.id
    assert len(korean.steps) == len(english.steps)
    assert len(korean.cautions) == len(english.cautions)


@given(findings, st.randoms())
def test_conditions_in_another_order_give_the_same_advice(finding: Finding, random: Any) -> None:
    """Conditions are a set: neither their order nor a repetition matters."""
    shuffled = [*finding.condition, *finding.condition]
    random.shuffle(shuffled)
    assert advise(finding.model_copy(update={"condition": shuffled}), "ko") == advise(finding, "ko")


@pytest.mark.parametrize("condition", Condition)
def test_each_condition_changes_the_advice_of_something(condition: Condition) -> None:
    """No condition the model may report is without effect."""
    assert any(
        advise(found(category, material, condition), "ko") != advise(found(category, material), "ko")
        for category, material in itertools.product(Category, MATERIALS)
    )


@pytest.mark.parametrize(
    ("finding", "rule_id"),
    [
        (recyclable(Material.PAPER, Condition.SOILED), "general.paper"),
        (recyclable(Material.PAPER, Condition.MIXED_INSEPARABLE), "general.paper"),
        (found(Category.GENERAL, Material.PAPER), "general.paper"),
        (found(Category.GENERAL, Material.FILM, Condition.SOILED), "general.film"),
        (recyclable(Material.FOAM, Condition.COATED), "general.foam"),
        (recyclable(Material.PLASTICS, Condition.MIXED_INSEPARABLE), "general.plastics"),
        (recyclable(Material.GLASS, Condition.BROKEN), "non_combustible.glass"),
        (recyclable(Material.TEXTILES, Condition.SOILED, Condition.WET), "general.textiles"),
        (recyclable(Material.LAMPS, Condition.LAMP_FLUORESCENT, Condition.BROKEN), "non_combustible.lamps"),
        (recyclable(Material.LAMPS, Condition.LAMP_INCANDESCENT), "non_combustible.lamps"),
        (recyclable(Material.BATTERIES, Condition.CRUSHED), "hazardous.damaged_batteries"),
        (
            recyclable(Material.METALS, Condition.FLAMMABLE, Condition.HAS_CONTENTS),
            "hazardous",
        ),
    ],
)
def test_condition_that_spoils_recycling_changes_bin_and_says_so(finding: Finding, rule_id: str) -> None:
    """What cannot be recycled as it is goes elsewhere, and the reader learns why."""
    advice = advise(finding, "ko")
    assert advice.rule.id == rule_id
    assert not advice.recyclable
    assert advice.cautions or not finding.condition


@pytest.mark.parametrize(
    ("finding", "rule_id"),
    [
        (recyclable(Material.CLEAR_PET, Condition.COLOURED), "recyclable.plastics"),
        (recyclable(Material.PLASTICS, Condition.HAS_ELECTRICS), "recyclable.e_waste"),
        (recyclable(Material.METALS, Condition.PRESSURISED), "recyclable.spray_can"),
        (found(Category.HAZARDOUS, None, Condition.LAMP_FLUORESCENT), "recyclable.lamps"),
        (found(Category.GENERAL, Material.BATTERIES), "recyclable.batteries"),
        (found(Category.HAZARDOUS, Material.BATTERIES), "recyclable.batteries"),
        (found(Category.BULKY, Material.E_WASTE), "recyclable.e_waste"),
        (found(Category.RECYCLABLE), "recyclable"),
    ],
)
def test_condition_or_material_can_send_to_another_recycling_bin(finding: Finding, rule_id: str) -> None:
    """Some things stay recyclable but belong in a bin of their own."""
    advice = advise(finding, "ko")
    assert advice.rule.id == rule_id
    assert advice.recyclable


def test_label_on_a_bottle_is_named_and_the_bottle_stays_recyclable() -> None:
    """A curable flaw is said in one friendly sentence; the bin does not change."""
    advice = advise(recyclable(Material.CLEAR_PET, Condition.HAS_LABEL), "ko")
    assert advice.recyclable
    assert "아직 라벨이 붙어 있어요." in advice.cautions
    assert "라벨을 떼세요." in advice.steps


def test_wet_clothes_are_dried_first() -> None:
    """A condition's step comes before the steps of the rule."""
    assert advise(recyclable(Material.TEXTILES, Condition.WET), "en").steps[0] == "Let it dry completely."


def test_unidentifiable_finding_is_not_sent_to_any_bin() -> None:
    """Where the model cannot tell, the advice is to wait and ask, whatever category it guessed."""
    finding = found(Category.HAZARDOUS, None, Condition.NOT_IDENTIFIABLE, Condition.SHARP)
    advice = advise(finding, "en")
    assert advice.rule.id == "unclassified"
    assert "It has sharp parts: take care." in advice.cautions


def test_one_confident_item_is_sure() -> None:
    """A clear photo gets its answer without a question back."""
    advised = advise_all(Analysis(items=[recyclable(Material.GLASS)]), "ko", HALF)
    assert (advised.waste_type, advised.certainty, advised.ask_back) == ("물건", "sure", None)


def test_items_in_any_order_come_most_confident_first() -> None:
    """The primary item is the one the model is surest of, even if it was not named first."""
    faint = found(Category.FOOD, confidence=0.2).model_copy(update={"name": "귤껍질"})
    clear = recyclable(Material.GLASS).model_copy(update={"name": "유리병"})
    advised = advise_all(Analysis(items=[faint, clear]), "ko", HALF)
    assert [item.name for item in advised.items] == ["유리병", "귤껍질"]
    assert (advised.waste_type, advised.is_sure) == ("유리병", True)


def test_guess_below_a_tenth_is_not_shown() -> None:
    """A guess that faint helps nobody: it is left out, and where nothing else is left nothing was seen."""
    faint = found(Category.FOOD, confidence=0.09)
    advised = advise_all(Analysis(items=[recyclable(Material.GLASS), faint]), "ko", HALF)
    assert ([item.category for item in advised.items], advised.certainty) == ([Category.RECYCLABLE], "sure")
    advised = advise_all(Analysis(items=[faint]), "ko", HALF)
    assert (advised.items[0].category, advised.certainty) == (Category.UNCLASSIFIED, "unsure")


@pytest.mark.parametrize("locale", LOCALES)
def test_empty_analysis_gives_one_item_that_asks_back(locale: Locale) -> None:
    """Where nothing was seen there is still an item to show, and it says to photograph again."""
    advised = advise_all(Analysis(items=[]), locale, Thresholds(sure=0, probable=0))
    [item] = advised.items
    assert (item.category, item.confidence, item.recyclable) == (Category.UNCLASSIFIED, 0, False)
    assert item.name == advised.waste_type
    assert advised.certainty == "unsure"
    assert advised.ask_back
    assert (advised.ask_back.reason, advised.ask_back.choices) == ("unknown", [])


@pytest.mark.parametrize(
    "unknown",
    [found(Category.UNCLASSIFIED), found(Category.GENERAL, None, Condition.NOT_IDENTIFIABLE)],
)
def test_something_unknown_in_the_photo_is_not_sure(unknown: Finding) -> None:
    """An answer that leaves something open says so, however confident the rest is."""
    assert not advise_all(Analysis(items=[unknown]), "ko", HALF).is_sure
    beside = advise_all(Analysis(items=[recyclable(Material.GLASS), unknown]), "en", HALF)
    assert not beside.is_sure
    assert beside.ask_back
    assert beside.ask_back.reason == "several"
    assert "by itself" in beside.ask_back.text


@pytest.mark.parametrize(
    ("finding", "words"),
    [
        (recyclable(Material.PLASTICS, Condition.SEVERAL_ITEMS), "by itself"),
        (recyclable(Material.PLASTICS, Condition.NOT_IDENTIFIABLE), "fills the picture"),
        (recyclable(Material.PLASTICS), "recycling mark"),
        (recyclable(Material.LAMPS), "print on the lamp"),
        (found(Category.HAZARDOUS), "warning signs"),
        (found(Category.GENERAL, None, Condition.HAS_CONTENTS), "inside"),
        (found(Category.BULKY), "another side"),
    ],
)
def test_doubtful_finding_asks_for_the_photo_that_would_help(finding: Finding, words: str) -> None:
    """What is doubtful decides what to photograph next."""
    ask_back = advise_all(Analysis(items=[finding]), "en", Thresholds(sure=1, probable=1)).ask_back
    assert ask_back is not None
    assert words in ask_back.text


@pytest.mark.parametrize(
    ("doubt", "words"),
    [
        ("several", "by itself"),
        ("dark", "more light"),
        ("blurred", "hold"),
        ("far", "closer"),
        ("unknown", "recycling mark"),
        ("not_waste", "throw away"),
    ],
)
def test_doubt_of_the_model_asks_for_the_photo_that_would_help(doubt: DoubtReason, words: str) -> None:
    """Each reason has its own sentence, in both languages; what can be told better is."""
    analysis = Analysis(items=[recyclable(Material.PLASTICS)], doubt=doubt)
    korean, english = (advise_all(analysis, locale, HALF).ask_back for locale in LOCALES)
    assert korean
    assert english
    assert (korean.reason, english.reason) == (doubt, doubt)
    assert words in english.text
    assert english.text != korean.text


def sorting(category: Category, material: Material | None = None) -> Sorting:
    return Sorting(category=category, material=material)


def chosen(items: list[Finding], choices: list[Sorting], doubt: DoubtReason = "unknown") -> list[Choice]:
    """What a person is offered."""
    ask_back = advise_all(Analysis(items=items, doubt=doubt, choices=choices), "en", HALF).ask_back
    assert ask_back
    return ask_back.choices


GLASS = sorting(Category.RECYCLABLE, Material.GLASS)
FOOD = sorting(Category.FOOD)


def test_choices_of_the_model_bear_the_titles_of_their_rules() -> None:
    """In its order, as people read them."""
    first, second = chosen([found(Category.UNCLASSIFIED)], [GLASS, FOOD])
    assert first == Choice(label=title("recyclable.glass"), category=GLASS.category, material=GLASS.material)
    assert second == Choice(label=title("food"), category=FOOD.category, material=None)


def title(rule_id: str) -> str:
    return str(json.loads(RULES_TEXT)["rules"][rule_id]["title"]["en"])


def test_other_findings_are_the_choices_when_the_model_gives_none() -> None:
    """What else was seen is what it may be; what cannot be told is no choice."""
    items = [
        found(Category.GENERAL, confidence=0.4),
        found(Category.UNCLASSIFIED, confidence=0.3),
        recyclable(Material.GLASS).model_copy(update={"confidence": 0.2}),
    ]
    assert [choice.label for choice in chosen(items, [])] == [title("recyclable.glass")]
    assert [choice.label for choice in chosen(items, [FOOD])] == [title("food")]


def test_choice_that_says_the_same_again_is_left_out() -> None:
    """Neither what was advised already nor two that are sorted by one rule; what has no bin is no choice."""
    battery = sorting(Category.RECYCLABLE, Material.BATTERIES)
    same_rule = sorting(Category.HAZARDOUS, Material.BATTERIES)
    choices = [sorting(Category.UNCLASSIFIED), battery, GLASS, same_rule]
    assert chosen([recyclable(Material.GLASS)], choices) == [
        Choice(label=title("recyclable.batteries"), category=Category.RECYCLABLE, material=Material.BATTERIES)
    ]


def test_what_is_no_waste_leaves_no_choice() -> None:
    """There is nothing to sort."""
    assert chosen([recyclable(Material.GLASS)], [FOOD], "not_waste") == []


@given(analyses, locales, st.floats(0, 1), st.floats(0, 1))
def test_any_analysis_asks_back_exactly_when_it_is_not_sure(
    analysis: Analysis, locale: Locale, one: float, other: float
) -> None:
    """`sure` and `ask_back` never contradict each other, only the faintest findings are left out, and every
    choice is one."""
    advised = advise_all(analysis, locale, Thresholds(sure=max(one, other), probable=min(one, other)))
    shown = [finding for finding in analysis.items if finding.confidence >= LEAST_SHOWN]
    assert len(advised.items) == max(1, len(shown))
    assert advised.is_sure == (advised.certainty == "sure") == (advised.ask_back is None)
    if advised.ask_back:
        assert advised.ask_back.text
        labels = [choice.label for choice in advised.ask_back.choices]
        assert len(labels) == len({*labels, advised.items[0].rule.title}) - 1 <= 4
        assert Category.UNCLASSIFIED not in [choice.category for choice in advised.ask_back.choices]


def test_rules_data_has_no_key_twice() -> None:
    """JSON keeps the last of two equal keys in silence; the data has none."""

    def without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
        assert len(dict(pairs)) == len(pairs), pairs
        return dict(pairs)

    json.loads(RULES_TEXT, object_pairs_hook=without_repetition)
    json.loads(THINGS_TEXT, object_pairs_hook=without_repetition)


def broken(**changes: Any) -> dict[str, Any]:
    """The rules and things, with the value at each `a__b__c` path replaced."""
    data: dict[str, Any] = {**json.loads(RULES_TEXT), "things": json.loads(THINGS_TEXT)}
    for path, value in changes.items():
        *parents, last = (int(key) if key.isdigit() else key for key in path.split("__"))
        place: Any = data
        for key in parents:
            place = place[key]
        place[last] = value
    return data


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (broken(rules__food__bin="nowhere"), "nowhere"),
        (broken(rules__food__source="hearsay"), "hearsay"),
        (broken(rules__food__title={"ko": "음식"}), "title"),
        (broken(rules__food__steps=[]), "steps"),
        (broken(rules__food__steps=[{"ko": "가" * 61, "en": "a"}]), "longer than 60"),
        (broken(rules__food__colour="green"), "colour"),
        (broken(choices__food={"otherwise": "compost"}), "compost"),
        (broken(choices__food={"paper": "food"}), "otherwise"),
        (broken(choices__food={"otherwise": "food", "wood": "food"}), "wood"),
        (broken(switches__0__when=["burning"]), "burning"),
        (broken(switches__0__becomes="compost"), "compost"),
        (broken(notes__0__rules=["compost.*"]), "compost"),
        (broken(notes__0__caution=None), "needs a caution or steps"),
        (broken(bins__moon={"ko": "달", "en": "Moon"}), "moon"),
        (broken(next_photos={}), "reasons"),
        (broken(next_photos__dark=[]), "next_photos"),
        (broken(next_photos__dusty=[{"text": {"ko": "먼지", "en": "Dust"}}]), "dusty"),
        (broken(next_photos__unknown__0__conditions=[]), "fits everything"),
        (broken(next_photos__dark__0__materials=["glass"]), "fits everything"),
    ],
)
def test_rules_data_with_a_mistake_is_refused(data: dict[str, Any], complaint: str) -> None:
    """An unknown id, a missing language, a long step: loading names it instead of guessing."""
    with pytest.raises(ValidationError, match=complaint):
        Rulebook.model_validate_json(json.dumps(data))


def test_version_is_the_same_in_every_process() -> None:
    """Gateways agree on an ETag, and consumers on what an answer depends on, however sets are ordered."""
    told = [
        subprocess.run(
            [
                sys.executable,
                "-c",
                "from growbin.rules import overlay as o; print(o.load_rulebook(None).version)",
            ],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    ]
    assert len(set(told)) == 1
    assert told[0].strip() == load_rulebook(None).version
