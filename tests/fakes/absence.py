"""What makes a fake behave as a lost server would."""

from __future__ import annotations

from growbin.errors import Unavailable


class MayBeAway:
    """What can be away: `is_away` makes every call fail as a lost server would."""

    part = "redis"

    def __init__(self) -> None:
        self.is_away = False

    def _answer(self) -> None:
        if self.is_away:
            raise Unavailable(self.part, "told to be away")
