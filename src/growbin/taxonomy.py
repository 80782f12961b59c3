"""What waste is: the ways it goes, what it is made of, and what changes the advice."""

from __future__ import annotations

from enum import StrEnum


class Category(StrEnum):
    """The eight ways of the Korean separate-collection guidance."""

    RECYCLABLE = "recyclable"
    GENERAL = "general"
    NON_COMBUSTIBLE = "non_combustible"
    FOOD = "food"
    BULKY = "bulky"
    CONSTRUCTION = "construction"
    HAZARDOUS = "hazardous"
    UNCLASSIFIED = "unclassified"


class Material(StrEnum):
    """The twelve recyclable materials."""

    PAPER = "paper"
    CARTON = "carton"
    CLEAR_PET = "clear_pet"
    PLASTICS = "plastics"
    FILM = "film"
    FOAM = "foam"
    GLASS = "glass"
    METALS = "metals"
    TEXTILES = "textiles"
    BATTERIES = "batteries"
    LAMPS = "lamps"
    E_WASTE = "e_waste"


class Condition(StrEnum):
    """What is visible on the item and changes the advice."""

    HAS_CONTENTS = "has_contents"
    SOILED = "soiled"
    WET = "wet"
    HAS_LABEL = "has_label"
    HAS_CAP = "has_cap"
    MIXED_SEPARABLE = "mixed_separable"
    MIXED_INSEPARABLE = "mixed_inseparable"
    BROKEN = "broken"
    CRUSHED = "crushed"
    CUT = "cut"
    HAS_TAPE = "has_tape"
    HAS_INVOICE = "has_invoice"
    COATED = "coated"
    COLOURED = "coloured"
    PRESSURISED = "pressurised"
    SHARP = "sharp"
    FLAMMABLE = "flammable"
    HAS_BATTERY = "has_battery"
    HAS_ELECTRICS = "has_electrics"
    LAMP_FLUORESCENT = "lamp_fluorescent"
    LAMP_LED = "lamp_led"
    LAMP_INCANDESCENT = "lamp_incandescent"
    SEVERAL_ITEMS = "several_items"
    NOT_IDENTIFIABLE = "not_identifiable"
