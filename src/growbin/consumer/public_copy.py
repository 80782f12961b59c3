"""The public copy of a job that ended without a result: withdrawn by whoever has its delivery in hand."""

from __future__ import annotations

from growbin.job import Job
from growbin.ports import Endings, UploadStore

ENDS_WITHOUT_PHOTO = ("failed", "cancelled", "expired")


async def withdraw_unless_done(job: Job, progress: Endings, uploads: UploadStore) -> None:
    """Remove what another start may have put there, or this one. A job that goes on keeps it, and so does one
    whose end cannot be read. Raises Unavailable: then the delivery must come again."""
    state = await progress.state(job.job_id)
    if state is not None and state.is_erased:
        # Its deletion must find the photo, or it would not know that the CDN may have it, too.
        if await uploads.look(job.public_key) is not None:
            await progress.erase(job.job_id, state.owner)
    elif state is None or (state.is_readable and state.entry.event in ENDS_WITHOUT_PHOTO):
        await uploads.delete(job.public_key)
