"""What each model accepts, and from when it is believed. It stands in `data/models.json`, a row for
a name or the beginning of names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Literal

from growbin.certainty import Thresholds
from growbin.job import Noun

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
CapParameter = Literal["max_completion_tokens", "max_tokens"]
ResponseFormat = Literal["json_schema", "json_object", "none"]  # `none`: the prompt alone says what is wanted
ImageDetail = Literal["low", "high", "auto", "none"]  # `none`: the field is left out


@dataclass(frozen=True, slots=True)
class CallWishes:
    """What the settings say of a call of the model; None leaves it to the model's row."""

    effort: Effort | None = None
    cap_parameter: CapParameter | None = None
    most_tokens: int | None = None
    response_format: ResponseFormat | None = None
    detail: ImageDetail | None = None


# They come from these, and mean nothing to another model than the one that they are set for.
CALL_SETTINGS = (
    "OPENAI_REASONING_EFFORT",
    "OPENAI_TOKEN_PARAMETER",
    "OPENAI_MAX_TOKENS",
    "OPENAI_RESPONSE_FORMAT",
    "OPENAI_IMAGE_DETAIL",
)


class EffortRefused(Exception):
    """The model does not accept the reasoning effort; the text names what it accepts."""


class Capabilities(Noun, extra="forbid"):
    """`efforts` has the least first; it is empty for a model that does not reason, None when not known.
    `certainty` is a guess for the hosted models: nobody has measured them."""

    names: tuple[str, ...]
    efforts: tuple[Effort, ...] | None
    cap_parameter: CapParameter
    response_format: ResponseFormat
    detail: ImageDetail = "low"  # one small price for every photo, and tells a bottle from a can
    answers_questions: bool = True
    certainty: Thresholds
    source: str

    def effort(self, model: str, wanted: Effort | None) -> Effort | None:
        """The effort to send, None for no field: the wanted one, else the least. Raises EffortRefused."""
        if self.efforts is None:
            return wanted
        if not self.efforts:
            if wanted in (None, "none"):  # to send it would say the same, and be refused
                return None
            raise EffortRefused(
                f"{model} does not reason: unset OPENAI_REASONING_EFFORT (is {wanted!r}), or set it to none"
            )
        if wanted is not None and wanted not in self.efforts:
            accepted = ", ".join(self.efforts)
            raise EffortRefused(
                f"{model} does not accept OPENAI_REASONING_EFFORT={wanted}: it accepts {accepted}"
            )
        return wanted or self.efforts[0]


def capabilities_of(model: str) -> Capabilities:
    """The row with the longest name that fits `model`; the one for unknown models where none does."""
    return _known(model) or _catalogue().unknown


def thresholds_of(answered: str, *, configured: str, sure_threshold: float | None) -> Thresholds:
    """Those of the model that answered where it is known, else of the configured one. A `sure_threshold`
    takes the place of its `sure`."""
    own = (_known(answered) or capabilities_of(configured)).certainty
    if sure_threshold is None:
        return own
    return Thresholds(sure=sure_threshold, probable=min(own.probable, sure_threshold))


@lru_cache(maxsize=64)  # a server may name its model as it likes
def _known(model: str) -> Capabilities | None:
    # `openai/gpt-4o` and `ft:gpt-4o-2024-08-06:org::id` accept what gpt-4o does.
    name = model.rpartition("/")[2].removeprefix("ft:")
    fitting = [
        (len(known), row)
        for row in _catalogue().models
        for known in row.names
        # gpt-5-mini and dated snapshots are a gpt-5; gpt-5.4, gpt-5-chat-latest and gpt-50 are not.
        if re.fullmatch(rf"{re.escape(known)}(-mini|-nano)?(-\d[\d-]*)?(:.*)?", name)
    ]
    return max(fitting, key=lambda fit: fit[0])[1] if fitting else None


# --- the shape of data/models.json; anything unknown in it is an error ---------------------------


class _Catalogue(Noun, extra="forbid"):
    models: tuple[Capabilities, ...]
    unknown: Capabilities


@cache
def _catalogue() -> _Catalogue:
    return _Catalogue.model_validate_json(files("growbin").joinpath("data/models.json").read_bytes())
