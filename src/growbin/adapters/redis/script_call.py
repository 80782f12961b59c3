"""A call to the progress log's script, which may be made more than once."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from pydantic_core import to_json

from growbin.adapters.redis import keys

_OF_A_JOB = (keys.progress, keys.events, keys.result, keys.lease, keys.attempts, keys.answer)


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """About one job. Of the parameters those that are None are not told."""

    operation: str
    job_id: UUID
    shared_keys: Sequence[str]
    parameters: Mapping[str, object]
    at: float = field(default_factory=time.monotonic)

    @property
    def keys(self) -> list[str]:
        return [*(key(str(self.job_id)) for key in _OF_A_JOB), *self.shared_keys]

    def as_json(self) -> bytes:
        """The parameters, with a nonce of its own each time, and an epoch should one be needed."""
        drawn = secrets.token_hex(10)
        told = {about: value for about, value in self.parameters.items() if value is not None}
        return to_json({"job_id": str(self.job_id), "nonce": drawn[:8], "epoch": drawn[8:], **told})
