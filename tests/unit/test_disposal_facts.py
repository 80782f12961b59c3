"""What growbin says about disposal is what the sources say: one row a fact."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import get_args

import pytest

from growbin.job import Advice, Finding, Locale
from growbin.rules.advice import advise, advise_thing
from growbin.rules.overlay import load_rulebook
from growbin.rules.rulebook import Rulebook, letters_of
from growbin.rules.things import ThingFinder
from growbin.taxonomy import Category, Condition, Material

BOOK = load_rulebook(None)
FINDER = ThingFinder(BOOK)
LOCALES: tuple[Locale, ...] = get_args(Locale)
C, M = Category, Material

# --- what people ask about ------------------------------------------------------------------------

ASKED = [
    # number, Korean and English name, rule, bin, words of what most people get wrong
    (1, "택배 상자", "parcel box", "recyclable.paper", "paper", "운송장", "label"),
    (2, "영수증", "receipt", "general.paper", "general", "감열지", "thermal"),
    (3, "피자 상자", "pizza box", "recyclable.paper", "paper", "기름", "grease"),
    (4, "종이컵", "paper cup", "recyclable.paper", "paper", "종이팩도 일반 쓰레기도", "neither a carton"),
    (5, "우유팩", "milk carton", "recyclable.carton", "carton", "종이류와 섞지", "do not mix it with paper"),
    (5, "멸균팩", "sterile pack", "recyclable.carton", "carton", "빨대와 비닐", "straw and wrapping"),
    (6, "컵라면 용기", "noodle cup", "recyclable.paper", "paper", "종량제봉투", "general waste bag"),
    (
        6,
        "스티로폼 컵라면 용기",
        "foam noodle cup",
        "recyclable.foam",
        "foam",
        "종량제봉투",
        "general waste bag",
    ),
    (7, "스프링 노트", "spiral notebook", "recyclable.paper", "paper", "스프링", "spiral"),
    (7, "달력", "calendar", "recyclable.paper", "paper", "스프링", "spiral"),
    (8, "코팅 전단지", "coated leaflet", "general.paper", "general", "비닐이 입혀져", "film on the paper"),
    (8, "사진", "photo", "general.paper", "general", "비닐이 입혀져", "film on the paper"),
    (9, "휴지", "tissue", "general", "general", "종이류로 재활용할 수 없어요", "not paper for recycling"),
    (9, "물티슈", "wet wipe", "general", "general", "플라스틱 섬유", "plastic fibre"),
    (10, "종이 포일", "baking paper", "general.paper", "general", "실리콘", "silicone"),
    (11, "종이 쇼핑백", "paper bag", "recyclable.paper", "paper", "재질이 다른", "other materials"),
    (12, "계란판", "egg tray", "recyclable.paper", "paper", "플라스틱 계란판", "plastic one"),
    (12, "플라스틱 계란판", "plastic egg tray", "recyclable.plastics", "plastics", "페트병", "PET"),
    (13, "생수병", "water bottle", "recyclable.clear_pet", "clear_pet", "뚜껑", "cap"),
    (14, "페트병 라벨", "PET bottle label", "recyclable.film", "film", "떼어서", "Do not leave it on"),
    (15, "배달 용기", "delivery tub", "recyclable.plastics", "plastics", "기름이나 양념", "oil or sauce"),
    (16, "즉석밥 용기", "instant rice bowl", "recyclable.plastics", "plastics", "지역마다", "Places differ"),
    (17, "샴푸통", "shampoo bottle", "recyclable.plastics", "plastics", "펌프", "pump"),
    (18, "치약 튜브", "toothpaste tube", "recyclable.plastics", "plastics", "도포·첩합", "도포·첩합"),
    (
        19,
        "화장품 용기",
        "cosmetics container",
        "recyclable.plastics",
        "plastics",
        "내용물이 남아",
        "content left",
    ),
    (20, "칫솔", "toothbrush", "general", "general", "전동 칫솔", "electric one"),
    (20, "전동 칫솔", "electric toothbrush", "recyclable.e_waste", "e_waste", "칫솔모", "brush head"),
    (21, "빨대", "straw", "recyclable.plastics", "plastics", "옥수수 전분", "corn-starch"),
    (
        21,
        "생분해 빨대",
        "corn-starch straw",
        "general.plastics",
        "general",
        "플라스틱처럼",
        "looks like plastic",
    ),
    (
        22,
        "카페 플라스틱 컵",
        "takeaway cup",
        "recyclable.plastics",
        "plastics",
        "보증금 표시",
        "deposit mark",
    ),
    (23, "과자 봉지", "snack bag", "recyclable.film", "film", "투명한 봉투", "clear bag"),
    (24, "랩", "cling film", "recyclable.film", "film", "PVC", "PVC"),
    (24, "배달 음식 랩", "shop wrap", "general.film", "general", "PVC", "PVC"),
    (25, "뽁뽁이", "bubble wrap", "recyclable.film", "film", "테이프", "tape"),
    (26, "지퍼백", "zip bag", "recyclable.film", "film", "깨끗해지지 않으면", "rinse clean"),
    (27, "양파망", "onion net", "recyclable.film", "film", "양파 껍질", "onion skins"),
    (28, "고무장갑", "rubber glove", "general", "general", "비닐류가 아니에요", "not film"),
    (29, "아이스팩", "ice pack", "recyclable.film", "film", "젤", "gel"),
    (29, "젤 아이스팩", "gel ice pack", "general", "general", "하수구", "drain"),
    (30, "스티로폼 상자", "foam box", "recyclable.foam", "foam", "자국", "stained"),
    (31, "과일 포장망", "fruit net", "recyclable.foam", "foam", "안내가 서로 달라요", "differ"),
    (32, "장난감", "toy", "general.plastics", "general", "플라스틱류가 아니에요", "not plastics"),
    (33, "리빙박스", "storage box", "recyclable.plastics", "plastics", "대형폐기물", "bulky"),
    (34, "시디", "CD", "general.plastics", "general", "케이스만", "only the case"),
    (35, "텀블러", "tumbler", "recyclable.metals", "metals", "분리되지 않으면", "does not come apart"),
    (36, "소주병", "soju bottle", "recyclable.deposit_bottle", "deposit", "깨끗한 병만", "whole and clean"),
    (36, "맥주병", "beer bottle", "recyclable.deposit_bottle", "deposit", "깨끗한 병만", "whole and clean"),
    (
        37,
        "깨진 유리",
        "broken glass",
        "non_combustible.glass",
        "non_combustible",
        "유리병 수거함",
        "glass bin",
    ),
    (38, "거울", "mirror", "non_combustible.glass", "non_combustible", "유리병 수거함", "glass bin"),
    (38, "전신 거울", "full-length mirror", "bulky", "bulky", "유리병 수거함", "glass bin"),
    (39, "그릇", "ceramic bowl", "non_combustible", "non_combustible", "도자기", "Ceramics"),
    (39, "머그컵", "mug", "non_combustible", "non_combustible", "도자기", "Ceramics"),
    (40, "내열유리", "heat-proof glass", "non_combustible.glass", "non_combustible", "안 돼요", "must not"),
    (40, "냄비 뚜껑", "pot lid", "non_combustible.glass", "non_combustible", "안 돼요", "must not"),
    (41, "향수병", "perfume bottle", "recyclable.glass", "glass", "휴지에 적셔", "tissue"),
    (42, "캔", "can", "recyclable.metals", "metals", "담배꽁초", "cigarette butts"),
    (43, "부탄가스", "butane can", "recyclable.spray_can", "metals", "구멍", "pierce"),
    (43, "스프레이", "spray can", "recyclable.spray_can", "metals", "구멍", "pierce"),
    (
        44,
        "알루미늄 포일",
        "aluminium foil",
        "general",
        "general",
        "금속류가 아니에요",
        "does not go with the metals",
    ),
    (45, "프라이팬", "frying pan", "recyclable.metals", "metals", "금속이 아닌", "not metal"),
    (45, "냄비", "saucepan", "recyclable.metals", "metals", "금속이 아닌", "not metal"),
    (46, "칼", "knife", "general.sharp", "general", "금속류 수거함에 넣지", "metal bin"),
    (46, "가위", "scissors", "general.sharp", "general", "금속류 수거함에 넣지", "metal bin"),
    (46, "면도기", "razor", "general.sharp", "general", "금속류 수거함에 넣지", "metal bin"),
    (47, "우산", "umbrella", "recyclable.metals", "metals", "천은 종량제봉투", "cloth"),
    (48, "옷걸이", "clothes hanger", "recyclable.metals", "metals", "나무", "wooden"),
    (48, "플라스틱 옷걸이", "plastic hanger", "recyclable.plastics", "plastics", "고리", "hook"),
    (49, "건전지", "battery", "recyclable.batteries", "batteries", "젖지 않게", "dry"),
    (
        49,
        "보조배터리",
        "power bank",
        "recyclable.batteries",
        "batteries",
        "플라스틱처럼",
        "looks like plastics",
    ),
    (
        50,
        "부푼 배터리",
        "swollen battery",
        "hazardous.damaged_batteries",
        "hand_over",
        "넣지 말고",
        "Not into the box",
    ),
    (51, "휴대폰", "mobile phone", "recyclable.e_waste", "e_waste", "1개만", "single"),
    (51, "소형 가전", "small appliance", "recyclable.e_waste", "e_waste", "1개만", "single"),
    (52, "전자담배", "e-cigarette", "recyclable.e_waste", "e_waste", "불이 날 수", "fire"),
    (52, "무선 이어폰", "wireless earbuds", "recyclable.e_waste", "e_waste", "불이 날 수", "fire"),
    (53, "냉장고", "refrigerator", "recyclable.e_waste", "e_waste", "부품을 빼지", "take it apart"),
    (53, "세탁기", "washing machine", "recyclable.e_waste", "e_waste", "부품을 빼지", "take it apart"),
    (53, "TV", "television", "recyclable.e_waste", "e_waste", "부품을 빼지", "take it apart"),
    (54, "형광등", "fluorescent lamp", "recyclable.lamps", "lamps", "종량제봉투나", "Not in the general"),
    (54, "LED 전구", "LED bulb", "recyclable.led_lamps", "lamps", "평판", "panels"),
    (54, "LED 평판등", "LED panel", "non_combustible", "non_combustible", "대형폐기물", "bulky"),
    (55, "약", "medicine", "hazardous.medicine", "medicine", "포장째 받는 곳", "take pills packed"),
    (55, "빈 알약 포장", "blister pack", "general", "general", "플라스틱류가 아니에요", "not plastics"),
    (56, "폐식용유", "cooking oil", "recyclable.cooking_oil", "cooking_oil", "하수구", "drain"),
    (57, "페인트", "paint", "hazardous", "hazardous", "하수구", "drain"),
    (57, "살충제", "pesticide", "hazardous", "hazardous", "하수구", "drain"),
    (58, "소화기", "fire extinguisher", "bulky.extinguisher", "bulky", "압력계", "gauge"),
    (59, "이불", "duvet", "general.textiles", "general", "헌 옷 수거함에 넣지", "Not in the clothes box"),
    (59, "베개", "pillow", "general.textiles", "general", "헌 옷 수거함에 넣지", "Not in the clothes box"),
    (59, "캐리어", "suitcase", "bulky", "bulky", "헌 옷 수거함", "clothes box"),
    (60, "닭 뼈", "chicken bones", "general", "general", "동물이 먹을 수 없는", "animals cannot eat"),
    (60, "조개껍데기", "clam shell", "general", "general", "동물이 먹을 수 없는", "animals cannot eat"),
    (60, "복숭아씨", "peach stone", "general", "general", "동물이 먹을 수 없는", "animals cannot eat"),
    (60, "티백", "tea bag", "general", "general", "동물이 먹을 수 없는", "animals cannot eat"),
    (60, "커피 찌꺼기", "coffee grounds", "general", "general", "동물이 먹을 수 없는", "animals cannot eat"),
    (61, "고양이 모래", "cat litter", "non_combustible", "non_combustible", "변기", "toilet"),
    (61, "두부 모래", "tofu cat litter", "general", "general", "변기", "toilet"),
    (61, "화분 흙", "potting soil", "non_combustible", "non_combustible", "타지 않으니", "does not burn"),
    (61, "수은 체온계", "mercury thermometer", "hazardous", "hazardous", "감싸세요", "Pad"),
    (61, "콘택트렌즈", "contact lens", "general", "general", "하수구", "drain"),
    (61, "매트리스", "mattress", "bulky", "bulky", "", ""),
    (61, "의자", "chair", "bulky", "bulky", "", ""),
    (61, "타일", "tile", "construction", "construction", "양이 적으면", "little"),
    (61, "라이터", "lighter", "general.lighter", "general", "가스를 모두 빼기", "all its gas"),
    (61, "자전거", "bicycle", "bulky", "bulky", "", ""),
]
ENTRIES = {
    "택배 상자": 19, "영수증": 730, "종이컵": 41, "우유팩": 16, "컵라면 용기": 406, "종이 포일": 410,
    "생수병": 530, "배달 용기": 531, "즉석밥 용기": 98, "샴푸통": 590, "치약 튜브": 593,
    "카페 플라스틱 컵": 111, "과자 봉지": 102, "랩": 119, "에어캡": 106, "고무장갑": 344,
    "아이스팩": 179, "스티로폼 상자": 533, "장난감": 221, "리빙박스": 182, "CD": 336, "깨진 유리": 498,
    "전신 거울": 195, "머그컵": 502, "향수병": 134, "캔": 84, "부탄가스": 78, "알루미늄 포일": 409,
    "칼": 711, "우산": 303, "휴대폰": 274, "전자담배": 298, "빈 알약 포장": 400, "폐식용유": 178,
    "소화기": 211, "캐리어": 693, "라이터": 364,
}  # fmt: skip


def test_each_of_the_sixty_is_asked_about() -> None:
    """None of the numbers is left out."""
    assert {number for number, *_ in ASKED} == set(range(1, 62))  # 61: those that came after


@pytest.mark.parametrize(("ko", "en", "rule_id", "bin_id", "trap_ko", "trap_en"), [row[1:] for row in ASKED])
def test_thing_goes_where_its_source_says_and_warns_of_the_trap_first(
    ko: str, en: str, rule_id: str, bin_id: str, trap_ko: str, trap_en: str
) -> None:
    """In either language its name leads to rule and bin; the common mistake is the first caution."""
    asked: dict[Locale, tuple[str, str]] = {"ko": (ko, trap_ko), "en": (en, trap_en)}
    for locale, (name, trap) in asked.items():
        advice = advise_thing(BOOK, FINDER.find(name, locale)[0], locale)
        assert (advice.rule.id, advice.bin) == (rule_id, BOOK.bins[bin_id][locale])
        assert trap in advice.cautions[0]


@pytest.mark.parametrize(("name", "number"), ENTRIES.items())
def test_number_in_the_dictionary_stands_after_the_source(name: str, number: int) -> None:
    """Whoever wants to look it up finds the entry."""
    reference = advise_thing(BOOK, FINDER.find(name, "ko")[0], "ko").rule
    assert reference.source == f"{BOOK.sources['sorting_site']['ko']} #{number}"
    assert reference.as_of


def test_number_is_given_only_for_the_dictionary() -> None:
    """A number after another source would mean nothing."""
    for thing in BOOK.things:
        rule_id, _ = BOOK.settle(BOOK.start_of(thing), frozenset(thing.condition))
        assert thing.entry is None or (thing.source or BOOK.rules[rule_id].source) == "sorting_site", thing.id


def test_names_of_a_thing_are_not_spellings_that_the_search_knows() -> None:
    """Spaces do not matter, so no name is listed twice with and without them."""
    for thing in BOOK.things:
        for names in thing.names.values():
            assert len({letters_of(name) for name in names}) == len(names), thing.id


# --- the rules ------------------------------------------------------------------------------------


def advised(
    category: Category, material: Material | None, *condition: Condition, book: Rulebook = BOOK
) -> tuple[Advice, Advice]:
    finding = Finding(
        name="물건", category=category, material=material, confidence=0.9, condition=list(condition)
    )
    return advise(book, finding, "ko"), advise(book, finding, "en")


def said(advice: Advice) -> str:
    return "\n".join([*advice.steps, *advice.cautions])


@pytest.mark.parametrize(
    ("category", "material", "korean", "english"),
    [
        (C.RECYCLABLE, M.PAPER, "상자와 다른 종이를 나눠", "boxes apart from other paper"),
        (C.RECYCLABLE, M.PAPER, "택배 운송장, 사진, 종이 포일", "parcel labels, photos, baking paper"),
        (C.RECYCLABLE, M.PAPER, "종이컵과 깨끗한 종이 컵라면", "clean paper noodle bowls are paper"),
        (C.RECYCLABLE, M.CARTON, "종이팩 수거함이 없으면 따로 묶어", "no carton bin, tie cartons up"),
        (C.RECYCLABLE, M.CLEAR_PET, "트레이, 워셔액 통은 플라스틱류", "washer-fluid bottles are plastics"),
        (C.RECYCLABLE, M.CLEAR_PET, "간장병과 식초병은 기관마다", "vinegar bottles the sources differ"),
        (C.RECYCLABLE, M.PLASTICS, "음료수병은 투명 페트병", "drink bottle goes in the colourless"),
        (C.RECYCLABLE, M.PLASTICS, "나누지 않아도 돼요", "No need to sort by PP"),
        (C.RECYCLABLE, M.PLASTICS, "작은 것도 깨끗하면", "Small clean pieces"),
        (C.RECYCLABLE, M.PLASTICS, "실리콘, 멜라민 그릇, 생분해", "silicone, melamine, biodegradable"),
        (C.RECYCLABLE, M.FILM, "물로 헹구세요", "Rinse off"),
        (C.RECYCLABLE, M.FILM, "투명하거나 반투명한 봉투", "clear or half-clear bag"),
        (C.RECYCLABLE, M.FILM, "매트, 방수포, 고무장갑", "mats, tarpaulin and rubber gloves"),
        (C.RECYCLABLE, M.FOAM, "받지 않는 곳도 있어요", "Some places do not take coloured foam"),
        (C.RECYCLABLE, M.FOAM, "산 곳에 돌려주세요", "back to the shop"),
        (C.RECYCLABLE, M.GLASS, "담배꽁초", "cigarette butts"),
        (C.RECYCLABLE, M.GLASS, "반환 수거기", "return centre or machine"),
        (C.RECYCLABLE, M.GLASS, "크리스털, 거울, 유리컵, 도자기", "crystal, mirrors, drinking glasses"),
        (C.RECYCLABLE, M.METALS, "포일 그릇은 종량제봉투에", "Foil and foil dishes go in the general"),
        (C.RECYCLABLE, M.METALS, "캔은 물로 헹구세요", "Rinse cans"),
        (C.RECYCLABLE, M.METALS, "캔과 고철을 따로", "cans and scrap apart"),
        (C.RECYCLABLE, M.METALS, "전선은 소형 가전 수거함에", "cables in the small-appliance box"),
        (C.RECYCLABLE, M.TEXTILES, "짝끼리", "pairs"),
        (C.RECYCLABLE, M.TEXTILES, "젖지 않게 마대에", "dry in a sack"),
        (C.RECYCLABLE, M.TEXTILES, "바퀴 달린 가방, 롤러스케이트", "wheeled bags, roller skates"),
        (C.RECYCLABLE, M.BATTERIES, "리튬 배터리도 같은 수거함", "Lithium batteries go in the same box"),
        (C.RECYCLABLE, M.BATTERIES, "전선을 자르지 마세요", "Do not cut the wires"),
        (C.RECYCLABLE, M.BATTERIES, "규정은 없지만", "general practice, not an official rule"),
        (C.RECYCLABLE, M.E_WASTE, "작은 가전은 5개부터", "small ones from five"),
        (C.RECYCLABLE, M.E_WASTE, "1599-0903", "1599-0903"),
        (C.RECYCLABLE, M.E_WASTE, "부품을 빼지 마세요", "Do not take it apart"),
        (C.RECYCLABLE, M.E_WASTE, "판매점이 헌 제품을", "shop takes the old one"),
        (C.RECYCLABLE, M.E_WASTE, "정보가 저장되는 기기는", "If it holds data"),
        (C.NON_COMBUSTIBLE, None, "들어가지 않으면 대형폐기물", "bulky waste"),
        (C.NON_COMBUSTIBLE, M.GLASS, "테이프를 붙이세요", "with tape"),
        (C.NON_COMBUSTIBLE, M.GLASS, "양이 적으면", "A small amount"),
        (C.NON_COMBUSTIBLE, M.LAMPS, "종량제봉투에 버리는 곳도", "general waste bag"),
        (C.FOOD, None, "생선 가시", "fish bones"),
        (C.FOOD, None, "대파 뿌리, 고춧대, 티백", "leek roots, pepper stems, tea bags"),
        (C.BULKY, None, "누리집이나 앱", "website or app"),
        (C.BULKY, None, "스티커 없이", "no sticker"),
        (C.CONSTRUCTION, None, "5톤 미만", "less than 5 tonnes"),
        (C.CONSTRUCTION, None, "먼저 골라내세요", "First sort out"),
        (C.CONSTRUCTION, None, "먼저 신고", "Report large amounts first"),
        (C.HAZARDOUS, None, "63곳", "63 municipalities"),
        (C.HAZARDOUS, None, "전용 수거함이 없으면 밀봉", "Where there is no box, seal it"),
    ],
)  # fmt: skip
def test_rule_says_what_its_source_says(
    category: Category, material: Material | None, korean: str, english: str
) -> None:
    """Each fact that was wrong, vague or missing is said in both languages."""
    in_korean, in_english = advised(category, material)
    assert korean in said(in_korean)
    assert english in said(in_english)


@pytest.mark.parametrize(
    ("category", "material", "condition", "rule_id"),
    [
        (C.RECYCLABLE, M.PAPER, (Condition.COATED,), "recyclable.paper"),  # a paper cup is paper
        (C.GENERAL, M.PAPER, (Condition.COATED,), "general.paper"),
        (C.RECYCLABLE, M.CARTON, (Condition.COATED,), "recyclable.carton"),
        (C.RECYCLABLE, M.FOAM, (Condition.COLOURED,), "recyclable.foam"),
        (C.RECYCLABLE, M.FOAM, (Condition.COATED,), "general.foam"),
        (C.RECYCLABLE, M.FILM, (Condition.SOILED,), "recyclable.film"),
        (C.RECYCLABLE, M.METALS, (Condition.SHARP,), "general.sharp"),
        (C.GENERAL, M.METALS, (Condition.SHARP,), "general.sharp"),
        (C.GENERAL, None, (Condition.SHARP,), "general.sharp"),
        (C.GENERAL, M.METALS, (), "general"),  # foil
        (C.RECYCLABLE, M.METALS, (), "recyclable.metals"),  # nails and screws
        (C.HAZARDOUS, None, (Condition.SHARP,), "hazardous"),  # a syringe
        (C.GENERAL, None, (Condition.FLAMMABLE, Condition.PRESSURISED), "general.lighter"),
        (
            C.GENERAL,
            None,
            (Condition.FLAMMABLE, Condition.PRESSURISED, Condition.HAS_CONTENTS),
            "general.lighter",
        ),
        (C.RECYCLABLE, M.METALS, (Condition.FLAMMABLE, Condition.PRESSURISED), "recyclable.spray_can"),
        (C.RECYCLABLE, M.LAMPS, (Condition.LAMP_LED,), "recyclable.led_lamps"),
        (C.RECYCLABLE, M.LAMPS, (Condition.LAMP_LED, Condition.BROKEN), "non_combustible.lamps"),
        (
            C.RECYCLABLE,
            M.PLASTICS,
            (Condition.HAS_BATTERY, Condition.MIXED_INSEPARABLE),
            "recyclable.e_waste",
        ),
    ],
)
def test_what_is_seen_leads_to_the_nations_rule(
    category: Category, material: Material | None, condition: tuple[Condition, ...], rule_id: str
) -> None:
    """What only some places do is not told to everybody."""
    korean, _ = advised(category, material, *condition)
    assert korean.rule.id == rule_id


@pytest.mark.parametrize(
    ("option", "value", "material", "condition", "rule_id"),
    [
        ("coloured_foam", True, M.FOAM, (Condition.COLOURED,), "general.foam"),
        ("soiled_film_general", True, M.FILM, (Condition.SOILED,), "general.film"),
        ("led_lamp_box", False, M.LAMPS, (Condition.LAMP_LED,), "non_combustible.lamps"),
        ("lamps_in_pay_bag", True, M.LAMPS, (Condition.LAMP_INCANDESCENT,), "general.lamps"),
        ("lamps_in_pay_bag", True, M.LAMPS, (Condition.BROKEN,), "general.lamps"),
        ("lamps_in_pay_bag", True, M.LAMPS, (Condition.CRUSHED,), "general.lamps"),
        (
            "battery_devices_in_battery_box",
            True,
            M.E_WASTE,
            (Condition.HAS_BATTERY, Condition.MIXED_INSEPARABLE),
            "recyclable.batteries",
        ),
        (
            "battery_devices_in_battery_box",
            True,
            M.E_WASTE,
            (Condition.HAS_BATTERY, Condition.MIXED_INSEPARABLE, Condition.CRUSHED),
            "hazardous.damaged_batteries",
        ),
    ],
)
def test_option_of_a_place_leads_to_its_rule(
    option: str, value: bool, material: Material, condition: tuple[Condition, ...], rule_id: str
) -> None:
    """What differs from place to place can be switched, and is not so for the nation."""
    local = BOOK.model_copy(update={"options": BOOK.options | {option: value}})
    assert advised(C.RECYCLABLE, material, *condition, book=local)[0].rule.id == rule_id
    assert advised(C.RECYCLABLE, material, *condition)[0].rule.id != rule_id


def test_foil_lined_cartons_are_kept_apart_only_where_the_bins_are_split() -> None:
    """Nationally both kinds share a bin."""
    split = BOOK.model_copy(update={"options": BOOK.options | {"split_cartons": True}})
    national, local = (
        advised(C.RECYCLABLE, M.CARTON, Condition.COATED, book=book)[1] for book in (BOOK, split)
    )
    assert "the bin for foil-lined packs" not in said(national)
    assert "the bin for foil-lined packs" in said(local)


def test_clean_part_of_soiled_paper_may_be_saved() -> None:
    """Half a pizza box is still paper."""
    korean, english = advised(C.RECYCLABLE, M.PAPER, Condition.SOILED)
    assert korean.rule.id == "general.paper"
    assert any("깨끗한 부분은 잘라" in caution for caution in korean.cautions)
    assert any("cut off the clean part" in caution for caution in english.cautions)


def test_spray_can_with_something_flammable_left_is_hazardous_waste() -> None:
    """Lacquer and paint are sealed, labelled and handed in."""
    korean, english = advised(C.RECYCLABLE, M.METALS, Condition.PRESSURISED)
    assert "유해폐기물로 배출하세요" in said(korean)
    assert "hand it in as hazardous waste" in said(english)


# --- all texts ------------------------------------------------------------------------------------


def texts(locale: Locale) -> Iterator[str]:
    """All that is said to do or not to do."""
    for rule in BOOK.rules.values():
        yield from (text[locale] for text in (*rule.steps, *rule.cautions))
    for effect in (*BOOK.switches, *BOOK.notes):
        yield from [effect.caution[locale]] if effect.caution else []
    for note in BOOK.notes:
        yield from (text[locale] for text in note.steps)
    for thing in BOOK.things:
        yield from (text[locale] for text in (*thing.steps, *thing.cautions))


@pytest.mark.parametrize(
    ("locale", "danger", "warning"),
    [
        ("ko", r"뚫|구멍을|하수구|싱크대|변기", r"마세요|말고"),
        ("en", r"\bpierc|\bpunctur|\b(a|the) drain\b|\bsink\b|\btoilet\b", r"\b[Nn]ever\b|\b[Nn]ot\b"),
    ],
)
def test_holes_and_drains_are_only_warned_of(locale: Locale, danger: str, warning: str) -> None:
    """Older leaflets tell to pierce cans; none of our texts does, and nothing goes down the drain."""
    spoken = [text for text in texts(locale) if re.search(danger, text)]
    assert spoken
    assert [text for text in spoken if not re.search(warning, text)] == []


def test_korean_has_one_polite_tone() -> None:
    """What to do ends in …세요 or …주세요, what is so in …요; nothing in …버려요 or …다."""
    for text in texts("ko"):
        sentences = re.split(r"(?<=[.!?])\s", text)
        assert all(re.search(r"요(\([^)]*\))?\.$", sentence) for sentence in sentences), text
        assert not re.search(r"버려요|넣어라|합니다|하십시오", text), text


@pytest.mark.parametrize(
    "old",
    [
        r"(?<!시·군·)구청",
        r"(?<!행정복지센터\()주민센터",
        r"(?<!건)(?<!형 )전지",
        "폐조명",
        "발포합성수지",
        "폐기물류",
    ],
)
def test_offices_and_boxes_have_the_names_that_people_know(old: str) -> None:
    """Many cities have no 구, the centres have a new name, and boxes are called what stands on them."""
    spoken = [*texts("ko"), *(name["ko"] for name in BOOK.bins.values())]
    spoken += [rule.title["ko"] for rule in BOOK.rules.values()]
    assert [text for text in spoken if re.search(old, text)] == []


@pytest.mark.parametrize("hearsay", ["훈령", "호)", "고시", "blog", "블로그", "SeSACTHON"])
def test_no_source_is_claimed_that_nobody_has_seen(hearsay: str) -> None:
    """No number of a directive was seen, and blogs are no proof."""
    assert all(hearsay not in text for source in BOOK.sources.values() for text in source.values())


AS_OF = {
    "2026-07-01": ("recyclable.plastics", "recyclable.film", "recyclable.lamps", "recyclable.led_lamps",
                   "non_combustible", "non_combustible.lamps"),
    "2026-07-02": ("recyclable.paper", "recyclable.carton", "recyclable.clear_pet", "recyclable.foam",
                   "recyclable.glass", "recyclable.metals", "recyclable.batteries", "recyclable.textiles",
                   "food", "hazardous"),
    "2026-07-03": ("recyclable.spray_can",),
    "2026-06-27": ("non_combustible.glass",),
    "2026-07-05": ("bulky",),
    "2026-08-14": ("recyclable.e_waste",),
    "2026-03-11": ("construction",),
    None: ("recyclable", "unclassified", "hazardous.damaged_batteries", "general"),
}  # fmt: skip


def test_each_rule_bears_the_date_of_its_record() -> None:
    """The day on which the source is known to have said so; what nobody says is general practice."""
    for day, rule_ids in AS_OF.items():
        for rule_id in rule_ids:
            as_of = BOOK.rules[rule_id].as_of
            assert (as_of.isoformat() if as_of else None) == day, rule_id


def test_what_is_dangerous_is_guarded() -> None:
    """No overlay may loosen it."""
    assert {rule_id for rule_id, rule in BOOK.rules.items() if rule.guarded} == {
        "recyclable.batteries", "hazardous.damaged_batteries", "recyclable.lamps", "recyclable.led_lamps",
        "non_combustible.lamps", "general.lamps", "recyclable.spray_can", "recyclable.e_waste", "hazardous",
        "hazardous.medicine", "general.sharp", "general.lighter", "bulky.extinguisher",
        "recyclable.cooking_oil",
    }  # fmt: skip
