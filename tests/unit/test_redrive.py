"""Jobs that an outage ended are driven again, on fakes: which are meant, what is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from growbin.commands.redrive import EndedSelection, RedriveParts, redrive, since
from growbin.errors import Unavailable
from growbin.job import Job, ModelAnswer, Upload, job_of
from growbin.messages import failure
from growbin.ports import Started
from tests.fakes import Clock, FakeJobQueue, FakeJobRecords, FakeProgressLog, FakeUploadStore

CLOCK = Clock()


@dataclass
class Desk:
    records: FakeJobRecords = field(default_factory=lambda: FakeJobRecords(CLOCK))
    progress: FakeProgressLog = field(default_factory=lambda: FakeProgressLog(CLOCK))
    uploads: FakeUploadStore = field(default_factory=FakeUploadStore)
    queue: FakeJobQueue = field(default_factory=FakeJobQueue)
    said: list[str] = field(default_factory=list)

    async def accepted(self) -> Job:
        """A job with its record and photo, as upload-complete leaves it."""
        job_id, now_ms = uuid4(), CLOCK.now_ms()
        key = f"incoming/{job_id}.jpg"
        self.uploads.put(key, b"photo")
        upload = Upload(
            job_id=job_id,
            owner="a" * 64,
            key=key,
            image_url="https://cdn.test/a.jpg",
            created_at_ms=now_ms,
            ticket_expires_at_ms=now_ms + 300_000,
            etag=self.uploads.objects[key].etag,
            length=5,
            accepted_at_ms=now_ms,
            deadline_ms=now_ms + 300_000,
            published=True,
        )
        self.records.uploads[job_id] = upload
        job = job_of(upload)
        await self.progress.queue_job(job)
        return job

    async def failed(self, code: str = "temporarily_unavailable") -> Job:
        job = await self.accepted()
        await self.progress.finish(job, None, failure(code, "ko"))
        return job

    async def expired(self) -> Job:
        job = await self.accepted()
        CLOCK.advance(301)
        assert await self.progress.expire_if_due(job)
        return job

    async def redrive(self, selection: EndedSelection, *, is_dry: bool = False) -> int:
        parts = RedriveParts(self.records, self.progress, self.uploads, self.queue, 300, "operator")
        return await redrive(parts, selection, self.said.append, is_dry=is_dry)

    @property
    def driven(self) -> set[tuple[UUID, int]]:
        return {(job.job_id, job.run) for job in self.queue.published}


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_jobs_of_one_code_are_driven_again(desk: Desk) -> None:
    """Those, and no others; each begins its second run."""
    away = [await desk.failed() for _ in range(3)]
    await desk.failed("unsupported_photo")
    assert await desk.redrive(EndedSelection(code="temporarily_unavailable")) == 0
    assert desk.driven == {(job.job_id, 2) for job in away}
    assert desk.said[-1] == "3 of 3 were driven again"


async def test_job_that_expired_after_it_was_accepted_is_driven_again(desk: Desk) -> None:
    """It never had a letter."""
    job = await desk.expired()
    assert await desk.redrive(EndedSelection(code="expired")) == 0
    assert desk.driven == {(job.job_id, 2)}


async def test_ticket_that_nobody_used_is_no_job(desk: Desk) -> None:
    """There is nothing to drive."""
    job = await desk.expired()
    upload = desk.records.uploads[job.job_id]
    desk.records.uploads[job.job_id] = upload.model_copy(update={"published": False})
    assert await desk.redrive(EndedSelection(code="expired")) == 1
    assert (desk.driven, desk.said) == (set(), ["0 of 0 were driven again"])


async def test_only_jobs_that_ended_in_the_time_are_meant(desk: Desk) -> None:
    """What ended earlier stays ended."""
    await desk.failed()
    CLOCK.advance(3600)
    late = await desk.failed()
    begin = datetime.fromtimestamp(CLOCK.now_ms() / 1000, UTC) - timedelta(minutes=30)
    assert await desk.redrive(EndedSelection(since=begin)) == 0
    assert desk.driven == {(late.job_id, 2)}


async def test_dry_run_changes_nothing_and_says_what_would_be(desk: Desk) -> None:
    """Also what would be refused; nothing is done, so nothing stands in the audit."""
    job, without_photo = await desk.failed(), await desk.failed()
    await desk.uploads.delete(without_photo.key)
    with capture_logs() as logs:
        assert await desk.redrive(EndedSelection(code="temporarily_unavailable"), is_dry=True) == 1
    assert not logs
    assert desk.driven == set()
    said = "\n".join(desk.said)
    assert f"{job.job_id}  temporarily_unavailable" in said
    assert "would be driven again" in said
    assert "photo is gone" in said
    assert desk.said[-1] == "1 of 2 can be driven again"


async def test_done_and_cancelled_jobs_are_left_alone(desk: Desk) -> None:
    """Whatever is asked for."""
    job = await desk.accepted()
    assert await desk.progress.cancel(job.job_id)
    assert await desk.redrive(EndedSelection(job_id=job.job_id)) == 1
    assert desk.driven == set()


async def test_job_whose_new_run_could_not_be_published_is_driven_again_by_its_id(desk: Desk) -> None:
    """The broker went away in between: it has no end any more; the command repeated names the same run."""
    job = await desk.failed()
    desk.queue.is_away = True
    with pytest.raises(Unavailable):
        await desk.redrive(EndedSelection(code="temporarily_unavailable"))
    desk.queue.is_away = False
    assert desk.said[-1].endswith(f"repeat with --job {job.job_id}")
    assert await desk.redrive(EndedSelection(job_id=job.job_id)) == 0
    assert desk.driven == {(job.job_id, 2)}
    assert desk.said[-1] == "1 of 1 were driven again"


async def test_job_whose_record_or_photo_is_gone_is_refused(desk: Desk) -> None:
    """Both are kept for a day; the photo must be the one that was accepted."""
    gone, replaced = await desk.failed(), await desk.failed()
    del desk.records.uploads[gone.job_id]
    desk.uploads.put(replaced.key, b"another")
    assert await desk.redrive(EndedSelection(code="temporarily_unavailable")) == 1
    assert desk.driven == set()
    assert any("record is gone" in line for line in desk.said)
    assert any("photo was replaced" in line for line in desk.said)


@pytest.mark.parametrize(("text", "is_kept"), [('{"items": []}', True), ("I am no JSON", False)])
async def test_kept_answer_is_used_again_only_if_it_is_one(desk: Desk, text: str, is_kept: bool) -> None:
    """What was paid for is not paid for again; what failed the job would fail it again."""
    job = await desk.accepted()
    await desk.progress.keep_answer(job, 1, ModelAnswer(text=text), "c1")
    await desk.progress.finish(job, None, failure("model_answer_invalid", "ko"))
    assert await desk.redrive(EndedSelection(job_id=job.job_id)) == 0
    start = await desk.progress.begin(desk.queue.published[0], alone=False, call_id="a")
    assert isinstance(start, Started)
    assert (start.answer is not None) is is_kept


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("2h", timedelta(hours=2)),
        ("1d", timedelta(days=1)),
    ],
)
def test_time_is_told_by_number_and_unit(text: str, before: timedelta) -> None:
    """As people write it."""
    now = datetime(2026, 1, 2, tzinfo=UTC)
    assert since(text, now) == now - before


@pytest.mark.parametrize("text", ["", "2", "h", "-1h", "2 h", "2w", "1e3s"])
def test_other_times_are_refused(text: str) -> None:
    """With what would be right."""
    with pytest.raises(ValueError, match="as in 90s"):
        since(text, datetime.now(UTC))
