"""Reading the model's answer: its shape is checked, its text made plain, and nothing else believed."""

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from growbin.analysis import MOST_BEGINNINGS, parse_answer
from growbin.errors import JobFailed
from growbin.job import Analysis, DoubtReason, ModelAnswer, Sorting
from growbin.taxonomy import Category, Condition, Material
from growbin.usage import Usage


def finding(**changes: Any) -> dict[str, Any]:
    return {
        "name": "생수병",
        "category": "recyclable",
        "material": "clear_pet",
        "confidence": 0.9,
        "condition": ["has_label"],
    } | changes


def parsed(answer: Any) -> Analysis:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return parse_answer(ModelAnswer(text=text, model="m", usage=Usage()))


def test_an_answer_becomes_findings_best_first() -> None:
    """Findings are sorted by confidence; equals keep the model's order."""
    analysis = parsed(
        {
            "items": [
                finding(name="b", confidence=0.5),
                finding(name="a", confidence=1),
                finding(name="c", confidence=0.5, material=None),
            ],
            "answer": "네.",
        }
    )
    assert [item.name for item in analysis.items] == ["a", "b", "c"]
    assert analysis.items[0].category is Category.RECYCLABLE
    assert analysis.items[0].material is Material.CLEAR_PET
    assert analysis.items[2].material is None
    assert analysis.answer == "네."


def test_no_finding_is_an_answer() -> None:
    """A model that saw nothing is believed; asking back is the advice's task."""
    assert parsed({"items": [], "answer": None}) == Analysis(items=[], answer=None)


def test_a_condition_said_twice_counts_once() -> None:
    """Repeated conditions are folded, in order."""
    (item,) = parsed({"items": [finding(condition=["wet", "soiled", "wet"])], "answer": None}).items
    assert item.condition == [Condition.WET, Condition.SOILED]


@pytest.mark.parametrize(
    ("said", "plain"),
    [
        ("water\nbottle", "water bottle"),
        ("wa\x00ter\x1b[31m bottle\u202e", "water[31m bottle"),
        ("<b>water</b> bottle", "water bottle"),
        ("bottle <script src=//x", "bottle script src=//x"),
        ("bottle https://evil.example/x now", "bottle now"),
        ("  생수병\u200b  ", "생수병"),
        ("bottle \ud800", "bottle"),
    ],
)
def test_texts_are_made_plain(said: str, plain: str) -> None:
    """Control characters, markup, links and line breaks never reach a client."""
    analysis = parsed({"items": [finding(name=said)], "answer": said})
    assert (analysis.items[0].name, analysis.answer) == (plain, plain)


@pytest.mark.parametrize(("said", "kept"), [("", None), ("<br>", None), ("a" * 700, "a" * 600)])
def test_an_empty_reply_is_none_and_a_long_one_is_cut(said: str, kept: str | None) -> None:
    """A reply outside its bounds does not cost the whole paid answer."""
    assert parsed({"items": [], "answer": said}).answer == kept


GLASS = {"category": "recyclable", "material": "glass"}
FOOD = {"category": "food", "material": None}


def test_doubt_and_choices_are_read_as_they_were_said() -> None:
    """What the model is not sure about, and what it may be instead, best first."""
    analysis = parsed({"items": [finding()], "answer": None, "doubt": "dark", "choices": [GLASS, FOOD]})
    assert analysis.doubt == "dark"
    assert analysis.choices == [
        Sorting(category=Category.RECYCLABLE, material=Material.GLASS),
        Sorting(category=Category.FOOD, material=None),
    ]


@pytest.mark.parametrize("doubt", [None, "", "confused", "DARK", 7, True, [], ["dark"], {"reason": "dark"}])
def test_doubt_in_other_words_is_none_and_costs_no_answer(doubt: Any) -> None:
    """It was paid for: the findings count."""
    assert parsed({"items": [finding()], "doubt": doubt}) == parsed({"items": [finding()]})


