"""Dead letters for people, on fakes: what is driven again, what is refused, what is written down."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import uuid4

import pytest

from growbin.commands.dead_letters import LetterParts, Selection, change_letters, list_letters, show_letters
from growbin.job import Failure, Job, job_of
from growbin.ports import Letter
from tests.fakes import Clock, FakeDeadLetters, FakeJobQueue, FakeJobRecords, FakeProgressLog, FakeUploadStore
from tests.jobs import upload

FAILURE = Failure(code="internal", detail="", retryable=True)


@dataclass
class Desk:
    letters: FakeDeadLetters = field(default_factory=FakeDeadLetters)
    records: FakeJobRecords = field(default_factory=lambda: FakeJobRecords(Clock()))
    progress: FakeProgressLog = field(default_factory=lambda: FakeProgressLog(Clock()))
    uploads: FakeUploadStore = field(default_factory=FakeUploadStore)
    queue: FakeJobQueue = field(default_factory=FakeJobQueue)
    said: list[str] = field(default_factory=list)

    @property
    def parts(self) -> LetterParts:
        return LetterParts(
            self.records, self.progress, self.uploads, self.queue, 300, "operator", self.letters
        )

    async def keep(self, *, with_photo: bool = True, failed: bool = True) -> Job:
        """A job that failed and whose letter lies here."""
        job_id = uuid4()
        key = f"incoming/{job_id}"
        self.uploads.put(key, b"photo")
        etag = self.uploads.objects[key].etag
        if not with_photo:
            await self.uploads.delete(key)
        record = upload(job_id=job_id, key=key, etag=etag, length=5, published=True)
        self.records.uploads[job_id] = record
        job = job_of(record)
        await self.progress.queue_job(job)
        if failed:
            await self.progress.finish(job, None, FAILURE)
        self.letters.kept.append(Letter(job_id, "rejected", "internal", None, b"{}"))
        return job


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_failed_job_with_its_photo_is_driven_again(desk: Desk) -> None:
    """A new run is published and the letter removed."""
    job = await desk.keep()
    assert await change_letters(desk.parts, Selection(job.job_id), "redrive", desk.said.append) == 0
    assert [event.run for event in desk.queue.published] == [2]
    assert desk.letters.kept == []


async def test_redrive_without_the_photo_is_refused_and_says_so(desk: Desk) -> None:
    """When the upload has gone nothing is reopened and the letter stays."""
    job = await desk.keep(with_photo=False)
    assert await change_letters(desk.parts, Selection(job.job_id), "redrive", desk.said.append) == 1
    assert "photo is gone" in desk.said[0]
    assert desk.letters.kept
    assert not desk.queue.published


async def test_redrive_without_the_record_is_refused_and_says_so(desk: Desk) -> None:
    """The letter holds no event: after a day nothing is left from which the job could run."""
    job = await desk.keep()
    del desk.records.uploads[job.job_id]
    assert await change_letters(desk.parts, Selection(job.job_id), "redrive", desk.said.append) == 1
    assert "record is gone" in desk.said[0]
    assert desk.letters.kept


async def test_redrive_of_a_job_that_did_not_fail_is_refused(desk: Desk) -> None:
    """A job that is still under way is left alone."""
    job = await desk.keep(failed=False)
    assert await change_letters(desk.parts, Selection(job.job_id), "redrive", desk.said.append) == 1
    assert "queued" in desk.said[0]


async def test_redrive_after_a_lost_publish_names_the_same_run(desk: Desk) -> None:
    """A redrive that died before its publish was confirmed is repeated without a third run."""
    job = await desk.keep()
    await desk.progress.reopen(job, 300)
    assert await change_letters(desk.parts, Selection(job.job_id), "redrive", desk.said.append) == 0
    assert [event.run for event in desk.queue.published] == [2]


async def test_unreadable_letter_can_be_shown_and_dropped_but_not_driven(desk: Desk) -> None:
    """A body that is no event is for people only."""
    desk.letters.kept.append(Letter(None, "rejected", None, None, b"\xff"))
    assert await show_letters(desk.parts, Selection(), desk.said.append) == 0
    assert await change_letters(desk.parts, Selection(), "redrive", desk.said.append) == 1
    assert await change_letters(desk.parts, Selection(reason="rejected"), "drop", desk.said.append) == 0
    assert desk.letters.kept == []


async def test_selection_includes_only_what_it_names(desk: Desk) -> None:
    """By job and by reason; what does not fit is neither listed nor touched."""
    first, second = await desk.keep(), await desk.keep()
    assert await list_letters(desk.parts, Selection(first.job_id), desk.said.append) == 0
    assert str(second.job_id) not in "".join(desk.said)
    assert await change_letters(desk.parts, Selection(reason="expired"), "drop", desk.said.append) == 1
    assert len(desk.letters.kept) == 2
