"""What people say of an answer: counted, and kept of nobody."""

from __future__ import annotations

import json

from aiohttp import web
from pydantic import BaseModel, ConfigDict, model_validator

from growbin.errors import Rejected
from growbin.gateway.bodies import read_body
from growbin.gateway.context import GATEWAY
from growbin.gateway.owned_job import find_job
from growbin.job import JobState, Stage
from growbin.taxonomy import Category, Material
from growbin.telemetry import metrics


class Feedback(BaseModel):
    """`category` and `material` say what it is instead; they go with `right: false`."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"right": True}, {"right": False, "category": "recyclable", "material": "film"}]
        },
    )

    right: bool
    category: Category | None = None
    material: Material | None = None

    @model_validator(mode="after")
    def _does_not_contradict_itself(self) -> Feedback:
        if self.right and (self.category or self.material):
            raise ValueError("`category` and `material` go with `right: false`")
        if self.material and not self.category:
            raise ValueError("`material` goes with a `category`")
        return self

    @property
    def verdict(self) -> str:
        if self.right:
            return "right"
        return "corrected" if self.category else "wrong"


async def give_feedback(request: web.Request) -> web.Response:
    """`POST /api/v1/waste/jobs/{job_id}/feedback`: the first counts, a repetition changes nothing."""
    job = await find_job(request)
    said = await read_body(request, Feedback)
    if job.stage is not Stage.DONE or job.state is None:
        raise Rejected("not_done", "Only an answer can be right or wrong: wait until the job is done.")
    # The mark comes first: who dies between mark and count has lost a number, and counts nothing twice.
    if await request.app[GATEWAY].progress.mark_feedback(job.job_id):
        # No log line: it would join the job with what was said.
        metrics.feedback.labels(verdict=said.verdict, certainty=_certainty(job.state)).inc()
    return web.Response(status=204)


def _certainty(state: JobState) -> str:
    """What the answer had said of itself; an earlier version wrote only whether it was sure."""
    result = json.loads(state.entry.data).get("result") or {}
    certainty = result.get("certainty") or ("sure" if result.get("sure") else "unsure")
    return certainty if certainty in ("sure", "probable") else "unsure"
