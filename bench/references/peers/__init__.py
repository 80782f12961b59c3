"""The naive job on other people's consumers, in an environment of their own: requirements.txt beside this."""

from __future__ import annotations

import uuid


def new_job() -> dict[str, str]:
    job_id = str(uuid.uuid4())
    return {"job_id": job_id, "key": f"incoming/{job_id}"}
