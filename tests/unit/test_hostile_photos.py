"""A dose of what `make photos` tries by the thousand."""

from __future__ import annotations

import itertools
import random

from growbin.adapters.photo_cleaner import ChildPhotoCleaner
from growbin.errors import JobFailed
from tests import hostile_photos as made

EVERY = 70  # of the damaged ones


async def test_hostile_and_odd_photos_become_a_photo_or_a_failure_code() -> None:
    """Whatever comes in, nothing of its metadata comes out, and no other error."""
    chance = random.Random(11)
    dose = dict(
        itertools.chain(
            itertools.islice(made.damaged(chance), chance.randrange(EVERY), None, EVERY),
            made.told_wrongly(chance),
            made.packed(),
        )
    )
    outcomes: dict[str, str] = {}
    async with ChildPhotoCleaner.open(max_pixels=200_000_000, max_side=1024, children=2) as cleaner:
        for name, data in dose.items():
            try:
                photo = await cleaner.clean(data, "image/jpeg")
                assert made.CANARY.encode() not in photo.data, name
                outcomes[name] = "cleaned"
            except JobFailed as failed:
                outcomes[name] = failed.code
    assert set(outcomes.values()) <= {"cleaned", "photo_unreadable", "photo_too_complex", "unsupported_photo"}
    spoilt = [name for name, _ in made.told_wrongly(chance) if outcomes[name] != "cleaned"]
    assert spoilt == ["filler/comments", "filler/restarts"]  # millions of them
    assert all(outcomes[name] == "cleaned" for name in ("packed/zTXt", "packed/iTXt", "packed/iCCP"))


async def test_whole_ones_are_cleaned() -> None:
    """What the damaged ones are made of is in order."""
    async with ChildPhotoCleaner.open(max_pixels=200_000_000, max_side=1024, children=1) as cleaner:
        for data in made.whole().values():
            assert (await cleaner.clean(data, "image/jpeg")).width > 0