@pytest.mark.parametrize("choices", [None, "glass", 7, {}, GLASS, {"first": GLASS}])
def test_choices_that_are_no_list_are_none_at_all(choices: Any) -> None:
    """It was paid for: the findings count."""
    assert parsed({"items": [finding()], "choices": choices}) == parsed({"items": [finding()]})


@pytest.mark.parametrize(
    "bad",
    [
        *(None, "glass", 7, [], {}, [GLASS], {"category": "food"}, {"category": None, "material": None}),
        *({"category": "plastic", "material": None}, {"category": "recyclable", "material": "gold"}),
    ],
)
def test_choice_that_is_unknown_is_dropped_alone(bad: Any) -> None:
    """The others stay, and so does the answer."""
    analysis = parsed({"items": [finding()], "choices": [GLASS, bad, {**FOOD, "name": "peel"}]})
    assert [choice.category for choice in analysis.choices] == [Category.RECYCLABLE, Category.FOOD]


def test_too_many_choices_are_cut_to_the_best() -> None:
    """More than four are no help."""
    said = [{"category": "recyclable", "material": material} for material in Material]
    analysis = parsed({"items": [finding()], "choices": ["?", *said]})
    assert [choice.material for choice in analysis.choices] == list(Material)[:4]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Sorry, I cannot help.",
        '{"items": [',
        "null",
        "[]",
        '"text"',
        "NaN",
        {},
        {"items": None, "answer": None},
        {"items": "bottle", "answer": None},
        {"items": [finding(category="plastic")], "answer": None},
        {"items": [finding(name="")], "answer": None},
        {"items": [finding(name="\u200b<i></i>")], "answer": None},
        {"items": [7, "bottle", {}], "answer": None},
        "[" * 5000 + "]" * 5000,
        " " * 5_000_000,
    ],
)
def test_an_answer_of_another_shape_fails_the_job(answer: Any) -> None:
    """What nothing can be told from is model_answer_invalid, whatever it is."""
    with pytest.raises(JobFailed) as failure:
        parsed(answer)
    assert failure.value.code == "model_answer_invalid"


GOOD = {"items": [finding()], "answer": None}


@pytest.mark.parametrize(
    ("odd", "read"),
    [
        ({"confidence": 93}, {"confidence": 0.93}),
        ({"confidence": 2}, {"confidence": 0.02}),
        ({"confidence": 1.01}, {"confidence": 1}),
        ({"confidence": 101}, {"confidence": 1}),
        ({"confidence": -0.1}, {"confidence": 0}),
        ({"confidence": " 0.9 "}, {"confidence": 0.9}),
        ({"confidence": "93%"}, {"confidence": 0.93}),
        *(({"confidence": odd}, {"confidence": 0.3}) for odd in (True, None, "sure", [0.9], float("nan"))),
        *(({"material": odd}, {"material": None}) for odd in ("", "gold", 7, ["glass"], "null")),
        *(({"condition": odd}, {"condition": []}) for odd in (None, "", "haunted", ["haunted"], 7, [None])),
        ({"condition": ["wet", "haunted", 7, "WET"]}, {"condition": ["wet"]}),
        ({"category": " Non-Combustible"}, {"category": "non_combustible"}),
        ({"material": "E waste"}, {"material": "e_waste"}),
        ({"name": "x" * 121}, {"name": "x" * 120}),
        ({"name": "x" * 119 + " y"}, {"name": "x" * 119}),
    ],
)
def test_what_is_harmless_is_forgiven(odd: dict[str, Any], read: dict[str, Any]) -> None:
    """Percent, another spelling, an unknown word, a long name: it was paid for, and tells where it goes."""
    assert parsed({"items": [finding(**odd)]}) == parsed({"items": [finding(**read)]})


def test_item_that_is_none_is_left_out_alone() -> None:
    """The others stay, ten at most."""
    said = [finding(name="a"), 7, {}, finding(category="plastic"), finding(name=None), finding(name="b")]
    assert [item.name for item in parsed({"items": said}).items] == ["a", "b"]
    many = parsed({"items": [finding(name=str(number)) for number in range(30)]})
    assert [item.name for item in many.items] == [str(number) for number in range(10)]


