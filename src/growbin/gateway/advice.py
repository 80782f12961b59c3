"""The advice by rule, without a photo and without a model: by name, or by what a person says it is.

Anybody may ask and any cache may keep it: no session is read, no cookie is set.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import TypeVar, get_args

from aiohttp import hdrs, web

from growbin.errors import Rejected
from growbin.gateway.answers import RuleAdvice, json_answer
from growbin.gateway.context import GATEWAY
from growbin.gateway.rates import LEVELS, RATES, heed
from growbin.gateway.sessions import address_of
from growbin.job import Locale, NamedThing
from growbin.rules.advice import advise_named, advise_thing
from growbin.taxonomy import Category, Condition, Material

LONGEST_NAME = 100
KEPT_SECONDS = 300
PARAMETERS = ("name", "category", "material", "condition", "locale")

Value = TypeVar("Value", bound=StrEnum)


async def find_advice(request: web.Request) -> web.Response:
    """`GET /api/v1/waste/advice?name=` or `?category=&material=&condition=`"""
    gateway = request.app[GATEWAY]
    heed(request, request.app[RATES].public_reads.count(address_of(request)))
    request.pop(LEVELS)  # any cache may keep the answer
    query = request.query
    _check_parameters({name: len(query.getall(name)) for name in query})
    locale = _locale(query.get("locale", "ko"))
    if "name" in query:
        name = query["name"].strip()
        if not 0 < len(name) <= LONGEST_NAME:
            raise _unusable(f"`name` must have 1 to {LONGEST_NAME} characters.")
        things = gateway.things.find(name, locale)
        items = [advise_thing(gateway.rules, thing, locale) for thing in things]
        asked = f"name={name}"
    else:
        category = _one_of(Category, "category", query["category"])
        material = _one_of(Material, "material", query["material"]) if "material" in query else None
        seen = {_one_of(Condition, "condition", text) for text in query.getall("condition", [])}
        conditions = sorted(seen)
        thing = NamedThing(name="", category=category, material=material, condition=conditions)
        items = [advise_named(gateway.rules, thing, locale)]
        asked = f"category={category}&material={material or ''}&condition={','.join(conditions)}"

    version = gateway.rules.version
    tag = hashlib.sha256(f"{version} {locale} {asked}".encode()).hexdigest()[:32]
    if any(known.value in (tag, "*") for known in request.if_none_match or ()):
        answer = web.Response(status=304)
    else:
        place = gateway.rules.place
        answer = json_answer(
            RuleAdvice(
                locale=locale,
                place=place.name[locale] if place else None,
                rules_version=version,
                items=items,
            )
        )
    answer.etag = tag
    answer.headers[hdrs.CACHE_CONTROL] = f"public, max-age={KEPT_SECONDS}"
    return answer


def _check_parameters(times: dict[str, int]) -> None:
    for name, count in times.items():
        if name not in PARAMETERS:
            raise _unusable(f"A parameter is unknown: there are {', '.join(PARAMETERS)}.")
        if count > 1 and name != "condition":
            raise _unusable(f"`{name}` may stand there once.")
    if ("name" in times) == ("category" in times):
        raise _unusable(
            f"Give either `name`, or `category` ({_listed(Category)}) with what is known besides."
        )
    if "name" in times and times.keys() & {"material", "condition"}:
        raise _unusable("`material` and `condition` go with `category`, not with `name`.")


def _locale(text: str) -> Locale:
    for locale in get_args(Locale):
        if text == locale:
            return locale  # type: ignore[no-any-return]  # get_args knows no types
    raise _unusable(f"`locale` must be one of {', '.join(get_args(Locale))}.")


def _one_of(values: type[Value], name: str, text: str) -> Value:
    try:
        return values(text)
    except ValueError:
        raise _unusable(f"`{name}` must be one of {_listed(values)}.") from None


def _listed(values: type[StrEnum]) -> str:
    return ", ".join(values)


def _unusable(detail: str) -> Rejected:
    return Rejected("bad_parameter", detail)
