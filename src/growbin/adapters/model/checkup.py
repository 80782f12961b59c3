"""What `growbin doctor` measures of the model, and until when its provider keeps it."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from growbin.adapters.model.analyst import OPENAI_URL, PROBE_QUESTION, OpenAIAnalyst, nobodys_photo
from growbin.capabilities import CallWishes
from growbin.errors import JobFailed, Throttled, Unavailable
from growbin.measurements import ModelFacts
from growbin.nearby import is_nearby

LISTING_SECONDS = 4.0


async def use_model(
    *, api_key: str, base_url: str | None, model: str, wishes: CallWishes, timeout_seconds: float
) -> ModelFacts:
    """Ask about a small grey square: the same call as for a photo, for about the hundredth part of a cent.
    Raises EffortRefused."""
    async with OpenAIAnalyst.open(
        api_key=api_key, base_url=base_url, model=model, wishes=wishes, timeout_seconds=timeout_seconds
    ) as analyst:
        try:
            answer = await analyst.ask(nobodys_photo(), PROBE_QUESTION, "en")
        except Throttled as error:
            return ModelFacts(model, problem=error.reason, is_broken=error.broken)
        except JobFailed as error:
            return ModelFacts(model, problem=str(error), is_broken=True)
        except Unavailable as error:
            return ModelFacts(model, problem=error.reason)
    tokens = answer.usage.input_tokens + answer.usage.output_tokens
    return ModelFacts(answer.model, answer.analyse_ms, tokens)


async def read_shutdown_date(*, api_key: str, base_url: str | None, model: str) -> date | None:
    """When the model goes, by its provider's list; None where that does not tell. To ask costs nothing."""
    models_url = f"{base_url or OPENAI_URL}/models"
    headers = {"Authorization": f"Bearer {api_key or 'none'}"}
    # Through the same proxy as the calls of the model, or none.
    through_proxy = not is_nearby(base_url)
    async with aiohttp.ClientSession(headers=headers, trust_env=through_proxy) as session:
        try:
            async with asyncio.timeout(LISTING_SECONDS):
                entry = await _read_object(session, f"{models_url}/{quote(model, safe='')}")
                if entry is None:
                    listed = (await _read_object(session, models_url) or {}).get("data")
                    entries = listed if isinstance(listed, list) else []
                    named = (one for one in entries if isinstance(one, dict) and one.get("id") == model)
                    entry = next(named, {})
        except TimeoutError:
            return None
    return _day(entry.get("shutdown_date"))


async def _read_object(session: aiohttp.ClientSession, url: str) -> dict[str, Any] | None:
    """The JSON object that is served there, if one is."""
    try:
        async with session.get(URL(url, encoded=True), allow_redirects=False) as answer:
            body = await answer.json(content_type=None) if answer.status == 200 else None
    except (aiohttp.ClientError, ValueError):
        return None
    return body if isinstance(body, dict) else None


def _day(told: object) -> date | None:
    """Told as 2027-01-14, as an RFC 3339 time, or in seconds since 1970."""
    try:
        if isinstance(told, str) and not re.fullmatch(r"\d{9,}(\.\d+)?", told):
            moment = datetime.fromisoformat(told)
            return moment.astimezone(UTC).date() if moment.tzinfo else moment.date()
        if isinstance(told, str | int | float) and not isinstance(told, bool):
            return datetime.fromtimestamp(float(told), UTC).date()
    except (ValueError, OverflowError, OSError):
        pass
    return None
