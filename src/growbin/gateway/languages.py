"""Which of our languages a client reads. Pure."""

from __future__ import annotations

from growbin.job import Locale


def preferred_locale(accept_language: str) -> Locale:
    """The better liked of our languages in an Accept-Language header; Korean when neither is named."""
    liked: dict[str, float] = {}
    for choice in accept_language.split(","):
        tag, _, quality = choice.partition(";")
        language = tag.strip().lower().partition("-")[0]
        try:
            weight = float(quality.strip().removeprefix("q=") or 1)
        except ValueError:
            continue
        liked[language] = max(weight, liked.get(language, 0))
    return "en" if liked.get("en", 0) > liked.get("ko", 0) else "ko"


def problem_locale(accept_language: str | None) -> Locale:
    """Of a problem: English for programs, which name no language."""
    return preferred_locale(accept_language) if accept_language else "en"
