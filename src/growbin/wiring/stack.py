"""`growbin stack`: the local parts, our model's name, and one question to a model that is not ours."""

from __future__ import annotations

from pathlib import Path

from growbin.config import BadSetting, load_settings
from growbin.embedded_model.server import MODEL_ID
from growbin.local.stack import run

MODEL_SECONDS = 20.0


def run_stack(*, data: Path, port: int, parts_only: bool, env_file: Path | None) -> int:
    """Returns the exit status."""
    return run(
        data=data,
        port=port,
        parts_only=parts_only,
        env_file=env_file,
        model_id=MODEL_ID,
        look_at_model=look_at_model,
    )


async def look_at_model() -> str:
    """Ask the model that the environment names once, and say how it was; a refused key is told here, before
    anybody has waited for it."""
    from growbin.adapters.model.checkup import use_model
    from growbin.capabilities import EffortRefused
    from growbin.commands import doctor

    try:
        settings = load_settings()
        facts = await use_model(
            api_key=settings.openai_api_key.get_secret_value(),
            base_url=settings.openai_base_url,
            model=settings.openai_model,
            wishes=settings.call_wishes,
            timeout_seconds=min(settings.model_timeout_seconds, MODEL_SECONDS),
        )
    except BadSetting as error:
        return f"model        not asked: {error}"
    except EffortRefused as error:
        [finding] = doctor.judge_effort(str(error))
    else:
        [finding] = doctor.judge_model(facts)
    if finding.grade == "ok":
        return f"model        {finding.text}"
    return f"model        NO PHOTO WILL BE ANSWERED: {finding.text}. {finding.advice}, then start again."