@pytest.mark.parametrize(
    "around",
    [
        "```json\n{}\n```",
        "```\n{}```",
        "Here it is:\n{}",
        "{} Anything else?",
        "<think>A {{bottle}}?</think>\n{}",
        "A {{bottle}}?</think>{}",
        '{{"items": 7}} or rather {}',
        '{{"items": []}} no: {}',
        '{} and not {{"items": ["?"]}}',
        "[{}]",
        "\ufeff{}",
    ],
)
def test_object_is_found_in_whatever_is_around_it(around: str) -> None:
    """A fence, a thought, a sentence; of several the last that fits, which a model comes to at the end."""
    assert parsed(around.format(json.dumps(GOOD))) == parsed(GOOD)


@pytest.mark.parametrize(
    "text", ['<think>{"items": []}', '<think>a</think>{"items": []} <think>b</think>', "<think>" * 3000]
)
def test_thought_is_no_answer(text: str) -> None:
    """What stands before or inside it is not what was said at the end."""
    with pytest.raises(JobFailed):
        parsed(text)


@pytest.mark.parametrize(
    "text",
    [
        *('{"a":' * 3900, '{"items":[{"' * 1600, "{" * 19_000, '{"a":[' * 3000 + '"', "{ " * 9000 + '"'),
        *('{"' * 9000, '{"a":{}' * 2800, '{"items":[],' * 1600),
    ],
)
def test_text_of_beginnings_alone_is_no_answer(text: str) -> None:
    """However many objects begin in it, and however deep."""
    with pytest.raises(JobFailed):
        parsed(text)


def test_so_many_beginnings_are_tried_and_no_more() -> None:
    """Each costs time, in the process that serves everybody."""
    begun = '{"a" '
    assert parsed(begun * (MOST_BEGINNINGS - 1) + json.dumps(GOOD)) == parsed(GOOD)
    with pytest.raises(JobFailed):
        parsed(begun * MOST_BEGINNINGS + json.dumps(GOOD))


def test_what_was_not_asked_for_is_left_out() -> None:
    """A field more, as another version may ask for, costs no paid answer, and nobody reads it."""
    more = {"items": [finding(extra=1)], "answer": None, "bin": "blue"}
    assert parsed(more) == parsed({"items": [finding()], "answer": None})


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
)


@given(
    st.text()
    | anything.map(json.dumps)
    | st.fixed_dictionaries(
        {
            "items": st.lists(
                st.fixed_dictionaries(
                    {
                        "name": st.text(max_size=130),
                        "category": st.sampled_from([*Category, "other"]),
                        "material": st.sampled_from([*Material, None]),
                        "confidence": st.floats() | st.floats(0, 1),
                        "condition": st.lists(st.sampled_from(Condition), max_size=3),
                    }
                ),
                max_size=3,
            ),
            "answer": st.none() | st.text(max_size=700),
            "doubt": st.sampled_from([*get_args(DoubtReason), "sad"]) | anything,
            "choices": st.lists(st.sampled_from([GLASS, FOOD]) | anything, max_size=6) | anything,
        }
    ).map(json.dumps)
)
def test_any_text_gives_plain_findings_or_the_failure(text: str) -> None:
    """Whatever the model says, the result is a printable analysis or model_answer_invalid."""
    try:
        analysis = parsed(text)
    except JobFailed as failure:
        assert failure.code == "model_answer_invalid"  # noqa: PT017  # either outcome is right
    else:
        assert [item.confidence for item in analysis.items] == sorted(
            (item.confidence for item in analysis.items), reverse=True
        )
        assert all(
            text.isprintable() for text in [*(item.name for item in analysis.items), analysis.answer or ""]
        )
        assert Analysis.model_validate_json(analysis.model_dump_json()) == analysis
